//! What can go wrong when a run is reported.

use std::io;
use std::path::{Path, PathBuf};

/// A report that could not be written or read; each variant names the file or folder to look at.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or folder can't be created, written or renamed.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file is there, but is no `summary.json` of this program.
    #[error("{} is not the summary of a run: {source}", path.display())]
    NotASummary {
        /// The file.
        path: PathBuf,
        /// The line and column, and what was expected there.
        source: serde_json::Error,
    },
    /// TensorBoard's event file was opened, but can no longer be written.
    #[error(
        "the TensorBoard log in {} can no longer be written; check that the folder still exists and that its disk has space",
        folder.display()
    )]
    TensorBoardStopped {
        /// The folder of the event files.
        folder: PathBuf,
    },
}

impl ReportError {
    /// For `map_err`: a failed write of `path`.
    pub(super) fn write(path: &Path) -> impl Fn(io::Error) -> ReportError + '_ {
        move |source| ReportError::Write { path: path.to_path_buf(), source }
    }

    /// For `map_err`: a failed read of `path`.
    pub(super) fn read(path: &Path) -> impl Fn(io::Error) -> ReportError + '_ {
        move |source| ReportError::Read { path: path.to_path_buf(), source }
    }
}
