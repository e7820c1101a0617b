//! Measuring again: a finished run, or a plain network.

use std::path::Path;

use super::checkpoint::{OpenedRun, open_run};
use super::error::TrainError;
use super::evaluate::{Evaluation, evaluate};
use super::reached::stored_bits;
use super::session::resolve_device;
use super::validate::validate;
use crate::compress::compressor::Compressor;
use crate::data::Split;
use crate::recipe::{Loaded, Override};

/// What `dimbit eval` tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Top-1 accuracy in percent.
    pub top1: f64,
    /// Number of images.
    pub images: usize,
    /// Fixed-length bits per value, `relu` convention.
    pub bits_per_value: f64,
    /// Fixed-length bits per value, `stored` convention.
    pub bits_per_value_stored: f64,
    /// Entropy of the codes in bits per value; none without codes.
    pub bits_per_value_entropy: Option<f64>,
}

/// Measures a finished run on a split of its data.
///
/// # Errors
/// If the folder can't be opened; see [`open_run`].
pub fn measure_run(folder: &Path, overrides: &[Override], split: Split) -> Result<Measured, TrainError> {
    let OpenedRun { mut model, compressor, feed, .. } = open_run(folder, overrides)?;
    let found = evaluate(&mut model, compressor.as_ref(), &feed, split, true, |_, _| Ok(()))?;
    let bits = compressor.as_ref().map(Compressor::bits_per_value).transpose()?;
    let stored = stored_bits(&model, compressor.as_ref())?;
    Ok(measured(found, bits, stored))
}

/// Measures a recipe's network as it is in its file, uncompressed.
///
/// # Errors
/// If the network and the data don't fit.
pub fn measure_model(loaded: &Loaded, split: Split) -> Result<Measured, TrainError> {
    let mut plain = loaded.clone();
    // Only the network and the data matter: what the stages need is no concern of an evaluation.
    plain.recipe.stages.clear();
    let (mut model, feed) = validate(&plain, resolve_device(plain.recipe.device)?)?;
    let found = evaluate(&mut model, None, &feed, split, false, |_, _| Ok(()))?;
    let stored = stored_bits(&model, None)?;
    Ok(measured(found, None, stored))
}

fn measured(found: Evaluation, bits: Option<f64>, stored: f64) -> Measured {
    Measured {
        top1: found.top1,
        images: found.images,
        bits_per_value: bits.unwrap_or(32.0),
        bits_per_value_stored: stored,
        bits_per_value_entropy: found.entropy,
    }
}
