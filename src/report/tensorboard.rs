//! Scalars for TensorBoard.

use std::fs::{self, File};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Once;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tensorboard_rs::summary_writer::SummaryWriter;

use super::event_files::{self, EventFile};
use super::{Event, LogMark, ReportError, Sink};

/// Writes the scalars of a run to an event file, at the global step.
///
/// | tag | from |
/// |---|---|
/// | `loss/task`, `loss/distillation`, `loss/budget` | [`Event::Step`] |
/// | `train/top1` (percent), `speed/images_per_second` | [`Event::Step`] |
/// | `learning_rate/weights`, `learning_rate/quantizers` | [`Event::Step`] |
/// | `bits/fixed_length`, `bits/budget` (per value), `bits/multiplier` | [`Event::Step`] |
/// | `bits/site/<name>` (per value) | [`Event::Widths`] |
/// | `validation/top1` (percent), `validation/loss` | [`Event::Evaluated`] |
///
/// A value that the event doesn't have is left out. A run that goes on from a checkpoint cuts the event files off where that
/// was taken, and adds a further one to the folder, which TensorBoard reads as one log.
pub struct TensorBoard {
    folder: PathBuf,
    /// None once the file can't be written any more.
    writer: Option<SummaryWriter>,
    /// The writer's file.
    file: EventFile,
    /// Records of earlier parts of this run.
    before: u64,
    /// Records that the writer was given.
    given: u64,
}

/// How long the writer's thread may take to write what it was given.
const PATIENCE: Duration = Duration::from_secs(60);

impl TensorBoard {
    /// Creates the folder and an event file in it.
    ///
    /// # Errors
    /// [`ReportError::Write`] if the folder can't be created or written.
    pub fn open(folder: &Path) -> Result<TensorBoard, ReportError> {
        TensorBoard::open_at(folder, u64::MAX)
    }

    /// Like [`Self::open`], but keeps no more than the first `records` of what is there: what was told after the checkpoint
    /// that a run goes on from will be told again.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(folder: &Path, records: u64) -> Result<TensorBoard, ReportError> {
        fs::create_dir_all(folder).map_err(ReportError::write(folder))?;
        // The writer panics where it can't create its file, so whether files can be created here is found out before.
        let probe = folder.join(format!(".probe-{}", process::id()));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(ReportError::write(folder))?;
        let before = event_files::keep(folder, records).map_err(ReportError::write(folder))?;
        let existing = event_files::list(folder).map_err(ReportError::read(folder))?;
        await_a_later_second(&existing);
        silence_the_writer();
        let stopped = || ReportError::TensorBoardStopped { folder: folder.to_path_buf() };
        let writer = catch_unwind(|| SummaryWriter::new(folder)).map_err(|_| stopped())?;
        // The writer's thread makes the file.
        let file = patiently(|| {
            let files = event_files::list(folder).ok()?;
            EventFile::open(files.iter().find(|path| !existing.contains(path))?).ok()
        });
        let file = file.ok_or_else(stopped)?;
        Ok(TensorBoard { folder: folder.to_path_buf(), writer: Some(writer), file, before, given: 0 })
    }

    /// Hands over the values that are there. The writer's thread ends at its first failed write, and the writer then panics at the
    /// next value; that is the only way it has to tell.
    fn scalars(&mut self, step: u64, scalars: &[(&str, Option<f64>)]) -> Result<(), ReportError> {
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        let Some(writer) = &mut self.writer else {
            return Err(self.stopped());
        };
        let written = catch_unwind(AssertUnwindSafe(|| {
            for (tag, value) in scalars {
                if let Some(value) = value {
                    writer.add_scalar(tag, *value as f32, step);
                    self.given += 1;
                }
            }
            writer.flush();
        }));
        if written.is_err() {
            let _ = self.close();
            return Err(self.stopped());
        }
        Ok(())
    }

    /// Waits until everything is written; the writer panics in its destructor if something was not.
    fn close(&mut self) -> Result<(), ReportError> {
        let writer = self.writer.take();
        catch_unwind(AssertUnwindSafe(|| drop(writer))).map_err(|_| self.stopped())
    }

    fn stopped(&self) -> ReportError {
        ReportError::TensorBoardStopped { folder: self.folder.clone() }
    }
}

/// Names of event files begin with a second: the next one must neither replace one of these nor sort before it.
fn await_a_later_second(existing: &[PathBuf]) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    // Files of a clock that goes ahead are no reason to wait for long.
    let latest = existing.iter().filter_map(|path| event_files::second(path)).filter(|&second| second <= now()).max();
    while latest.is_some_and(|latest| now() <= latest) {
        sleep(Duration::from_millis(10));
    }
}

