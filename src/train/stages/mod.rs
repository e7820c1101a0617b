//! The stages of a recipe, one file each.

mod calibrate;
mod finetune;
mod search;
mod train;

pub use calibrate::calibrate;

use super::error::TrainError;
use super::folder::RunFolder;
use super::session::Session;
use crate::recipe::Stage;

/// Carries out one stage of the recipe, the one at `index`, or the rest of it behind [`Session::interrupted`]. Returns the
/// top-1 of the network that it leaves, in percent, where it was measured.
///
/// # Errors
/// If the network, the data or a sink fail, the training diverges, or the run is to stop.
pub fn carry_out(
    session: &mut Session<'_>,
    stage: &Stage,
    index: usize,
    folder: &RunFolder,
) -> Result<Option<f64>, TrainError> {
    match stage {
        Stage::Train(stage) => train::carry_out(session, stage, index, folder),
        Stage::Calibrate(stage) => calibrate::carry_out(session, stage, index),
        Stage::Search(stage) => search::carry_out(session, stage, index),
        Stage::Finetune(stage) => finetune::carry_out(session, stage, index),
    }
}
