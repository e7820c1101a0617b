//! The training loop that all stages share.

use std::time::Instant;

use tch::{Kind, Reduction, Tensor, no_grad};

use super::error::TrainError;
use super::objective::Objective;
use super::optimizer::{Adam, Sgd};
use super::session::Session;
use crate::compress::compressor::Compressor;
use crate::libtorch::LibtorchError;
use crate::recipe::{BatchNorm, Length, Retraining};
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
        }
    }
}

/// Linear rise over `warmup` steps, then a half cosine to 0 at `steps`.
fn cosine(step: u64, warmup: u64, steps: u64) -> f64 {
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let t = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
    0.5 * (1.0 + (std::f64::consts::PI * t).cos())
}

/// Sums since the last report, kept on the device so that a step waits for nothing.
struct Window {
    losses: Tensor,
    correct: Tensor,
    images: u64,
    steps: u64,
    since: Instant,
}

impl Window {
    fn new(device: tch::Device) -> Result<Self, TrainError> {
        let zeros = |n: i64| Tensor::f_zeros([n], (Kind::Double, device));
        Ok(Self { losses: zeros(3)?, correct: zeros(1)?, images: 0, steps: 0, since: Instant::now() })
    }

    fn add(&mut self, loss: &Loss, logits: &Tensor, y: &Tensor) -> Result<(), TrainError> {
        no_grad(|| {
            let correct = logits.f_argmax(1, false)?.f_eq_tensor(y)?.f_sum(Kind::Double)?;
            let _ = self.correct.f_add_(&correct)?;
            let zero = loss.task.f_zeros_like()?;
            let or_zero = |term: &Option<Tensor>| term.as_ref().unwrap_or(&zero).shallow_clone();
            let terms = [loss.task.shallow_clone(), or_zero(&loss.distillation), or_zero(&loss.rate)];
            let _ = self.losses.f_add_(&Tensor::f_stack(&terms, 0)?.f_to_kind(Kind::Double)?)?;
            self.images += y.size()[0] as u64;
            self.steps += 1;
            Ok(())
        })
    }
}

/// The terms of the loss that a batch has by itself, weighted; scalars with gradient.
pub struct Loss {
    /// Cross-entropy.
    task: Tensor,
    /// Divergence from the float network.
    distillation: Option<Tensor>,
    /// Estimated code length.
    rate: Option<Tensor>,
}

impl Loss {
    /// The loss of a batch of images `x` with labels `y`, whose code lengths are `rates`.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn of(
        session: &Session<'_>,
        phase: &Phase,
        (x, y): (&Tensor, &Tensor),
        logits: &Tensor,
        rates: &[Tensor],
    ) -> Result<Self, TrainError> {
        let task = logits
            .f_cross_entropy_loss(y, None::<&Tensor>, Reduction::Mean, -100, phase.label_smoothing)?
            .f_mul_scalar(1.0 - phase.distillation)?;
        let distillation = distillation(session, phase, x, logits)?;
        let rate = match &session.compressor {
            Some(compressor) if phase.entropy_weight > 0.0 => {
                Some(compressor.rate(rates)?.f_mul_scalar(phase.entropy_weight)?)
            }
            _ => None,
        };
        Ok(Self { task, distillation, rate })
    }

    /// All terms together.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn sum(&self) -> Result<Tensor, LibtorchError> {
        let terms = self.distillation.iter().chain(&self.rate);
        Ok(terms.clone().try_fold(self.task.shallow_clone(), |sum, term| sum.f_add(term))?)
    }
}

/// The optimizers of a stage, and how far it has come.
pub struct Trainer {
    weights: Sgd,
    bases: Sgd,
    quantizers: Option<Adam>,
    /// Steps of the stage.
    steps: u64,
    warmup: u64,
    /// Steps that are done.
    done: u64,
}

/// What a step leaves for reports.
pub struct Step {
    loss: Loss,
    logits: Tensor,
    learning_rate: f64,
    quantizer_learning_rate: Option<f64>,
}