/// Asks again and again until there is something.
fn patiently<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        match ask() {
            None if began.elapsed() < PATIENCE => sleep(Duration::from_millis(1)),
            found => return found,
        }
    }
}

/// Keeps the writer's panics off the screen: they are caught and become errors. All other panics are told as before.
fn silence_the_writer() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map_or("", |location| location.file());
            if !place.ends_with("event_file_writer.rs") {
                tell(panic);
            }
        }));
    });
}

impl Sink for TensorBoard {
    fn event(&mut self, event: &Event) -> Result<(), ReportError> {
        match event {
            Event::Step {
                step,
                loss,
                top1,
                learning_rate,
                quantizer_learning_rate,
                bits,
                budget_bits,
                multiplier,
                images_per_second,
                ..
            } => self.scalars(
                *step,
                &[
                    ("loss/task", Some(loss.task)),
                    ("loss/distillation", loss.distillation),
                    ("loss/rate", loss.rate),
                    ("loss/budget", loss.budget),
                    ("train/top1", Some(*top1)),
                    ("learning_rate/weights", Some(*learning_rate)),
                    ("learning_rate/quantizers", *quantizer_learning_rate),
                    ("bits/fixed_length", *bits),
                    ("bits/budget", *budget_bits),
                    ("bits/multiplier", *multiplier),
                    ("speed/images_per_second", Some(*images_per_second)),
                ],
            ),
            Event::Widths { step, sites } => {
                let tags: Vec<String> = sites.iter().map(|site| format!("bits/site/{}", site.name)).collect();
                let scalars: Vec<(&str, Option<f64>)> =
                    tags.iter().zip(sites).map(|(tag, site)| (tag.as_str(), Some(site.bits_per_value))).collect();
                self.scalars(*step, &scalars)
            }
            Event::Evaluated { step, top1, loss, .. } => {
                self.scalars(*step, &[("validation/top1", Some(*top1)), ("validation/loss", Some(*loss))])
            }
            _ => Ok(()),
        }
    }

    fn mark(&mut self, mark: &mut LogMark) -> Result<(), ReportError> {
        let (given, file) = (self.given, &mut self.file);
        let Some(writer) = &mut self.writer else { return Err(self.stopped()) };
        let written = patiently(|| match file.written() {
            Ok(written) if written >= given => Some(Ok(true)),
            // A thread that has ended takes nothing more.
            Ok(_) => catch_unwind(AssertUnwindSafe(|| writer.flush())).is_err().then_some(Ok(false)),
            Err(error) => Some(Err(error)),
        });
        match written.unwrap_or(Ok(false)) {
            Ok(true) => self.file.sync().map_err(ReportError::write(&self.folder))?,
            Ok(false) => return Err(self.stopped()),
            Err(error) => return Err(ReportError::write(&self.folder)(error)),
        }
        mark.tensorboard_records = self.before + given;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ReportError> {
        self.close()
    }
}

impl Drop for TensorBoard {
    /// A run that ends in an error may not end in a panic as well.
    fn drop(&mut self) {
        let _ = self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::events::samples::*;
    use super::*;

    /// The records of a TFRecord file. Framing: length (u64, little-endian), masked CRC-32C of those 8 bytes, the data, masked
    /// CRC-32C of the data.
    fn records(bytes: &[u8]) -> Vec<&[u8]> {
        let mut rest = bytes;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (head, after) = rest.split_at(12);
            let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
            assert_eq!(head[8..], masked_crc32c(&head[..8]).to_le_bytes());
            let (data, after) = after.split_at(length);
            let (crc, after) = after.split_at(4);
            assert_eq!(crc, masked_crc32c(data).to_le_bytes());
            records.push(data);
            rest = after;
        }
        records
    }

