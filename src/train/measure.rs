//! Measuring again: a finished run, or a plain network.

use std::path::Path;

use tch::{Device, Tensor};

use super::checkpoint::{OpenedRun, open_run};
use super::error::TrainError;
use super::evaluate::{Evaluation, evaluate};
use super::feed::SplitFeed;
use super::reached::stored_bits;
use super::validate::data_for;
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
    /// Where images lie that could not be read, and why.
    pub unreadable: Vec<String>,
}

/// Keeps the logits of every image in a file, if that is wanted.
struct Logits<'a> {
    file: Option<&'a Path>,
    /// Of each batch `[batch, classes]` and `[batch]`.
    batches: (Vec<Tensor>, Vec<Tensor>),
}

impl<'a> Logits<'a> {
    fn new(file: Option<&'a Path>) -> Self {
        Self { file, batches: (Vec::new(), Vec::new()) }
    }

    fn add(&mut self, logits: &Tensor, labels: &Tensor) -> Result<(), TrainError> {
        if self.file.is_some() {
            self.batches.0.push(logits.f_to_device(Device::Cpu)?);
            self.batches.1.push(labels.f_to_device(Device::Cpu)?);
        }
        Ok(())
    }

    fn write(self) -> Result<(), TrainError> {
        let Some(file) = self.file else { return Ok(()) };
        let tensors = [("logits", Tensor::f_cat(&self.batches.0, 0)?), ("labels", Tensor::f_cat(&self.batches.1, 0)?)];
        let error = |error: tch::TchError| TrainError::Folder {
            path: file.to_owned(),
            reason: error.to_string(),
            help: "name a file that can be written",
        };
        Tensor::write_safetensors(&tensors, file).map_err(error)
    }
}

/// Measures a finished run on a split of its data. `logits`: a safetensors file for those of every image, `logits`
/// `[images, classes]` and `labels` `[images]`, in the images' order.
///
/// # Errors
/// If the folder can't be opened; see [`open_run`].
pub fn measure_run(
    folder: &Path,
    overrides: &[Override],
    split: Split,
    logits: Option<&Path>,
) -> Result<Measured, TrainError> {
    let OpenedRun { mut model, compressor, feed, .. } = open_run(folder, overrides, split)?;
    let mut kept = Logits::new(logits);
    let found = evaluate(&mut model, compressor.as_ref(), &feed, true, |_, x, y| kept.add(x, y))?;
    kept.write()?;
    let bits = compressor.as_ref().map(Compressor::bits_per_value).transpose()?;
    let stored = stored_bits(&model, compressor.as_ref())?;
    Ok(measured(found, bits, stored, &feed))
}

/// Measures the network of a TorchScript file as it is, uncompressed, on a recipe's data; `logits` as for [`measure_run`].
///
/// # Errors
/// If the network and the data don't fit.
pub fn measure_model(
    path: &Path,
    loaded: &Loaded,
    split: Split,
    logits: Option<&Path>,
) -> Result<Measured, TrainError> {
    let (mut model, feed) = data_for(loaded, path, split)?;
    let mut kept = Logits::new(logits);
    let found = evaluate(&mut model, None, &feed, false, |_, x, y| kept.add(x, y))?;
    kept.write()?;
    let stored = stored_bits(&model, None)?;
    Ok(measured(found, None, stored, &feed))
}

fn measured(found: Evaluation, bits: Option<f64>, stored: f64, feed: &SplitFeed) -> Measured {
    Measured {
        top1: found.top1,
        images: found.images,
        bits_per_value: bits.unwrap_or(32.0),
        bits_per_value_stored: stored,
        bits_per_value_entropy: found.entropy,
        unreadable: feed.take_unreadable(),
    }
}
