//! The dynamic bit-width search: weights, steps and ranges learn while the budget falls; then the widths are frozen.

use crate::recipe::SearchStage;
use crate::train::error::TrainError;
use crate::train::fit::{Phase, fit};
use crate::train::objective::FallingBudget;
use crate::train::session::Session;

/// Searches, then freezes integer widths that meet the target.
///
/// # Errors
/// If the network, the data or a sink fail, or the training diverges.
pub fn carry_out(session: &mut Session<'_>, stage: &SearchStage, index: usize) -> Result<(), TrainError> {
    let phase = Phase::retraining("search", index, &stage.retraining(), false);
    fit(session, &phase, &mut FallingBudget::new(stage, &phase))?;
    let macs = session.model.macs;
    let max_macs = session.recipe.calibrate().map_or(f64::INFINITY, |calibrate| calibrate.max_macs(macs));
    if let Some(compressor) = &mut session.compressor {
        compressor.freeze(stage.target_bits, max_macs)?;
    }
    session.evaluate("search", false)?;
    Ok(())
}
