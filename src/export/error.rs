use std::path::{Path, PathBuf};

use crate::libtorch::LibtorchError;
use crate::report::ReportError;
use crate::train::TrainError;

/// What can go wrong when a run is exported, or an export is verified.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The run.
    #[error(transparent)]
    Run(#[from] TrainError),
    /// libtorch.
    #[error(transparent)]
    Libtorch(#[from] LibtorchError),
    /// The file has no folder to lie in.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The file can't be written.
    #[error("can't write {}: {reason}\n  help: {help}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
        /// What to do.
        help: &'static str,
    },
    /// The file is no export, or a damaged one.
    #[error("can't use {} as an export: {reason}\n  help: {help}", path.display())]
    NotAnExport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        help: &'static str,
    },
    /// The export belongs to something else.
    #[error(
        "{} is an export of another {what}: it has the {key} {found}, the run has {wanted}\n  help: verify it against the run that it was made from, or export this run again",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs: `network` or `run`.
        what: &'static str,
        /// The key of the metadata.
        key: &'static str,
        /// The file's value.
        found: String,
        /// The run's value.
        wanted: String,
    },
    /// The network does what the format has no operator for.
    #[error(
        "the operator `{operator}`{} can't be written as ONNX: {reason}\n  help: export the run with --format torchscript, which carries every operator",
        if place.is_empty() { String::new() } else { format!(" in `{place}`") }
    )]
    Unsupported {
        /// Name of PyTorch's operator.
        operator: String,
        /// Dotted path of the module that it belongs to; empty for the network itself.
        place: String,
        /// What about it can't be written.
        reason: String,
    },
    /// The network isn't the same operations for whatever images.
    #[error("the network can't be written as ONNX: {reason}\n  help: export the run with --format torchscript")]
    Unlistable {
        /// The cause.
        reason: String,
    },
    /// ONNX Runtime is missing.
    #[error(
        "ONNX Runtime, which runs the file, can't be loaded: {reason}\n  help: run `scripts/setup --python` in dimbit's checkout, which puts it into .venv, or let ORT_DYLIB_PATH name its libonnxruntime.so, version 1.17 or later"
    )]
    NoRuntime {
        /// The cause.
        reason: String,
    },
    /// The exported network failed on images of the run.
    #[error("{} failed on images of shape {images:?} ([batch, channels, height, width]): {reason}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// The images' shape.
        images: Vec<i64>,
        /// The cause.
        reason: String,
    },
}

impl ExportError {
    /// What kind of error this is, in a word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Run(error) => error.code(),
            Self::Libtorch(_) => "libtorch",
            Self::Report(error) => error.code(),
            Self::Write { .. } => "not-written",
            Self::NotAnExport { .. } | Self::Failed { .. } => "bad-export",
            Self::Foreign { .. } => "foreign-export",
            Self::Unsupported { .. } | Self::Unlistable { .. } => "no-onnx",
            Self::NoRuntime { .. } => "no-onnx-runtime",
        }
    }

    /// The file that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Write { path, .. }
            | Self::NotAnExport { path, .. }
            | Self::Failed { path, .. }
            | Self::Foreign { path, .. } => Some(path),
            Self::Report(error) => Some(error.path()),
            _ => None,
        }
    }

    /// Whether the input (run, file, path) is to blame rather than the program.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Run(error) => error.is_input(),
            Self::Libtorch(_) => false,
            _ => true,
        }
    }

    pub(super) fn write(path: &Path, reason: impl ToString) -> Self {
        let help = "give another path with --out, in a folder that exists and can be written";
        Self::Write { path: path.to_path_buf(), reason: reason.to_string(), help }
    }
}

impl From<tch::TchError> for ExportError {
    fn from(error: tch::TchError) -> Self {
        Self::Libtorch(error.into())
    }
}