impl Trainer {
    /// Optimizers at the start of a stage.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn new(session: &Session<'_>, phase: &Phase) -> Result<Self, TrainError> {
        let per_epoch = session.feed.steps_per_epoch();
        let steps = phase.length.steps(per_epoch).max(1);
        let warmup = phase.warmup.steps(per_epoch).min(steps - 1);
        let mut weights: Vec<Tensor> = Vec::new();
        for named in session.model.network.tensors()? {
            if named.is_parameter && named.tensor.is_floating_point() {
                weights.push(named.tensor.f_set_requires_grad(true)?);
            }
        }
        let weights = Sgd::new(weights, phase.momentum, phase.weight_decay);
        let quantizers = match (&session.compressor, phase.quantizers) {
            (Some(c), Some(_)) => Some(Adam::new(vec![c.log_step.shallow_clone(), c.log_range.shallow_clone()])?),
            _ => None,
        };
        // Bases that learn have the weights' learning rate, and no decay, which would shrink what they reconstruct.
        let bases = session.compressor.as_ref().map(Compressor::learned_bases).unwrap_or_default();
        let bases = Sgd::new(bases, phase.momentum, 0.0);
        Ok(Self { weights, bases, quantizers, steps, warmup, done: 0 })
    }

    /// One step on a batch of images `x` (`[batch, channels, height, width]`) with labels `y` (`[batch]`): forward, loss,
    /// backward, optimizers, and what the objective does behind them.
    ///
    /// # Errors
    /// If libtorch or the data fail.
    pub fn step(
        &mut self,
        session: &mut Session<'_>,
        phase: &Phase,
        objective: &mut dyn Objective,
        (x, y): (&Tensor, &Tensor),
    ) -> Result<Step, TrainError> {
        let learning_rate = phase.learning_rate * cosine(self.done, self.warmup, self.steps);
        let t = (self.done + 1) as f64 / self.steps as f64;
        let mut rates = Vec::new();
        let logits = session.forward(x, (phase.entropy_weight > 0.0).then_some(&mut rates))?;
        let terms = Loss::of(session, phase, (x, y), &logits, &rates)?;
        let mut loss = terms.sum()?;
        if let Some(compressor) = &session.compressor
            && let Some(term) = objective.term(compressor, t)?
        {
            loss = loss.f_add(&term)?;
        }
        loss.f_backward()?;
        self.weights.step(learning_rate)?;
        self.bases.step(learning_rate)?;
        let quantizer_rate =
            phase.quantizers.map(|(rate, falls)| if falls { rate * cosine(self.done, 0, self.steps) } else { rate });
        if let (Some(adam), Some(rate)) = (&mut self.quantizers, quantizer_rate) {
            adam.step(rate)?;
        }
        objective.after_step(session, t)?;
        self.done += 1;
        session.step += 1;
        let quantizer_learning_rate = self.quantizers.is_some().then_some(quantizer_rate).flatten();
        Ok(Step { loss: terms, logits, learning_rate, quantizer_learning_rate })
    }
}

