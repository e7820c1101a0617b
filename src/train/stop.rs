//! The wish that a run stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::folder::RunFolder;

/// A wish to stop that signal handlers and a run share: it is granted behind the step, or the batch, that goes on.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asked: AtomicBool,
    resume_command: OnceLock<String>,
}

impl Stop {
    /// Wishes that the run stops. Returns whether it was wished before.
    pub fn ask(&self) -> bool {
        self.0.asked.swap(true, Ordering::Relaxed)
    }

    /// Whether the run is to stop.
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// The command that goes on with the run, once that has a folder.
    pub fn resume_command(&self) -> Option<&str> {
        self.0.resume_command.get().map(String::as_str)
    }

    /// Tells in which folder the run is.
    pub(super) fn runs_in(&self, folder: &RunFolder) {
        self.0.resume_command.get_or_init(|| folder.resume_command());
    }
}
