//! The event file: `tensorboard-rs`'s writer, with its panics turned into errors.

use std::fs::{self, File};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Once;

use protobuf::RepeatedField;
use tensorboard_proto::summary::{Summary, Summary_Value};
use tensorboard_rs::summary_writer::FileWriter;

use crate::report::ReportError;

/// An open event file.
pub(super) struct Log {
    folder: PathBuf,
    /// None once the file can't be written any more.
    writer: Option<FileWriter>,
}

impl Log {
    /// Creates the folder and an event file in it.
    ///
    /// # Errors
    /// [`ReportError::Write`] if the folder can't be created or written.
    pub(super) fn open(folder: &Path) -> Result<Log, ReportError> {
        fs::create_dir_all(folder).map_err(ReportError::write(folder))?;
        // The writer panics where it can't create its file, so whether files can be created here is found out before.
        let probe = folder.join(format!(".probe-{}", process::id()));
        File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(ReportError::write(folder))?;
        silence_the_writer();
        let writer = catch_unwind(|| FileWriter::new(folder))
            .map_err(|_| ReportError::TensorBoardStopped { folder: folder.to_path_buf() })?;
        Ok(Log { folder: folder.to_path_buf(), writer: Some(writer) })
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
        Ok(())
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
