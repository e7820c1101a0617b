//! What the stages of a run share.

use std::time::Instant;

use tch::{Device, Tensor};

use super::error::TrainError;
use super::evaluate::{Evaluation, evaluate};
use super::feed::Feed;
use super::guard::broken_parameter;
use super::reached::stored_bits;
use super::resume::{Captured, FitState, Interrupted, Keeper, State, capture, on_cpu};
use super::stop::Stop;
use crate::compress::compressor::Compressor;
use crate::data::Split;
use crate::libtorch::{LibtorchError, Network, Saved, cuda_devices};
use crate::model::Model;
use crate::recipe::{self, Recipe};
use crate::report::{Event, GroupRow, LogMark, Sink, SiteRow};

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
    /// Whether the run is to stop.
    pub stop: Stop,
    /// The checkpoints; none where a session is not a run's.
    pub keeper: Option<Keeper>,
    /// Where the next loop of a stage goes on; none for its beginning.
    pub interrupted: Option<Interrupted>,
}

impl<'a> Session<'a> {
    /// The start of a run: nothing is done yet, and nothing is kept.
    pub fn new(recipe: &'a Recipe, model: Model, feed: Feed, device: Device, sink: &'a mut dyn Sink) -> Self {
        Self {
            recipe,
            model,
            teacher: None,
            compressor: None,
            feed,
            device,
            sink,
            step: 0,
            epochs: 0,
            trained: (0, 0.0),
            float_top1: None,
            stop: Stop::default(),
            keeper: None,
            interrupted: None,
        }
    }
}

