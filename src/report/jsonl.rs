//! `metrics.jsonl`: one JSON object per event.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Event, LogMark, ReportError, Sink};

/// Appends every event but [`Event::Progress`] and [`Event::Resumed`] as one line: the event's fields, and `time`, the seconds since the run's start.
///
/// A line is written at once, so whoever reads the file beside the run sees whole lines. A run that was cut off and goes on
/// appends to the same file, and `time` goes on where it stopped.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    started: Instant,
    /// Seconds that earlier parts of this run have already counted.
    before: f64,
}

#[derive(Serialize)]
struct Line<'a> {
    time: f64,
    #[serde(flatten)]
    event: &'a Event,
}

#[derive(Deserialize)]
struct Time {
    time: f64,
}

impl MetricsFile {
    /// Opens the file for appending, or creates it. What follows the last whole line (a write that a kill cut off) is removed.
    ///
    /// # Errors
    /// [`ReportError::Write`] if the file can't be opened for writing, [`ReportError::Read`] if not for reading.
    pub fn open(path: &Path) -> Result<MetricsFile, ReportError> {
        MetricsFile::open_at(path, u64::MAX)
    }

    /// Like [`Self::open`], but keeps no more than the first `bytes`: what was told after the checkpoint that a run goes on
    /// from will be told again.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(path: &Path, bytes: u64) -> Result<MetricsFile, ReportError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(ReportError::write(path))?;
        let mut content = Vec::new();
        (&file).take(bytes).read_to_end(&mut content).map_err(ReportError::read(path))?;
        let whole = content.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(ReportError::write(path))?;
        Ok(MetricsFile {
            path: path.to_path_buf(),
            file,
            started: Instant::now(),
            before: last_time(&content[..whole]),
        })
    }
}

/// The `time` of the last line, 0 if there is none.
fn last_time(lines: &[u8]) -> f64 {
    lines
        .trim_ascii_end()
        .rsplit(|&byte| byte == b'\n')
        .next()
        .and_then(|line| serde_json::from_slice::<Time>(line).ok())
        .map_or(0.0, |line| line.time)
}

impl Sink for MetricsFile {
    fn event(&mut self, event: &Event) -> Result<(), ReportError> {
        if matches!(event, Event::Progress { .. } | Event::Resumed { .. }) {
            return Ok(());
        }
        let seconds = self.before + self.started.elapsed().as_secs_f64();
        let line = Line { time: (seconds * 1e3).round() / 1e3, event };
        let mut text = serde_json::to_vec(&line)
            .map_err(|error| ReportError::Write { path: self.path.clone(), source: error.into() })?;
        text.push(b'\n');
        self.file.write_all(&text).and_then(|()| self.file.flush()).map_err(ReportError::write(&self.path))
    }

    fn mark(&mut self, mark: &mut LogMark) -> Result<(), ReportError> {
        self.file.sync_all().map_err(ReportError::write(&self.path))?;
        mark.metrics_bytes = self.file.stream_position().map_err(ReportError::write(&self.path))?;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ReportError> {
        self.file.sync_all().map_err(ReportError::write(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::events::samples::*;
    use super::super::summary::samples::summary;
    use super::*;
    use serde_json::Value;
    use std::fs;

    fn lines(path: &Path) -> Vec<Value> {
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn warning(message: &str) -> Event {
        Event::Warning { message: message.to_owned() }
    }

    #[test]
    fn events_are_lines_at_once_and_progress_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = MetricsFile::open(&path).unwrap();
        let progress =
            Event::Progress { stage: "calibrate".to_owned(), done: 1, total: 2, what: "measuring".to_owned() };
        metrics.event(&step(3, 10, 0.5)).unwrap();
        metrics.event(&progress).unwrap();
        metrics.event(&warning("two\nlines")).unwrap();
        // Read before `finish`: nothing may be held back.
        let read = lines(&path);
        assert_eq!(read.len(), 2);
        assert_eq!(read[0]["event"], "step");
        assert_eq!(read[0]["step"], 1003);
        assert!(read[0]["time"].as_f64().unwrap() >= 0.0);
        assert_eq!(read[1]["message"], "two\nlines");
        let finished = Event::Finished { summary: Box::new(summary()) };
        metrics.event(&finished).unwrap();
        metrics.finish().unwrap();
        assert_eq!(lines(&path)[2]["summary"]["mode"], "joint");
    }

    #[test]
    fn a_loss_that_is_not_a_number_is_null() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = MetricsFile::open(&path).unwrap();
        metrics.event(&step(1, 2, f64::NAN)).unwrap();
        metrics.event(&step(2, 2, f64::INFINITY)).unwrap();
        for line in lines(&path) {
            assert!(line["loss"]["task"].is_null());
            assert_eq!(line["loss"]["distillation"], 0.25);
        }
    }

    #[test]
    fn a_resumed_run_goes_on_after_the_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, "{\"time\":12.5,\"event\":\"warning\",\"message\":\"a\"}\n{\"time\":13.0,\"eve").unwrap();
        let mut metrics = MetricsFile::open(&path).unwrap();
        metrics.event(&warning("b")).unwrap();
        let read = lines(&path);
        assert_eq!(read.len(), 2);
        assert_eq!(read[0]["message"], "a");
        assert_eq!(read[1]["message"], "b");
        let time = read[1]["time"].as_f64().unwrap();
        assert!((12.5..13.0).contains(&time), "{time}");
    }

    #[test]
    fn what_follows_a_mark_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = MetricsFile::open(&path).unwrap();
        let mut mark = LogMark::default();
        metrics.event(&warning("a")).unwrap();
        metrics.mark(&mut mark).unwrap();
        metrics.event(&warning("told again")).unwrap();
        drop(metrics);
        let mut metrics = MetricsFile::open_at(&path, mark.metrics_bytes).unwrap();
        metrics.event(&warning("b")).unwrap();
        let messages: Vec<_> = lines(&path).iter().map(|line| line["message"].clone()).collect();
        assert_eq!(messages, ["a", "b"]);
        drop(MetricsFile::open_at(&path, 0).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = MetricsFile::open(Path::new("/no/such/metrics.jsonl")).unwrap_err();
        assert!(error.to_string().contains("/no/such/metrics.jsonl"));
    }
}
