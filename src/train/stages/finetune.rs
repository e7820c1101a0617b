//! The fine-tune: frozen widths, and weights and steps that recover accuracy.

use crate::recipe::{BatchNorm, FinetuneStage};
use crate::train::error::TrainError;
use crate::train::fit::{Phase, fit};
use crate::train::norm::reestimate;
use crate::train::objective::TaskAlone;
use crate::train::session::Session;

/// Trains on with frozen widths.
///
/// # Errors
/// If the network, the data or a sink fail, or the training diverges.
pub fn carry_out(session: &mut Session<'_>, stage: &FinetuneStage, index: usize) -> Result<Option<f64>, TrainError> {
    fit(session, &Phase::retraining("finetune", index, &stage.retraining(), true), &mut TaskAlone)?;
    if stage.batch_norm == BatchNorm::Reestimated {
        reestimate(session)?;
    }
    Ok(None)
}
