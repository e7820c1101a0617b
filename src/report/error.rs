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
    /// The folder that a file is to lie in isn't there.
    #[error(
        "cannot write {}: there is no folder {}\n  help: make it (`mkdir -p {}`), or name a file in a folder that is there",
        path.display(), folder.display(), folder.display()
    )]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
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
    /// What kind of error this is, in a word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            ReportError::Write { .. } | ReportError::NoFolder { .. } | ReportError::TensorBoardStopped { .. } => {
                "not-written"
            }
            ReportError::Read { .. } => "unreadable",
            ReportError::NotASummary { .. } => "bad-run",
        }
    }

    /// The file or folder that it is about.
    pub fn path(&self) -> &Path {
        match self {
            ReportError::Write { path, .. }
            | ReportError::NoFolder { path, .. }
            | ReportError::Read { path, .. }
            | ReportError::NotASummary { path, .. } => path,
            ReportError::TensorBoardStopped { folder } => folder,
        }
    }

    /// For `map_err`: a failed write of `path`.
    pub(super) fn write(path: &Path) -> impl Fn(io::Error) -> ReportError + '_ {
        move |source| ReportError::Write { path: path.to_path_buf(), source }
    }

    /// For `map_err`: a failed read of `path`.
    pub(super) fn read(path: &Path) -> impl Fn(io::Error) -> ReportError + '_ {
        move |source| ReportError::Read { path: path.to_path_buf(), source }
    }
}
