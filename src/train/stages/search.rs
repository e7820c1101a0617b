//! The dynamic bit-width search: weights, steps and ranges learn while the budget falls; then the widths are frozen.

use crate::compress::budget::Budget;
use crate::recipe::{BatchNorm, SearchStage};
use crate::train::error::TrainError;
use crate::train::fit::{Phase, fit};
use crate::train::norm::reestimate;
use crate::train::objective::FallingBudget;
use crate::train::session::Session;

/// Searches, then freezes integer widths that meet the target.
///
/// # Errors
/// If the network, the data or a sink fail, or the training diverges.
pub fn carry_out(session: &mut Session<'_>, stage: &SearchStage, index: usize) -> Result<(), TrainError> {
    let phase = Phase::retraining("search", index, &stage.retraining(), false);
    let budget = Budget { start: stage.first_bits(), target: stage.target_bits, anneal: stage.anneal };
    // What a dimension reduction has dropped before the search is not the search's to take back.
    let revival = stage.revival && session.recipe.calibrate().is_some_and(|calibrate| calibrate.kept.is_none());
    fit(session, &phase, &mut FallingBudget::new(budget, revival.then(|| phase.clone())))?;
    let macs = session.model.macs;
    let max_macs = session.recipe.calibrate().map_or(f64::INFINITY, |calibrate| calibrate.max_macs(macs));
    if let Some(compressor) = &mut session.compressor {
        compressor.freeze(stage.target_bits, max_macs)?;
    }
    if stage.batch_norm == BatchNorm::Reestimated {
        reestimate(session)?;
    }
    session.report_widths()?;
    session.evaluate("search", true)?;
    Ok(())
}
