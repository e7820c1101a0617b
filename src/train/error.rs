use std::path::{Path, PathBuf};

use crate::compress::saved::RestoreError;
use crate::data::DataError;
use crate::libtorch::LibtorchError;
use crate::model::ModelError;
use crate::recipe::Diagnostics;
use crate::report::ReportError;

/// What can end a run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe does not fit the model or the data.
    #[error(transparent)]
    Recipe(#[from] Diagnostics),
    /// The network.
    #[error("{source}{help}")]
    Model {
        /// What is wrong with it.
        source: ModelError,
        /// What to do, as further lines; empty where the error says it.
        help: String,
    },
    /// The data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// libtorch.
    #[error(transparent)]
    Libtorch(#[from] LibtorchError),
    /// What is written could not be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A checkpoint that does not fit the network.
    #[error("{}: {source}", path.display())]
    Restore {
        /// The checkpoint.
        path: PathBuf,
        /// Why it doesn't fit.
        source: RestoreError,
    },
    /// A file of a run's folder is missing or unreadable.
    #[error("{}: {reason}\n  help: {help}", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        help: &'static str,
    },
    /// There is no run where one should be.
    #[error("{} {reason}\n  help: {help}", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// What is missing, as the end of a sentence that begins with the path.
        reason: String,
        /// What to do.
        help: String,
    },
    /// A parameter is not a finite number any more.
    #[error(
        "{parameter} has no finite value after step {step} of the stage `{stage}`\n  help: lower `learning_rate` of that stage"
    )]
    NotFinite {
        /// What it is, such as "parameter `conv.weight`".
        parameter: String,
        /// Step of the stage.
        step: u64,
        /// The stage.
        stage: String,
    },
    /// A checkpoint could not be written.
    #[error(
        "the checkpoint {} can't be written: {reason}\n  help: make room on its disk, or check the folder's permissions; those before it are kept",
        path.display()
    )]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A checkpoint is whole, but not of this network.
    #[error(
        "the checkpoint doesn't fit the network: {reason}\n  help: go on with the program and the model file that it was written with"
    )]
    Unfit {
        /// What doesn't fit.
        reason: String,
    },
    /// Another process works in the run's folder.
    #[error("{} is in use by another run{by}\n  help: wait until that has ended, or give another folder with --out", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Which one, as the end of a sentence.
        by: String,
    },
    /// The run's folder is that of another recipe.
    #[error("{} is a run of another recipe: {difference}\n  help: resume it with its own recipe (`{command}`), or give another folder with --out", path.display())]
    OtherRecipe {
        /// The folder.
        path: PathBuf,
        /// Where the two differ.
        difference: String,
        /// What resumes that run.
        command: String,
    },
    /// The run was told to stop.
    #[error("interrupted in the stage `{stage}`, after step {step}")]
    Interrupted {
        /// The stage.
        stage: String,
        /// Optimizer steps since the run's start.
        step: u64,
    },
    /// A run that had begun has ended early.
    #[error("{what}\n  {kept}")]
    Stopped {
        /// Why.
        source: Box<TrainError>,
        /// The same in words, its causes included.
        what: String,
        /// What is left of it, and what to do.
        kept: String,
    },
    /// A device that this machine doesn't have.
    #[error(
        "device `{asked}` is asked for, but libtorch finds {found} CUDA devices\n  help: use the device `auto` or `cpu`"
    )]
    NoDevice {
        /// The device asked for.
        asked: String,
        /// Number of CUDA devices.
        found: usize,
    },
    /// A bench could not go on.
    #[error("{what}: {reason}\n  help: {help}")]
    Bench {
        /// What failed.
        what: String,
        /// Why.
        reason: String,
        /// What to do.
        help: &'static str,
    },
    /// The loss is not a finite number any more.
    #[error(
        "the loss is {loss} at step {step} of the stage `{stage}`{first}\n  help: lower `learning_rate` of that stage (in a stage `train`, a longer `warmup` helps, too)"
    )]
    Diverged {
        /// The loss.
        loss: f64,
        /// Step of the stage.
        step: u64,
        /// The stage.
        stage: String,
        /// The first site whose values are not finite, as the end of a sentence.
        first: String,
    },
}

impl TrainError {
    /// What kind of error this is, in a word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Recipe(_) => "bad-recipe",
            Self::Model { .. } => "bad-model",
            Self::Data(_) => "bad-data",
            Self::Libtorch(_) => "libtorch",
            Self::Report(error) => error.code(),
            Self::NotARun { .. } => "not-a-run",
            Self::Folder { .. } => "bad-folder",
            Self::Restore { .. } | Self::Unfit { .. } => "bad-checkpoint",
            Self::Checkpoint { .. } => "not-written",
            Self::Locked { .. } => "in-use",
            Self::OtherRecipe { .. } => "other-recipe",
            Self::Interrupted { .. } => "interrupted",
            Self::Stopped { source, .. } => source.code(),
            Self::NoDevice { .. } => "no-device",
            Self::Bench { .. } => "bench",
            Self::NotFinite { .. } | Self::Diverged { .. } => "diverged",
        }
    }

    /// The file or folder that it is about, where that is all it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Folder { path, .. }
            | Self::NotARun { path, .. }
            | Self::Restore { path, .. }
            | Self::Checkpoint { path, .. }
            | Self::Locked { path, .. }
            | Self::OtherRecipe { path, .. } => Some(path),
            Self::Report(error) => Some(error.path()),
            Self::Stopped { source, .. } => source.path(),
            _ => None,
        }
    }

    /// Whether it was told to stop and can be resumed.
    pub fn is_interruption(&self) -> bool {
        match self {
            Self::Interrupted { .. } => true,
            Self::Stopped { source, .. } => source.is_interruption(),
            _ => false,
        }
    }

    /// Whether training left the finite numbers: from the same state it would again.
    pub fn is_divergence(&self) -> bool {
        matches!(self, Self::Diverged { .. } | Self::NotFinite { .. })
    }

    /// Whether the input (recipe, model, data) is to blame rather than the run.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Diverged { .. }
            | Self::NotFinite { .. }
            | Self::Bench { .. }
            | Self::Libtorch(_)
            | Self::Checkpoint { .. }
            | Self::Interrupted { .. } => false,
            Self::Stopped { source, .. } => source.is_input(),
            // A damaged summary is input, a full disk is not.
            Self::Report(error) => matches!(error, ReportError::Read { .. } | ReportError::NotASummary { .. }),
            _ => true,
        }
    }
}

impl From<ModelError> for TrainError {
    fn from(source: ModelError) -> Self {
        Self::Model { source, help: String::new() }
    }
}

impl From<tch::TchError> for TrainError {
    fn from(error: tch::TchError) -> Self {
        Self::Libtorch(error.into())
    }
}
