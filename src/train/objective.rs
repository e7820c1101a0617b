//! What a stage adds to the task's loss, and what it does between steps.

use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use super::error::TrainError;
use super::fit::Phase;
use super::loss::Loss;
use super::resume::exact;
use super::session::Session;
use crate::compress::budget::{Budget, Multiplier};
use crate::compress::compressor::Compressor;
use crate::recipe::{BatchNorm, FALL};
use crate::report::Event;

/// How often a search asks which dropped groups the loss wants back.
const PROBES: u32 = 5;
/// Batches that a probe averages over.
const PROBE_BATCHES: usize = 4;

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

/// What a search remembers from step to step, beside the codecs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchState {
    /// λ.
    #[serde(with = "exact")]
    multiplier: f64,
    /// What a bit of an image is worth.
    #[serde(with = "exact")]
    price: f64,
    /// Probes for dropped groups so far.
    probes: u32,
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

    /// What the next step needs of the ones before.
    fn save(&self) -> Option<SearchState> {
        None
    }

    /// Goes on where [`Self::save`] was called.
    fn restore(&mut self, saved: &SearchState) {
        let _ = saved;
    }
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
    /// Starts with λ = 0. `revival`: the search, if dropped groups may come back.
    pub fn new(budget: Budget, revival: Option<Phase>) -> Self {
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

/// `−∂L/∂α_g` of every group, how fast the loss falls as a dropped group's coefficients come back: the mean over batches
/// less twice its standard error, so that noise brings nothing back.
fn gains(session: &Session<'_>, phase: &Phase) -> Result<Vec<f64>, TrainError> {
    let Some(compressor) = &session.compressor else { return Ok(Vec::new()) };
    let quantizers = no_grad(|| compressor.quantizers())?;
    let mut of_batches: Vec<Vec<f64>> = Vec::new();
    for batch in session.feed.calibration().take(PROBE_BATCHES) {
        let (x, y) = batch?;
        let weight = compressor.zeros()?;
        let logits = session.model.network.forward(&x, |site, position, value| {
            compressor.hook_with_dropped(site, position, value, &quantizers, &weight)
        })?;
        let loss = Loss::of(session, phase, (&x, &y), &logits, &[])?.sum()?;
        let slopes = Tensor::f_run_backward(&[loss], &[&weight], false, false)?;
        // Groups whose sites don't reach the logits have no slope.
        if slopes[0].defined() {
            let slopes = slopes[0].f_neg()?.f_to_kind(tch::Kind::Double)?.f_to_device(tch::Device::Cpu)?;
            of_batches.push(Vec::<f64>::try_from(slopes)?);
        }
    }
    let count = of_batches.len() as f64;
    let surely = |group: usize| {
        let mean = of_batches.iter().map(|gains| gains[group]).sum::<f64>() / count;
        let squares: f64 = of_batches.iter().map(|gains| (gains[group] - mean).powi(2)).sum();
        mean - 2.0 * (squares / (count - 1.0).max(1.0) / count).sqrt()
    };
    let groups = of_batches.first().map_or(0, Vec::len);
    Ok((0..groups).map(surely).collect())
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
        if t < FALL && t * f64::from(PROBES + 1) >= f64::from(self.probes + 1) * FALL {
            self.probes += 1;
            self.revive(session)?;
            if let Some(compressor) = &mut session.compressor {
                compressor.follow(self.state.allowed)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Option<BudgetState> {
        Some(self.state)
    }

    fn save(&self) -> Option<SearchState> {
        Some(SearchState { multiplier: self.multiplier.value(), price: self.price, probes: self.probes })
    }

    fn restore(&mut self, saved: &SearchState) {
        self.multiplier = Multiplier::at(saved.multiplier);
        (self.price, self.probes) = (saved.price, saved.probes);
    }
}
