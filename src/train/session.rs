//! What the stages of a run share.

use std::time::Instant;

use tch::{Device, Tensor};

use super::error::TrainError;
use super::evaluate::{Evaluation, evaluate};
use super::feed::Feed;
use super::run::stored_bits;
use crate::compress::compressor::Compressor;
use crate::data::Split;
use crate::libtorch::{Hooked, LibtorchError, Network, cuda_devices};
use crate::model::Model;
use crate::recipe::{self, Recipe};
use crate::report::{Event, GroupRow, Sink, SiteRow};

/// A run in progress.
pub struct Session<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The network in training.
    pub model: Model,
    /// The float network that distillation follows; there from the calibration on.
    pub teacher: Option<Network>,
    /// The codecs; there from the calibration on.
    pub compressor: Option<Compressor>,
    /// The data.
    pub feed: Feed,
    /// The device that the run computes on.
    pub device: Device,
    /// Where events go.
    pub sink: &'a mut dyn Sink,
    /// Optimizer steps since the run's start.
    pub step: u64,
    /// Training epochs begun since the run's start: each has its own order and augmentation.
    pub epochs: u64,
    /// Images that were trained on, and the seconds that it took.
    pub trained: (u64, f64),
    /// Top-1 of the float network in percent, once the calibration has measured it.
    pub float_top1: Option<f64>,
}

impl Session<'_> {
    /// Keeps a copy of the network as it stands, in evaluation, for the distillation to follow.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn keep_teacher(&mut self) -> Result<(), TrainError> {
        let mut teacher = self.model.network.deep_copy()?;
        teacher.set_train(false, false)?;
        self.teacher = Some(teacher);
        Ok(())
    }

    /// Logits of a batch, with the codecs in place. With `rates`, the codecs add their estimated code lengths to it.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn forward(&self, x: &Tensor, mut rates: Option<&mut Vec<Tensor>>) -> Result<Tensor, TrainError> {
        let Some(compressor) = &self.compressor else {
            return Ok(self.model.network.forward(x, |_, _, _| Ok::<_, LibtorchError>(None))?);
        };
        let quantizers = compressor.quantizers()?;
        Ok(self.model.network.forward(x, |site, position, value| match &mut rates {
            None => compressor.hook_activated(site, position, value, &quantizers),
            Some(rates) => compressor.hook_rated(site, position, value, &quantizers, rates).map(Hooked::from),
        })?)
    }

    /// Evaluates on the validation split and reports it.
    ///
    /// # Errors
    /// If the network, the data or a sink fail.
    pub fn evaluate(&mut self, stage: &str, with_entropy: bool) -> Result<Evaluation, TrainError> {
        let sink = &mut *self.sink;
        let mut last = Instant::now();
        let (model, compressor) = (&mut self.model, self.compressor.as_ref());
        let found = evaluate(model, compressor, &self.feed, Split::Validation, with_entropy, |(done, total), _, _| {
            if last.elapsed().as_millis() > 200 {
                last = Instant::now();
                sink.event(&Event::Progress { stage: stage.to_owned(), done, total, what: "evaluating".to_owned() })?;
            }
            Ok(())
        })?;
        self.tell_unreadable()?;
        self.sink.event(&Event::Evaluated {
            step: self.step,
            stage: stage.to_owned(),
            top1: found.top1,
            loss: found.loss,
            images: found.images,
            bits: self.compressor.as_ref().map(Compressor::bits_per_value).transpose()?,
        })?;
        if !found.codes.is_empty() {
            self.sink.event(&Event::Codes { step: self.step, sites: found.codes.clone() })?;
        }
        // The last optimizer step of an epoch shows here alone.
        if !found.loss.is_finite() {
            let (loss, step, stage) = (found.loss, self.step, stage.to_owned());
            return Err(TrainError::Diverged { loss, step, stage, first: " on the validation images".to_owned() });
        }
        Ok(found)
    }

    /// Reports how far a pass without optimizer steps is.
    ///
    /// # Errors
    /// If a sink fails.
    pub fn progress(&mut self, stage: &str, done: usize, total: usize, what: &str) -> Result<(), TrainError> {
        let (done, total) = (done as u64, total as u64);
        self.sink.event(&Event::Progress { stage: stage.to_owned(), done, total, what: what.to_owned() })?;
        Ok(())
    }

    /// Reports images that could not be read since this was last called.
    ///
    /// # Errors
    /// If a sink fails.
    pub fn tell_unreadable(&mut self) -> Result<(), TrainError> {
        if let Some(message) = left_out(&self.feed.take_unreadable()) {
            self.sink.event(&Event::Warning { message })?;
        }
        Ok(())
    }

    /// Reports the widths as they stand.
    ///
    /// # Errors
    /// If libtorch or a sink fail.
    pub fn report_widths(&mut self) -> Result<(), TrainError> {
        let (step, sites) = (self.step, self.site_rows()?);
        let bits_stored = stored_bits(&self.model, self.compressor.as_ref())?;
        self.sink.event(&Event::Widths { step, sites, bits_stored })?;
        Ok(())
    }

    /// All sites as they stand, in the network's order.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn site_rows(&self) -> Result<Vec<SiteRow>, TrainError> {
        site_rows(&self.model, self.compressor.as_ref())
    }
}

/// A sentence about images that could not be read; none where all could.
pub fn left_out(images: &[String]) -> Option<String> {
    match images {
        [] => None,
        [one] => Some(format!("an image can't be read and is left out: {one}")),
        many => Some(format!("{} images can't be read and are left out: {}", many.len(), many.join("; "))),
    }
}

/// All sites of a network, those without a codec as uncompressed.
///
/// # Errors
/// If libtorch fails.
pub fn site_rows(model: &Model, compressor: Option<&Compressor>) -> Result<Vec<SiteRow>, TrainError> {
    let Some(compressor) = compressor else { return Ok(Vec::new()) };
    let now = compressor.groups_now()?;
    let rows = model.sites.iter().map(|site| {
        let codec = compressor.codec_of(site.index);
        let groups: Vec<GroupRow> = codec
            .map(|index| &now[index])
            .into_iter()
            .flatten()
            .map(|g| GroupRow { channels: g.channels, bits: g.bits, step: g.step, range: g.range })
            .collect();
        let transform = codec.map_or("none", |index| compressor.codecs[index].transform.name());
        let mut row = SiteRow {
            name: site.name.clone(),
            shape: site.shape.clone(),
            values: site.values() as u64,
            transform: transform.to_owned(),
            groups,
            bits_per_value: 0.0,
        };
        row.bits_per_value = row.stored_bits() / row.values as f64;
        row
    });
    Ok(rows.collect())
}

/// The device that a recipe means on this machine.
///
/// # Errors
/// [`TrainError::NoDevice`] if it isn't there.
pub fn resolve_device(device: recipe::Device) -> Result<Device, TrainError> {
    let found = cuda_devices();
    match device {
        recipe::Device::Cpu => Ok(Device::Cpu),
        recipe::Device::Auto => Ok(if found > 0 { Device::Cuda(0) } else { Device::Cpu }),
        recipe::Device::Cuda(index) if index < found => Ok(Device::Cuda(index)),
        recipe::Device::Cuda(_) => Err(TrainError::NoDevice { asked: device.to_string(), found }),
    }
}
