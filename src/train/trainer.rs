//! A training step: forward, loss, backward, optimizers.

use tch::Tensor;

use super::error::TrainError;
use super::fit::Phase;
use super::guard::diverged;
use super::loss::Loss;
use super::objective::Objective;
use super::optimizer::{Adam, Sgd};
use super::resume::{FitState, Tensors};
use super::session::Session;
use crate::compress::compressor::Compressor;
use crate::libtorch::{LibtorchError, Saved};

/// Linear rise over `warmup` steps, then a half cosine to 0 at `steps`.
fn cosine(step: u64, warmup: u64, steps: u64) -> f64 {
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let t = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
    0.5 * (1.0 + (std::f64::consts::PI * t).cos())
}

/// The optimizers of a stage, and how far it has come.
pub struct Trainer {
    weights: Sgd,
    bases: Sgd,
    quantizers: Option<Adam>,
    /// Steps of the stage.
    pub steps: u64,
    warmup: u64,
    /// Steps that are done.
    pub done: u64,
}

/// What a step leaves for reports.
pub struct Step {
    /// Its loss.
    pub loss: Loss,
    /// `[batch, classes]`.
    pub logits: Tensor,
    /// Learning rate of the weights.
    pub learning_rate: f64,
    /// Learning rate of steps and ranges, in octaves.
    pub quantizer_learning_rate: Option<f64>,
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
    /// [`TrainError::Diverged`] if the loss is not finite (on CUDA that is left to the caller); if libtorch or the data fail.
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
        let (logits, packed) = session.forward(x, (phase.entropy_weight > 0.0).then_some(&mut rates), phase.saved)?;
        if self.done == 0 && phase.saved == Saved::Packed {
            session.tell_unpacked(packed)?;
        }
        let terms = Loss::of(session, phase, (x, y), &logits, &rates)?;
        let mut loss = terms.sum()?;
        if let Some(compressor) = &session.compressor
            && let Some(term) = objective.term(compressor, t)?
        {
            loss = loss.f_add(&term)?;
        }
        // Elsewhere the answer would have to be waited for; there the reports' sums tell.
        if session.device == tch::Device::Cpu {
            let value = loss.f_double_value(&[])?;
            if !value.is_finite() {
                return Err(diverged(session, phase.name, self.done + 1, value, x)?);
            }
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

    /// Adds the optimizers' state to `tensors`. Returns the steps of Adam, where it is used.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn save(&self, tensors: &mut Vec<(String, Tensor)>) -> Result<Option<i32>, LibtorchError> {
        self.weights.save("weights", tensors)?;
        self.bases.save("bases", tensors)?;
        self.quantizers.as_ref().map(|adam| adam.save(tensors)).transpose()
    }

    /// Goes on where a checkpoint was taken.
    ///
    /// # Errors
    /// If it doesn't fit the network.
    pub fn restore(&mut self, fit: &FitState, tensors: &Tensors) -> Result<(), TrainError> {
        self.weights.restore("weights", tensors)?;
        self.bases.restore("bases", tensors)?;
        if let Some(adam) = &mut self.quantizers {
            adam.restore(fit.adam_steps.unwrap_or(0), tensors)?;
        }
        self.done = fit.done;
        Ok(())
    }
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
