//! The budget that falls over the search, and the multiplier that prices bits for the quantizers' learning.
//!
//! The loss carries `λ·(B/B₀(t) − 1) + ρ/2·max(0, B/B₀(t) − 1)²`, an augmented Lagrangian: `B` is the differentiable total of
//! `values × bits`, `B₀(t)` falls from the starting bits to the target. λ rises while the widths lie above the budget and
//! falls while they lie below, so nobody has to choose a λ. It rises slowly: that whole widths never exceed the budget is
//! not its task but that of [`Compressor::follow`](super::compressor::Compressor::follow), after every step.

use crate::recipe::Anneal;

/// The falling budget `B₀(t)` in bits per value.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bits per value at the start.
    pub start: f64,
    /// Bits per value at the end.
    pub target: f64,
    /// The curve between them.
    pub anneal: Anneal,
}

impl Budget {
    /// `B₀` at `t`, the done part of the search from 0 to 1.
    pub fn at(&self, t: f64) -> f64 {
        self.anneal.budget(self.start, self.target, t)
    }
}

/// The multiplier λ, by dual ascent.
#[derive(Debug, Clone, Copy)]
pub struct Multiplier {
    value: f64,
}

/// Weight ρ of the quadratic term.
const QUADRATIC: f64 = 20.0;
/// Rise of λ per step and unit of `B/B₀ − 1`.
const ASCENT: f64 = 0.1;

impl Default for Multiplier {
    fn default() -> Self {
        Self { value: 0.0 }
    }
}

impl Multiplier {
    /// λ as it stood.
    pub fn at(value: f64) -> Self {
        Self { value }
    }

    /// λ.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// The derivative of the budget's term by `B/B₀`, where that is `excess + 1`.
    pub fn slope(&self, excess: f64) -> f64 {
        self.value + QUADRATIC * excess.max(0.0)
    }

    /// The budget's term of the loss.
    pub fn term(&self, excess: f64) -> f64 {
        self.value * excess + QUADRATIC / 2.0 * excess.max(0.0).powi(2)
    }

    /// One step of dual ascent after the widths stood `excess` above (or below) the budget.
    pub fn ascend(&mut self, excess: f64) {
        self.value = (self.value + ASCENT * excess).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::FALL;

    #[test]
    fn the_budget_falls_to_the_target_and_stays() {
        for anneal in [Anneal::Linear, Anneal::Cosine, Anneal::Exponential] {
            let budget = Budget { start: 8.0, target: 2.16, anneal };
            assert!((budget.at(0.0) - 8.0).abs() < 1e-12);
            assert!((budget.at(FALL) - 2.16).abs() < 1e-12 && (budget.at(1.0) - 2.16).abs() < 1e-12);
            assert!((0..100).all(|i| budget.at(f64::from(i) / 100.0) >= budget.at(f64::from(i + 1) / 100.0)));
        }
    }

    #[test]
    fn the_multiplier_finds_the_budget_from_both_sides() {
        // Widths that answer to the slope like a spring: B/B₀ = 1.5 − slope/10, so that λ = 5 is the balance.
        for start in [0.0, 12.0] {
            let mut multiplier = Multiplier { value: start };
            let mut excess: f64 = 0.5;
            for _ in 0..2000 {
                excess += 0.1 * ((0.5 - multiplier.slope(excess) / 10.0) - excess);
                multiplier.ascend(excess);
            }
            assert!(excess.abs() < 0.02 && (multiplier.value() - 5.0).abs() < 0.5, "{excess} {}", multiplier.value());
        }
    }
}
