//! What a stage adds to the task's loss, and what it does between steps.

use tch::{Tensor, no_grad};

use super::error::TrainError;
use super::fit::{Loss, Phase};
use super::session::Session;
use crate::compress::budget::{Budget, FALL, Multiplier};
use crate::compress::compressor::Compressor;
use crate::recipe::{BatchNorm, SearchStage};
use crate::report::Event;

/// How often a search asks which dropped groups the loss wants back.
const PROBES: u32 = 8;
/// Batches that a probe averages over.
const PROBE_BATCHES: usize = 2;

/// The budget as it stood at a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct BudgetState {
    /// `B₀(t)` in bits per value.
    pub allowed: f64,
    /// λ.
    pub multiplier: f64,
    /// The term in the loss.
    pub term: f64,
}

/// A stage's part of the loss. `t` is the done part of the stage, from 0 to 1.
pub trait Objective {
    /// A term with gradient, to be added to the loss.
    ///
    /// # Errors
    /// If libtorch fails.
    fn term(&mut self, compressor: &Compressor, t: f64) -> Result<Option<Tensor>, TrainError>;

    /// Called after each step of the optimizers.
    ///
    /// # Errors
    /// If libtorch or the data fail.
    fn after_step(&mut self, session: &mut Session<'_>, t: f64) -> Result<(), TrainError>;

    /// For reports.
    fn state(&self) -> Option<BudgetState>;
}

/// Nothing but the task.
#[derive(Debug)]
pub struct TaskAlone;

impl Objective for TaskAlone {
    fn term(&mut self, _: &Compressor, _: f64) -> Result<Option<Tensor>, TrainError> {
        Ok(None)
    }

    fn after_step(&mut self, _: &mut Session<'_>, _: f64) -> Result<(), TrainError> {
        Ok(())
    }

    fn state(&self) -> Option<BudgetState> {
        None
    }
}

/// The falling budget of the search.
#[derive(Debug)]
pub struct FallingBudget {
    budget: Budget,
    multiplier: Multiplier,
    excess: f64,
    state: BudgetState,
    /// The search itself, if dropped groups may come back.
    revival: Option<Phase>,
    probes: u32,
    /// What a bit of an image is worth: the loss that the last saved one has cost.
    price: f64,
}

impl FallingBudget {
    /// The budget of a search that trains as `phase` says; starts with λ = 0.
    pub fn new(stage: &SearchStage, phase: &Phase) -> Self {
        let budget = Budget { start: stage.start_bits, target: stage.target_bits, anneal: stage.anneal };
        let revival = stage.revival.then(|| phase.clone());
        let (multiplier, state) = (Multiplier::default(), BudgetState::default());
        Self { budget, multiplier, excess: 0.0, state, revival, probes: 0, price: f64::INFINITY }
    }

    /// Takes dropped groups back that are worth their bits.
    fn revive(&mut self, session: &mut Session<'_>) -> Result<(), TrainError> {
        let Some(phase) = &self.revival else { return Ok(()) };
        if !session.compressor.as_ref().is_some_and(Compressor::has_dropped) {
            return Ok(());
        }
        session.model.network.set_train(false, false)?;
        let gains = gains(session, phase)?;
        session.model.network.set_train(true, phase.batch_norm == BatchNorm::Frozen)?;
        if let Some(compressor) = &mut session.compressor {
            let groups = compressor.revive(&gains, self.price)?;
            if groups > 0 {
                session.sink.event(&Event::Revived { step: session.step, groups })?;
            }
        }
        Ok(())
    }
}

/// `−∂L/∂α_g` of every group: how fast the loss falls as a dropped group's coefficients come back.
fn gains(session: &Session<'_>, phase: &Phase) -> Result<Vec<f64>, TrainError> {
    let Some(compressor) = &session.compressor else { return Ok(Vec::new()) };
    let quantizers = no_grad(|| compressor.quantizers())?;
    let mut gains = Vec::new();
    for batch in session.feed.calibration().take(PROBE_BATCHES) {
        let (x, y) = batch?;
        let weight = compressor.zeros()?;
        let logits = session.model.network.forward(&x, |site, position, value| {
            let codec = compressor.codec_at(site, position).map(|index| &compressor.codecs[index]);
            codec.map(|codec| codec.apply_with_dropped(value, &quantizers, &weight)).transpose()
        })?;
        let loss = Loss::of(session, phase, (&x, &y), &logits, &[])?.sum()?;
        let slopes = Tensor::f_run_backward(&[loss], &[&weight], false, false)?;
        let slopes = Vec::<f64>::try_from(slopes[0].f_to_kind(tch::Kind::Double)?.f_to_device(tch::Device::Cpu)?)?;
        gains.resize(slopes.len(), 0.0);
        for (gain, slope) in gains.iter_mut().zip(slopes) {
            *gain -= slope / PROBE_BATCHES as f64;
        }
    }
    Ok(gains)
}

impl Objective for FallingBudget {
    fn term(&mut self, compressor: &Compressor, t: f64) -> Result<Option<Tensor>, TrainError> {
        let allowed = self.budget.at(t);
        let bits = compressor.differentiable_bits()?;
        self.excess = bits.f_double_value(&[])? / allowed - 1.0;
        self.state =
            BudgetState { allowed, multiplier: self.multiplier.value(), term: self.multiplier.term(self.excess) };
        Ok(Some(bits.f_mul_scalar(self.multiplier.slope(self.excess) / allowed)?))
    }

    fn after_step(&mut self, session: &mut Session<'_>, t: f64) -> Result<(), TrainError> {
        self.multiplier.ascend(self.excess);
        if let Some(compressor) = &mut session.compressor {
            compressor.clamp()?;
            if let Some(cost) = compressor.follow(self.state.allowed)?.filter(|&cost| cost > 0.0) {
                // Distortions weighted by squared gradients are twice what they add to the loss, to second order.
                self.price = cost / 2.0;
            }
        }
        // What comes back needs time to settle before the widths are frozen.
        if t < FALL && t * f64::from(PROBES) >= f64::from(self.probes + 1) * FALL {
            self.probes += 1;
            self.revive(session)?;
        }
        Ok(())
    }

    fn state(&self) -> Option<BudgetState> {
        Some(self.state)
    }
}
