//! How the budget falls from the starting width to the target over the search.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The curve of the budget over the search stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Anneal {
    /// The same number of bits at every step.
    Linear,
    /// Slow at both ends, fast in the middle.
    Cosine,
    /// The same ratio at every step: fast at high widths, slow at low ones.
    #[default]
    Exponential,
}

/// Part of the search after which the target stands: the rest is for settling.
pub const FALL: f64 = 0.85;

impl Anneal {
    /// The budget at `t`, the done part of the search from 0 to 1: [`Self::position`] over its first [`FALL`].
    pub fn budget(self, start: f64, target: f64, t: f64) -> f64 {
        self.position(start, target, t / FALL)
    }

    /// The budget in bits per value at the part `t` of the stage (clamped to 0..=1), between `from` at its
    /// start and `to` at its end; both must be above 0.
    ///
    /// * linear: `from + (to − from)·t`
    /// * cosine: `to + (from − to)·(1 + cos πt)/2`
    /// * exponential: `from·(to/from)^t`
    pub fn position(self, from: f64, to: f64, t: f64) -> f64 {
        let t = t.clamp(0.0, 1.0);
        // The budget is a constraint: its ends must be met exactly, not a rounding error beside them.
        if t == 0.0 {
            return from;
        }
        if t == 1.0 {
            return to;
        }
        match self {
            Self::Linear => from + (to - from) * t,
            Self::Cosine => to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos()),
            Self::Exponential => from * (to / from).powf(t),
        }
    }
}

impl std::fmt::Display for Anneal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::Exponential => "exponential",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn middles_are_those_of_the_formulas() {
        assert_eq!(Anneal::Linear.position(8.0, 2.0, 0.5), 5.0);
        assert!((Anneal::Cosine.position(8.0, 2.0, 0.25) - 7.121_320).abs() < 1e-5);
        assert!((Anneal::Exponential.position(8.0, 2.0, 0.5) - 4.0).abs() < 1e-12);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn curves_meet_both_ends_and_never_rise(from in 0.1f64..8.0, part in 0.01f64..=1.0, a in 0.0f64..=1.0, b in 0.0f64..=1.0) {
            let to = from * part;
            let (early, late) = if a < b { (a, b) } else { (b, a) };
            for curve in [Anneal::Linear, Anneal::Cosine, Anneal::Exponential] {
                prop_assert_eq!(curve.position(from, to, 0.0), from);
                prop_assert_eq!(curve.position(from, to, 1.0), to);
                prop_assert_eq!(curve.position(from, to, 7.0), to);
                let (high, low) = (curve.position(from, to, early), curve.position(from, to, late));
                prop_assert!(high >= low - 1e-12);
                prop_assert!((to - 1e-12..=from + 1e-12).contains(&low));
            }
        }
    }
}
