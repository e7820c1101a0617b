//! The dynamic bit-width search: weights, steps and ranges learn while the budget falls; then the widths are frozen.

use crate::compress::budget::{Budget, FALL};
use crate::recipe::SearchStage;
use crate::report::Event;
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
    warn_if_too_fast(session, stage)?;
    let budget = Budget { start: stage.start_bits, target: stage.target_bits, anneal: stage.anneal };
    fit(session, &phase, &mut FallingBudget::new(budget, stage.revival.then(|| phase.clone())))?;
    let macs = session.model.macs;
    let max_macs = session.recipe.calibrate().map_or(f64::INFINITY, |calibrate| calibrate.max_macs(macs));
    if let Some(compressor) = &mut session.compressor {
        compressor.freeze(stage.target_bits, max_macs)?;
    }
    session.evaluate("search", false)?;
    Ok(())
}

/// Adam moves a step and a range by its learning rate at most, so a width by twice that in a step of training.
fn warn_if_too_fast(session: &mut Session<'_>, stage: &SearchStage) -> Result<(), TrainError> {
    let steps = stage.length.steps(session.feed.steps_per_epoch()).max(1) as f64;
    let wanted = (stage.start_bits - stage.target_bits) / (FALL * steps);
    let possible = 2.0 * stage.quantizer_learning_rate;
    if wanted > possible {
        let message = format!(
            "the budget falls by {wanted:.3} bits a step, but widths can follow by {possible:.3} at most: lengthen the search, raise its quantizer_learning_rate, or lower start_bits"
        );
        session.sink.event(&Event::Warning { message })?;
    }
    Ok(())
}