/// Trains for a stage, evaluating after each epoch but the last: what a stage does at its end comes before its evaluation.
///
/// # Errors
/// [`TrainError::Diverged`] if the loss is not finite; whatever the network, the data or a sink fail with.
pub fn fit(session: &mut Session<'_>, phase: &Phase, objective: &mut dyn Objective) -> Result<(), TrainError> {
    let per_epoch = session.feed.steps_per_epoch() as u64;
    let mut trainer = Trainer::new(session, phase)?;
    let steps = trainer.steps;
    let started = Instant::now();
    session.sink.event(&Event::StageStarted {
        stage: phase.name.to_owned(),
        index: phase.index,
        stages: session.recipe.stages.len(),
        epochs: phase.length.epochs(per_epoch as usize),
        steps,
    })?;
    let device = session.device;
    let report_every = (per_epoch / 10).max(1);
    let freeze_norm = phase.batch_norm == BatchNorm::Frozen;
    while trainer.done < steps {
        session.model.network.set_train(true, freeze_norm)?;
        let mut window = Window::new(device)?;
        let epoch_started = Instant::now();
        let mut trained = 0_u64;
        let epoch = session.epochs;
        session.epochs += 1;
        let mut batches = session.feed.train_epoch(epoch, 0);
        while let Some(batch) = batches.next() {
            let (x, y) = batch?;
            let step = trainer.step(session, phase, objective, (&x, &y))?;
            window.add(&step.loss, &step.logits, &y)?;
            trained += y.size()[0] as u64;
            let done = trainer.done;
            if done.is_multiple_of(report_every) || done.is_multiple_of(per_epoch) || done == steps {
                let losses = Vec::<f64>::try_from(window.losses.f_to_device(tch::Device::Cpu)?)?;
                let count = window.steps as f64;
                let total = losses.iter().sum::<f64>() / count;
                if !total.is_finite() {
                    let first = first_broken_site(session, &x)?;
                    return Err(TrainError::Diverged { loss: total, step: done, stage: phase.name.to_owned(), first });
                }
                let state = objective.state();
                let elapsed = window.since.elapsed().as_secs_f64();
                session.sink.event(&Event::Step {
                    step: session.step,
                    stage: phase.name.to_owned(),
                    stage_step: done,
                    stage_steps: steps,
                    epoch: done as f64 / per_epoch as f64,
                    loss: Losses {
                        task: losses[0] / count,
                        distillation: step.loss.distillation.is_some().then_some(losses[1] / count),
                        rate: step.loss.rate.is_some().then_some(losses[2] / count),
                        budget: state.map(|s| s.term),
                    },
                    top1: 100.0 * window.correct.f_double_value(&[0])? / window.images as f64,
                    learning_rate: step.learning_rate,
                    quantizer_learning_rate: step.quantizer_learning_rate,
                    bits: session.compressor.as_ref().map(|c| c.bits_per_value()).transpose()?,
                    budget_bits: state.map(|s| s.allowed),
                    multiplier: state.map(|s| s.multiplier),
                    images_per_second: window.images as f64 / elapsed,
                    waiting: (batches.take_waited().as_secs_f64() / elapsed).min(1.0),
                })?;
                session.tell_unreadable()?;
                window = Window::new(device)?;
            }
            if done == steps {
                break;
            }
        }
        session.trained.0 += trained;
        session.trained.1 += epoch_started.elapsed().as_secs_f64();
        if trainer.done < steps {
            session.evaluate(phase.name, false)?;
        }
        if session.compressor.is_some() {
            session.report_widths()?;
        }
    }
    session
        .sink
        .event(&Event::StageEnded { stage: phase.name.to_owned(), seconds: started.elapsed().as_secs_f64() })?;
    Ok(())
}

/// Weighted divergence from the float network's prediction: `w · KL(teacher ‖ student)`, mean over the batch.
fn distillation(
    session: &Session<'_>,
    phase: &Phase,
    x: &Tensor,
    logits: &Tensor,
) -> Result<Option<Tensor>, TrainError> {
    let Some(teacher) = session.teacher.as_ref().filter(|_| phase.distillation > 0.0) else { return Ok(None) };
    let target = no_grad(|| teacher.forward(x, |_, _, _| Ok::<_, LibtorchError>(None)))?;
    let target = target.f_log_softmax(1, Kind::Float)?;
    let student = logits.f_log_softmax(1, Kind::Float)?;
    let divergence = student.f_kl_div(&target, Reduction::Sum, true)?.f_div_scalar(x.size()[0] as f64)?;
    Ok(Some(divergence.f_mul_scalar(phase.distillation)?))
}

/// Where values first stop being finite, as the end of a sentence.
fn first_broken_site(session: &Session<'_>, x: &Tensor) -> Result<String, TrainError> {
    let mut first: Option<usize> = None;
    let quantizers = session.compressor.as_ref().map(|c| c.quantizers()).transpose()?;
    let _logits = no_grad(|| {
        session.model.network.forward(x, |site, side, value| -> Result<Option<Tensor>, LibtorchError> {
            let finite = value.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0;
            if !finite && first.is_none() {
                first = Some(site);
            }
            match (&session.compressor, &quantizers) {
                (Some(compressor), Some(quantizers)) => compressor.hook(site, side, value, quantizers),
                _ => Ok(None),
            }
        })
    })?;
    let name = first.map(|site| session.model.network.survey().sites[site].name.clone());
    Ok(name.map_or(String::new(), |name| format!("; values first stop being finite at site `{name}`")))
}

#[cfg(test)]
mod tests {
    use super::cosine;

    #[test]
    fn the_learning_rate_rises_and_falls_to_nothing() {
        let curve: Vec<f64> = (0..100).map(|step| cosine(step, 10, 100)).collect();
        assert!((curve[0] - 0.1).abs() < 1e-12 && (curve[9] - 1.0).abs() < 1e-12);
        assert!(curve[10..].windows(2).all(|w| w[1] < w[0]));
        assert!(curve[99] < 0.001);
    }
}