    /// CRC-32C bit by bit, so that the writer's own table isn't taken on trust.
    fn masked_crc32c(data: &[u8]) -> u32 {
        let crc = !data.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
        });
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }

    /// The scalar of an event: global step, tag, value. Protocol-buffer fields: Event.step = 2, Event.summary = 5,
    /// Summary.value = 1, Value.tag = 1, Value.simple_value = 2.
    fn scalar(record: &[u8]) -> Option<(u64, String, f32)> {
        let summary = field(record, 5)?;
        let value = field(&summary, 1)?;
        let step = field(record, 2).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        let tag = String::from_utf8(field(&value, 1)?).unwrap();
        let number = f32::from_le_bytes(field(&value, 2)?.try_into().unwrap());
        Some((step, tag, number))
    }

    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    /// The bytes of a message's field; a varint's as a little-endian u64.
    fn field(message: &[u8], wanted: u64) -> Option<Vec<u8>> {
        let mut rest = message;
        while !rest.is_empty() {
            let key = varint(&mut rest);
            let content = match key & 7 {
                0 => varint(&mut rest).to_le_bytes().to_vec(),
                wire => {
                    let length = match wire {
                        1 => 8,
                        2 => varint(&mut rest) as usize,
                        _ => 4,
                    };
                    let (content, after) = rest.split_at(length);
                    rest = after;
                    content.to_vec()
                }
            };
            if key >> 3 == wanted {
                return Some(content);
            }
        }
        None
    }

    fn scalars(folder: &Path) -> Vec<(u64, String, f32)> {
        let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        scalars_of(&files[0])
    }

    fn scalars_of(file: &Path) -> Vec<(u64, String, f32)> {
        let bytes = fs::read(file).unwrap();
        let records = records(&bytes);
        assert_eq!(field(records[0], 3).unwrap(), b"brain.Event:2");
        records[1..].iter().map(|record| scalar(record).unwrap()).collect()
    }

    #[test]
    fn the_event_file_holds_every_scalar_at_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("runs/tensorboard");
        let mut board = TensorBoard::open(&folder).unwrap();
        board.event(&stage_started(300)).unwrap();
        board.event(&step(200, 300, 0.5)).unwrap();
        board
            .event(&Event::Widths { step: 1250, sites: vec![site("layer1.0.relu", &[4], "none", vec![group(4, 3)])] })
            .unwrap();
        board
            .event(&Event::Evaluated {
                step: 1300,
                stage: "search".to_owned(),
                top1: 92.5,
                loss: f64::NAN,
                images: 1000,
                bits: None,
            })
            .unwrap();
        board.finish().unwrap();

        let read = scalars(&folder);
        let tags: Vec<(u64, &str)> = read.iter().map(|(step, tag, _)| (*step, tag.as_str())).collect();
        assert_eq!(
            tags,
            [
                (1200, "loss/task"),
                (1200, "loss/distillation"),
                (1200, "train/top1"),
                (1200, "learning_rate/weights"),
                (1200, "learning_rate/quantizers"),
                (1200, "bits/fixed_length"),
                (1200, "bits/budget"),
                (1200, "bits/multiplier"),
                (1200, "speed/images_per_second"),
                (1250, "bits/site/layer1.0.relu"),
                (1300, "validation/top1"),
                (1300, "validation/loss"),
            ]
        );
        assert_eq!(read[0].2, 0.5);
        assert_eq!(read[9].2, 3.0);
        assert_eq!(read[10].2, 92.5);
        assert!(read[11].2.is_nan());
    }

    #[test]
    fn a_run_that_goes_on_has_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::open(folder.path()).unwrap();
        let mut mark = LogMark::default();
        board.event(&step(1, 9, 0.5)).unwrap();
        board.mark(&mut mark).unwrap();
        board.event(&step(2, 9, 0.5)).unwrap();
        drop(board);
        assert_eq!(mark.tensorboard_records, 9);
        for told in [2, 3] {
            let mut board = TensorBoard::open_at(folder.path(), mark.tensorboard_records).unwrap();
            board.event(&step(told, 9, 0.25)).unwrap();
            board.mark(&mut mark).unwrap();
        }
        assert_eq!(mark.tensorboard_records, 27);
        let read: Vec<_> = event_files::list(folder.path()).unwrap().iter().flat_map(|file| scalars_of(file)).collect();
        let of_loss: Vec<_> = read.iter().filter(|(_, tag, _)| tag == "loss/task").map(|(s, _, v)| (*s, *v)).collect();
        assert_eq!(of_loss, [(1001, 0.5), (1002, 0.25), (1003, 0.25)]);
        assert_eq!(read.len(), 27);
    }

    #[test]
    fn the_file_is_whole_without_a_finish() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::open(folder.path()).unwrap();
        board.event(&step(1, 2, 0.5)).unwrap();
        drop(board);
        assert_eq!(scalars(folder.path()).len(), 9);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_found_out_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for taken in [file.clone(), file.join("below")] {
            let error = TensorBoard::open(&taken).err().unwrap();
            assert!(matches!(&error, ReportError::Write { path, .. } if *path == taken));
        }
    }

    /// A folder that exists and in which nobody, not even root, can create a file.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_read_only_folder_is_found_out_first() {
        let error = TensorBoard::open(Path::new("/proc/self")).err().unwrap();
        assert!(matches!(error, ReportError::Write { .. }), "{error}");
    }

    #[test]
    fn events_after_the_end_are_an_error_not_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::open(folder.path()).unwrap();
        board.finish().unwrap();
        assert!(matches!(board.event(&step(1, 2, 0.5)), Err(ReportError::TensorBoardStopped { .. })));
    }
}