impl Session<'_> {
    /// Takes a checkpoint: in the loop of the stage `stage` (its number) where it stands, with the `tensors` of that, or at
    /// its beginning.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] if a parameter isn't, [`TrainError::Checkpoint`] if it can't be written; the ones
    /// before it are kept then.
    pub fn save(
        &mut self,
        stage: usize,
        fit: Option<FitState>,
        mut tensors: Vec<(String, Tensor)>,
    ) -> Result<(), TrainError> {
        let Some(mut keeper) = self.keeper.take() else { return Ok(()) };
        let written = self.state(stage, fit, &mut tensors, &keeper).and_then(|state| keeper.write(&state, &tensors));
        self.keeper = Some(keeper);
        written
    }

    fn state(
        &mut self,
        stage: usize,
        fit: Option<FitState>,
        tensors: &mut Vec<(String, Tensor)>,
        keeper: &Keeper,
    ) -> Result<State, TrainError> {
        if let Some(parameter) = broken_parameter(self)? {
            // Between two stages, it is the one before that has left it so.
            let of = if fit.is_some() { stage } else { stage.saturating_sub(1) };
            let stage = self.recipe.stages.get(of).map_or("result", |stage| stage.kind()).to_owned();
            return Err(TrainError::NotFinite { parameter, step: fit.map_or(self.step, |fit| fit.done), stage });
        }
        let Captured { learning, with_gradient, compressor } = capture(self, tensors)?;
        // The events of this moment are on the disk before the checkpoint that counts on them.
        let mut mark = LogMark::default();
        self.sink.mark(&mut mark)?;
        let origin = keeper.origin().clone();
        Ok(State {
            dimbit_version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe_sha256: origin.recipe_sha256,
            model_sha256: origin.model_sha256,
            machine: origin.machine,
            train_images: self.feed.train_images,
            validation_images: self.feed.validation_images,
            stage,
            step: self.step,
            epochs: self.epochs,
            images: self.trained.0,
            training_seconds: self.trained.1,
            seconds: keeper.seconds(),
            float_top1: self.float_top1,
            mark,
            learning,
            with_gradient,
            compressor,
            fit,
        })
    }

    /// Whether a checkpoint is due behind this step of a stage.
    pub fn is_due(&self, done: u64) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.is_due(done, self.feed.steps_per_epoch()))
    }

    /// Takes the last checkpoint for the best one if it is; `top1`: that of the network in it.
    ///
    /// # Errors
    /// If that can't be written down.
    pub fn consider(&mut self, top1: f64) -> Result<(), TrainError> {
        let bits = self.compressor.as_ref().map(Compressor::bits_per_value).transpose()?.unwrap_or(32.0);
        match &mut self.keeper {
            Some(keeper) => keeper.consider(self.step, top1, bits, self.recipe.target_bits()),
            None => Ok(()),
        }
    }

    /// Stops a pass without steps where the run is to stop.
    ///
    /// # Errors
    /// [`TrainError::Interrupted`].
    pub fn may_go_on(&self, stage: &str) -> Result<(), TrainError> {
        if self.stop.is_asked() { Err(self.interrupted_in(stage)) } else { Ok(()) }
    }

    /// That the run stops here.
    pub fn interrupted_in(&self, stage: &str) -> TrainError {
        TrainError::Interrupted { stage: stage.to_owned(), step: self.step }
    }

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

    /// Keeps the teacher on the disk, for the checkpoints to come.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn save_teacher(&mut self) -> Result<(), TrainError> {
        let (Some(teacher), Some(keeper)) = (&self.teacher, &mut self.keeper) else { return Ok(()) };
        let mut tensors = Vec::new();
        for named in teacher.tensors()? {
            tensors.push((format!("network.{}", named.name), on_cpu(&named.tensor)?));
        }
        keeper.keep_teacher(&tensors)
    }

    /// Logits of a batch, with the codecs in place. With `rates`, the codecs add their estimated code lengths to it. `saved`:
    /// what the layers behind the codecs keep for the backward pass. Returns also at how many sites they keep codes.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn forward(
        &self,
        x: &Tensor,
        mut rates: Option<&mut Vec<Tensor>>,
        saved: Saved,
    ) -> Result<(Tensor, usize), TrainError> {
        let Some(compressor) = &self.compressor else {
            return Ok((self.model.network.forward(x, |_, _, _| Ok::<_, LibtorchError>(None))?, 0));
        };
        let quantizers = compressor.quantizers()?;
        let Some(rates) = &mut rates else {
            let mut pass = compressor.training_pass(quantizers);
            return Ok(self.model.network.forward_training(x, saved, |site, asked| pass.answer(site, asked))?);
        };
        let logits = self
            .model
            .network
            .forward(x, |site, position, value| compressor.hook_rated(site, position, value, &quantizers, rates))?;
        Ok((logits, 0))
    }

    /// Evaluates on the validation split and reports it.
    ///
    /// # Errors
    /// If the network, the data or a sink fail.
    pub fn evaluate(&mut self, stage: &str, with_entropy: bool) -> Result<Evaluation, TrainError> {
        let (sink, stop, step) = (&mut *self.sink, &self.stop, self.step);
        let mut last = Instant::now();
        let (model, compressor) = (&mut self.model, self.compressor.as_ref());
        let found =
            evaluate(model, compressor, self.feed.split(Split::Validation), with_entropy, |(done, total), _, _| {
                if stop.is_asked() {
                    return Err(TrainError::Interrupted { stage: stage.to_owned(), step });
                }
                if last.elapsed().as_millis() > 200 {
                    last = Instant::now();
                    sink.event(&Event::Progress {
                        stage: stage.to_owned(),
                        done,
                        total,
                        what: "evaluating".to_owned(),
                    })?;
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
    /// If a sink fails, or [`TrainError::Interrupted`].
    pub fn progress(&mut self, stage: &str, done: usize, total: usize, what: &str) -> Result<(), TrainError> {
        self.may_go_on(stage)?;
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

    /// Reports where layers keep values although they were to keep codes; `packed`: the sites at which they keep codes.
    ///
    /// # Errors
    /// If a sink fails.
    pub fn tell_unpacked(&mut self, packed: usize) -> Result<(), TrainError> {
        let codecs = self.compressor.as_ref().map_or(0, |compressor| compressor.codecs.len());
        if packed < codecs {
            let message = format!(
                "`save_activations: packed`: layers keep codes at {packed} of {codecs} compressed sites and values at the others. Codes \
                 need a convolution or max-pooling that reads the site, ReLU or ReLU6 behind the codec, no `entropy_weight`, and the CPU"
            );
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
