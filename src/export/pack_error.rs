//! What can keep a run's activations from being packed.

use std::path::{Path, PathBuf};

use super::container::ContainerError;
use crate::libtorch::LibtorchError;
use crate::report::ReportError;
use crate::train::TrainError;

/// Why a run's activations were not packed, or a container is not the run's.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The run could not be opened or carried out.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The run has no codes.
    #[error(
        "{}: a run of the mode `float` has nothing to pack: no site is quantized\n  help: give the folder of a run whose recipe has a stage `calibrate`",
        path.display()
    )]
    NothingToPack {
        /// The run's folder.
        path: PathBuf,
    },
    /// More images than there are.
    #[error(
        "{asked} images are asked for, but the validation split has {there}\n  help: give --images a number from 1 to {there}"
    )]
    Images {
        /// The number asked for.
        asked: usize,
        /// Images of the split.
        there: usize,
    },
    /// A site's values became no codes: they are not finite.
    #[error("site `{site}`, group {group}: {source}")]
    Codes {
        /// The site.
        site: String,
        /// The group.
        group: usize,
        /// What is wrong with the first one.
        source: ContainerError,
    },
    /// The container is damaged, or could not be made.
    #[error("{}: {source}", path.display())]
    Container {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: ContainerError,
    },
    /// A file could not be written.
    #[error(
        "{source}{}",
        if matches!(source, ReportError::NoFolder { .. }) { "" } else { "\n  help: name a file in a folder that can be written with --out" }
    )]
    Write {
        /// The file and the system's reason.
        #[from]
        source: ReportError,
    },
    /// A file can't be read.
    #[error("{}: {source}\n  help: give --check the container that `dimbit pack` wrote", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The container describes other sites, groups or quantizers.
    #[error(
        "{}: {what} is not the run's\n  help: the container was made by another run; pack this one",
        path.display()
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// The first thing that differs.
        what: String,
    },
    /// A code is another one.
    #[error(
        "{}: site `{site}`, group {group}: code {index} is {stored}, the run computes {computed}\n  help: the images, the number of threads or the machine differ from those of the packing; pack the run again",
        path.display()
    )]
    Differs {
        /// The file.
        path: PathBuf,
        /// The site.
        site: String,
        /// The group.
        group: usize,
        /// Number of the code in the group.
        index: usize,
        /// What the container has.
        stored: i16,
        /// What the network computes.
        computed: i16,
    },
}

impl PackError {
    /// What kind of error this is, in a word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Train(error) => error.code(),
            Self::NothingToPack { .. } => "nothing-to-pack",
            Self::Images { .. } => "too-few-images",
            Self::Codes { .. } => "diverged",
            Self::Container { .. } => "bad-container",
            Self::Write { source } => source.code(),
            Self::Read { .. } => "unreadable",
            Self::OtherRun { .. } | Self::Differs { .. } => "other-codes",
        }
    }

    /// The file or folder that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Train(error) => error.path(),
            Self::Write { source } => Some(source.path()),
            Self::NothingToPack { path }
            | Self::Container { path, .. }
            | Self::Read { path, .. }
            | Self::OtherRun { path, .. }
            | Self::Differs { path, .. } => Some(path),
            Self::Images { .. } | Self::Codes { .. } => None,
        }
    }

    /// Whether the input is to blame rather than the machine.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Train(error) => error.is_input(),
            _ => true,
        }
    }
}

impl From<LibtorchError> for PackError {
    fn from(error: LibtorchError) -> Self {
        Self::Train(error.into())
    }
}

impl From<tch::TchError> for PackError {
    fn from(error: tch::TchError) -> Self {
        Self::Train(error.into())
    }
}
