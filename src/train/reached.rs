//! What a run reached: its summary.

use super::error::TrainError;
use super::evaluate::Evaluation;
use super::resume::Origin;
use super::session::{Session, site_rows};
use crate::compress::compressor::Compressor;
use crate::model::Model;
use crate::report::{SiteRow, Status, Summary};

/// The summary of a run that reached `result` after `seconds`.
///
/// # Errors
/// If libtorch fails.
pub fn summarize(
    session: &Session<'_>,
    result: &Evaluation,
    origin: &Origin,
    seconds: f64,
) -> Result<Summary, TrainError> {
    let model = &session.model;
    let compressor = session.compressor.as_ref();
    let bits_per_value = compressor.map(Compressor::bits_per_value).transpose()?.unwrap_or(32.0);
    let sites = session.site_rows()?;
    let target_bits = session.recipe.target_bits();
    let dropped: f64 = sites.iter().map(SiteRow::dropped_values).sum();
    let mac_overhead = |folded| compressor.map_or(0.0, |c| 100.0 * c.extra_macs(folded) / model.macs as f64);
    let met = target_bits.is_none_or(|target| bits_per_value <= target);
    Ok(Summary {
        status: if met { Status::Complete } else { Status::BudgetNotMet },
        mode: session.recipe.mode().to_string(),
        // Without a calibration, the result is the float network.
        float_top1: session.float_top1.unwrap_or(result.top1),
        top1: result.top1,
        bits_per_value,
        bits_per_value_stored: stored_bits(model, compressor)?,
        bits_per_value_entropy: result.entropy,
        target_bits,
        dropped_fraction: dropped / model.values() as f64,
        side_information_bytes: compressor.map_or(0, Compressor::side_information_bytes),
        mac_overhead_percent: mac_overhead(true),
        mac_overhead_unfolded_percent: mac_overhead(false),
        sites,
        images_per_second: session.trained.0 as f64 / session.trained.1.max(f64::MIN_POSITIVE),
        seconds,
        seed: session.recipe.seed,
        values: model.values() as u64,
        macs: model.macs,
        recipe_sha256: origin.recipe_sha256.clone(),
        model_sha256: origin.model_sha256.clone(),
        dimbit_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Bits per value in the `stored` convention: tensors that no site covers count 32 bits.
///
/// # Errors
/// If libtorch fails.
pub fn stored_bits(model: &Model, compressor: Option<&Compressor>) -> Result<f64, TrainError> {
    let Some(compressor) = compressor else { return Ok(32.0) };
    let rows = site_rows(model, Some(compressor))?;
    let (mut bits, mut values) = (0.0, 0.0);
    for tensor in &model.stored {
        let per_value = tensor.site.map_or(32.0, |site| rows[site].bits_per_value);
        bits += per_value * tensor.values() as f64;
        values += tensor.values() as f64;
    }
    Ok(if values > 0.0 { bits / values } else { 32.0 })
}
