//! What a stage adds to the task's loss, and what it does between steps.

use tch::Tensor;

use super::error::TrainError;
use crate::compress::budget::{Budget, Multiplier};
use crate::compress::compressor::Compressor;

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
    /// If libtorch fails.
    fn after_step(&mut self, compressor: &mut Compressor) -> Result<(), TrainError>;

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

    fn after_step(&mut self, _: &mut Compressor) -> Result<(), TrainError> {
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
}

impl FallingBudget {
    /// Starts with λ = 0.
    pub fn new(budget: Budget) -> Self {
        Self { budget, multiplier: Multiplier::default(), excess: 0.0, state: BudgetState::default() }
    }
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

    fn after_step(&mut self, compressor: &mut Compressor) -> Result<(), TrainError> {
        self.multiplier.ascend(self.excess);
        compressor.clamp()?;
        compressor.drop_void()?;
        Ok(())
    }

    fn state(&self) -> Option<BudgetState> {
        Some(self.state)
    }
}
