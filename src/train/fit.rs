//! The training loop that all stages share.

use std::time::Instant;

use tch::Tensor;

use super::error::TrainError;
use super::guard::diverged;
use super::objective::Objective;
use super::resume::{FitState, Interrupted, Place};
use super::session::Session;
use super::trainer::{Step, Trainer};
use super::window::Window;
use crate::libtorch::Saved;
use crate::recipe::{BatchNorm, Length, Retraining, SaveActivations};
use crate::report::{Event, Losses};

/// How a stage trains.
#[derive(Debug, Clone)]
pub struct Phase {
    /// The stage's name.
    pub name: &'static str,
    /// Its place in the recipe, from 0.
    pub index: usize,
    /// Its length.
    pub length: Length,
    /// Highest learning rate of the weights; falls to 0 by a cosine.
    pub learning_rate: f64,
    /// Linear rise before.
    pub warmup: Length,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Weight decay of SGD.
    pub weight_decay: f64,
    /// Label smoothing of the cross-entropy.
    pub label_smoothing: f64,
    /// Learning rate of steps and ranges, in octaves, and whether it falls to 0.
    pub quantizers: Option<(f64, bool)>,
    /// What batch normalisation does.
    pub batch_norm: BatchNorm,
    /// Weight of the distillation.
    pub distillation: f64,
    /// Weight of the estimated code length.
    pub entropy_weight: f64,
    /// What the layers behind codecs keep for their backward pass.
    pub saved: Saved,
}

impl Phase {
    /// A stage that trains a compressed network; `falls`: whether the quantizers' learning rate falls to 0 as well.
    pub fn retraining(name: &'static str, index: usize, keys: &Retraining, falls: bool) -> Self {
        Self {
            name,
            index,
            length: keys.length,
            learning_rate: keys.learning_rate,
            warmup: Length::Epochs(0.0),
            momentum: keys.momentum,
            weight_decay: keys.weight_decay,
            label_smoothing: 0.0,
            quantizers: Some((keys.quantizer_learning_rate, falls)),
            batch_norm: keys.batch_norm,
            distillation: keys.distillation,
            entropy_weight: keys.entropy_weight,
            saved: match keys.save_activations {
                SaveActivations::Full => Saved::Full,
                SaveActivations::Packed => Saved::Packed,
            },
        }
    }
}

/// A stage's loop in progress.
struct Fit<'a> {
    phase: &'a Phase,
    objective: &'a mut dyn Objective,
    trainer: Trainer,
    window: Window,
    /// Batches in an epoch.
    per_epoch: usize,
    began: Instant,
    /// Seconds that the stage took before it was interrupted.
    before: f64,
}

/// Trains for a stage, evaluating after each epoch but the last: what a stage does at its end comes before its evaluation.
/// Goes on where [`Session::interrupted`] says, if it does.
///
/// # Errors
/// [`TrainError::Diverged`] if the loss is not finite, [`TrainError::Interrupted`] if the run is to stop; whatever the
/// network, the data or a sink fail with.
pub fn fit(session: &mut Session<'_>, phase: &Phase, objective: &mut dyn Objective) -> Result<(), TrainError> {
    let per_epoch = session.feed.steps_per_epoch();
    let (trainer, window) = (Trainer::new(session, phase)?, Window::new(session.device)?);
    let mut fit = Fit { phase, objective, trainer, window, per_epoch, began: Instant::now(), before: 0.0 };
    let mut place = match session.interrupted.take() {
        Some(interrupted) => Some(fit.resume(&interrupted)?),
        None => {
            session.sink.event(&Event::StageStarted {
                stage: phase.name.to_owned(),
                index: phase.index,
                stages: session.recipe.stages.len(),
                epochs: phase.length.epochs(per_epoch),
                steps: fit.trainer.steps,
            })?;
            None
        }
    };
    loop {
        // A checkpoint at the end of an epoch holds the network that is evaluated next.
        let saved = match place.take() {
            Some(Place::End) => true,
            Some(Place::Within(batches)) => fit.epoch(session, batches)?,
            None => {
                session.epochs += 1;
                fit.window = Window::new(session.device)?;
                fit.epoch(session, 0)?
            }
        };
        let ended = fit.trainer.done >= fit.trainer.steps;
        if !ended {
            let found = session.evaluate(phase.name, false)?;
            if saved {
                session.consider(found.top1)?;
            }
        }
        if session.compressor.is_some() {
            session.report_widths()?;
        }
        if ended {
            break;
        }
    }
    let seconds = fit.seconds();
    session.sink.event(&Event::StageEnded { stage: phase.name.to_owned(), seconds })?;
    Ok(())
}

