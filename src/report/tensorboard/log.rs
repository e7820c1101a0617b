//! The event file: `tensorboard-rs`'s writer, with its panics turned into errors, and how far it has come.

use std::fs::{self, File};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Once;
use std::thread::sleep;
use std::time::{Duration, Instant};

use protobuf::RepeatedField;
use tensorboard_proto::summary::{Summary, Summary_Value};
use tensorboard_rs::summary_writer::FileWriter;

use super::event_files::{self, EventFile};
use crate::report::ReportError;

/// An open event file.
pub(super) struct Log {
    folder: PathBuf,
    /// None once the file can't be written any more.
    writer: Option<FileWriter>,
    /// The writer's file.
    file: EventFile,
    /// Records of earlier parts of this run.
    before: u64,
    /// Records that the writer was given.
    given: u64,
}

/// How long the writer's thread may take to write what it was given.
const PATIENCE: Duration = Duration::from_secs(60);

impl Log {
    /// Creates the folder and an event file in it. Of what is there already, the first `records` are kept.
    ///
    /// # Errors
    /// [`ReportError::Write`] if the folder can't be created or written.
    pub(super) fn open_at(folder: &Path, records: u64) -> Result<Log, ReportError> {
        fs::create_dir_all(folder).map_err(ReportError::write(folder))?;
        // The writer panics where it can't create its file, so whether files can be created here is found out before.
        let probe = folder.join(format!(".probe-{}", process::id()));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(ReportError::write(folder))?;
        let before = event_files::keep(folder, records).map_err(ReportError::write(folder))?;
        let existing = event_files::list(folder).map_err(ReportError::read(folder))?;
        silence_the_writer();
        let stopped = || ReportError::TensorBoardStopped { folder: folder.to_path_buf() };
        let writer = catch_unwind(|| FileWriter::new(folder)).map_err(|_| stopped())?;
        // The writer's thread makes the file.
        let new = patiently(|| event_files::list(folder).ok()?.into_iter().find(|path| !existing.contains(path)));
        let path = event_files::put_last(&new.ok_or_else(stopped)?, &existing).map_err(ReportError::write(folder))?;
        let file = EventFile::open(&path).map_err(ReportError::read(&path))?;
        Ok(Log { folder: folder.to_path_buf(), writer: Some(writer), file, before, given: 0 })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Hands over values as one event. The writer's thread ends at its first failed write, and the writer then panics at the next
    /// value; that is the only way it has to tell.
    ///
    /// # Errors
    /// [`ReportError::TensorBoardStopped`].
    pub(super) fn write(&mut self, step: u64, values: Vec<Summary_Value>) -> Result<(), ReportError> {
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        let Some(writer) = &mut self.writer else {
            return Err(self.stopped());
        };
        if values.is_empty() {
            return Ok(());
        }
        let written = catch_unwind(AssertUnwindSafe(|| {
            let mut summary = Summary::new();
            summary.set_value(RepeatedField::from(values));
            writer.add_summary(summary, step);
            writer.flush();
        }));
        if written.is_err() {
            let _ = self.close();
            return Err(self.stopped());
        }
        self.given += 1;
        Ok(())
    }

    /// Waits until everything given is on the disk. Returns how many records that is, those of earlier parts included.
    ///
    /// # Errors
    /// [`ReportError::TensorBoardStopped`], or [`ReportError::Write`] if the file can't be brought to the disk.
    pub(super) fn written(&mut self) -> Result<u64, ReportError> {
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
        Ok(self.before + given)
    }

    /// Waits until everything is written; the writer panics in its destructor if something was not.
    ///
    /// # Errors
    /// [`ReportError::TensorBoardStopped`].
    pub(super) fn close(&mut self) -> Result<(), ReportError> {
        let writer = self.writer.take();
        catch_unwind(AssertUnwindSafe(|| drop(writer))).map_err(|_| self.stopped())
    }

    fn stopped(&self) -> ReportError {
        ReportError::TensorBoardStopped { folder: self.folder.clone() }
    }
}

impl Drop for Log {
    /// A run that ends in an error may not end in a panic as well.
    fn drop(&mut self) {
        let _ = self.close();
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