impl Fit<'_> {
    fn seconds(&self) -> f64 {
        self.before + self.began.elapsed().as_secs_f64()
    }

    fn resume(&mut self, interrupted: &Interrupted) -> Result<Place, TrainError> {
        let Interrupted { fit, tensors } = interrupted;
        self.trainer.restore(fit, tensors)?;
        self.window.restore(fit, tensors)?;
        if let Some(search) = &fit.search {
            self.objective.restore(search);
        }
        self.before = fit.seconds;
        Ok(fit.place)
    }

    /// The rest of an epoch behind its first `skipped` batches, up to the stage's end. Returns whether a checkpoint was
    /// written behind its last step.
    fn epoch(&mut self, session: &mut Session<'_>, skipped: usize) -> Result<bool, TrainError> {
        session.model.network.set_train(true, self.phase.batch_norm == BatchNorm::Frozen)?;
        let mut clock = Instant::now();
        let epoch = session.epochs - 1;
        let mut batches = session.feed.train_epoch(epoch, skipped);
        let mut behind = skipped;
        while let Some(batch) = batches.next() {
            let (x, y) = batch?;
            let step = self.trainer.step(session, self.phase, self.objective, (&x, &y))?;
            self.window.add(&step.loss, &step.logits, &y, batches.take_waited())?;
            session.trained.0 += y.size()[0] as u64;
            self.report(session, &step, &x)?;
            behind += 1;
            if self.trainer.done == self.trainer.steps || behind == self.per_epoch {
                break;
            }
            let stop = session.stop.is_asked();
            if stop || session.is_due(self.trainer.done) {
                session.trained.1 += std::mem::replace(&mut clock, Instant::now()).elapsed().as_secs_f64();
                self.save(session, Place::Within(behind))?;
            }
            if stop {
                return Err(session.interrupted_in(self.phase.name));
            }
        }
        session.trained.1 += clock.elapsed().as_secs_f64();
        let stop = session.stop.is_asked();
        let due = stop || session.is_due(self.trainer.done) || self.trainer.done == self.trainer.steps;
        if due {
            self.save(session, Place::End)?;
        }
        if stop {
            return Err(session.interrupted_in(self.phase.name));
        }
        Ok(due)
    }

    fn save(&self, session: &mut Session<'_>, place: Place) -> Result<(), TrainError> {
        let mut tensors = Vec::new();
        let state = FitState {
            done: self.trainer.done,
            place,
            seconds: self.seconds(),
            window: self.window.save(&mut tensors)?,
            adam_steps: self.trainer.save(&mut tensors)?,
            search: self.objective.save(),
        };
        session.save(self.phase.index, Some(state), tensors)
    }

    /// Reports about ten times an epoch.
    fn report(&mut self, session: &mut Session<'_>, step: &Step, x: &Tensor) -> Result<(), TrainError> {
        let (done, steps, per_epoch) = (self.trainer.done, self.trainer.steps, self.per_epoch as u64);
        let every = (per_epoch / 10).max(1);
        if !(done.is_multiple_of(every) || done.is_multiple_of(per_epoch) || done == steps) {
            return Ok(());
        }
        let means = self.window.means()?;
        let [task, distillation, rate] = means.losses;
        let total = task + distillation + rate;
        if !total.is_finite() {
            return Err(diverged(session, self.phase.name, done, total, x)?);
        }
        let state = self.objective.state();
        session.sink.event(&Event::Step {
            step: session.step,
            stage: self.phase.name.to_owned(),
            stage_step: done,
            stage_steps: steps,
            epoch: done as f64 / per_epoch as f64,
            loss: Losses {
                task,
                distillation: step.loss.distillation.is_some().then_some(distillation),
                rate: step.loss.rate.is_some().then_some(rate),
                budget: state.map(|s| s.term),
            },
            top1: means.top1,
            learning_rate: step.learning_rate,
            quantizer_learning_rate: step.quantizer_learning_rate,
            bits: session.compressor.as_ref().map(|c| c.bits_per_value()).transpose()?,
            budget_bits: state.map(|s| s.allowed),
            multiplier: state.map(|s| s.multiplier),
            images_per_second: means.images_per_second,
            waiting: means.waiting,
        })?;
        session.tell_unreadable()?;
        self.window = Window::new(session.device)?;
        Ok(())
    }
}
