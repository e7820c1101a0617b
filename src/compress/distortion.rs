//! The distortion of coefficients at every step and width, measured on samples and weighted by sensitivity.
//!
//! A coefficient `i` that is quantized with step `d` at width `b` adds `sᵢ · E[(Q(z) − z)²]` to the loss, to second order,
//! where `sᵢ` is the mean squared gradient of the loss with respect to it (a Fisher diagonal). Coefficients are sorted by
//! `sᵢ·σᵢ²`, so that those which share a quantizer are alike.

use super::quantizer::{MAX_BITS, least_bits, levels};
use crate::libtorch::Codes;

/// Steps of the scan: each is √2 of the next finer one.
const STEPS: usize = 32;
/// Boundaries between groups may lie between this many runs of coefficients at most; up to as many channels, everywhere.
const MAX_RUNS: usize = 64;

/// Samples of the coefficients that a site has under one transform.
#[derive(Debug, Clone)]
pub struct Coefficients {
    /// `[coefficient][sample]`, as they enter the quantizer: without the offset of a kept coefficient.
    pub samples: Vec<Vec<f32>>,
    /// Mean squared gradient of the loss with respect to each coefficient.
    pub sensitivity: Vec<f64>,
}

impl Coefficients {
    /// Mean squared error of a coefficient when it is dropped and its mean stands for it.
    fn variance(&self, coefficient: usize) -> f64 {
        let samples = &self.samples[coefficient];
        let count = samples.len().max(1) as f64;
        let mean = samples.iter().map(|&z| f64::from(z)).sum::<f64>() / count;
        samples.iter().map(|&z| (f64::from(z) - mean).powi(2)).sum::<f64>() / count
    }
}

/// Weighted distortion of runs of sorted coefficients, summed from the first run on, so that any interval is one
/// subtraction.
#[derive(Debug, Clone)]
pub struct Distortion {
    /// Which codes it has.
    pub codes: Codes,
    /// Coefficients by falling `sᵢ·σᵢ²`.
    pub order: Vec<usize>,
    /// Bounds of the runs in `order`: `runs + 1` numbers from 0 to the number of coefficients.
    pub bounds: Vec<usize>,
    /// The steps `d` of the scan, rising.
    pub steps: Vec<f64>,
    /// Largest magnitude of each run's samples.
    largest: Vec<f64>,
    /// `[step][width][run]`: the distortion of all runs before this one. Width 0 (dropped) is the same at every step.
    sums: Vec<Vec<Vec<f64>>>,
}

/// What the best quantizer of an interval costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Width in bits; 0 if dropped.
    pub bits: u32,
    /// The step `d`.
    pub step: f64,
    /// Weighted distortion per position.
    pub distortion: f64,
}

impl Distortion {
    /// Measures the coefficients of one site with one kind of codes.
    pub fn measure(coefficients: &Coefficients, codes: Codes) -> Self {
        let count = coefficients.samples.len();
        let energy: Vec<f64> =
            (0..count).map(|i| coefficients.variance(i) * coefficients.sensitivity[i].max(0.0)).collect();
        let mut order: Vec<usize> = (0..count).collect();
        // Ties (dead channels) keep the order of the basis: the result is the same on every machine.
        order.sort_by(|&a, &b| energy[b].total_cmp(&energy[a]).then(a.cmp(&b)));
        let runs = count.min(MAX_RUNS);
        let bounds: Vec<usize> = (0..=runs).map(|run| run * count / runs.max(1)).collect();
        let largest = coefficients.samples.iter().flatten().fold(0.0_f32, |m, &z| m.max(z.abs()));
        let largest = if largest > 0.0 && largest.is_finite() { f64::from(largest) } else { 1.0 };
        let steps: Vec<f64> =
            (0..STEPS).map(|k| largest * 2_f64.powf((k as f64 - (STEPS as f64 - 1.0)) / 2.0)).collect();
        let mut sums = vec![vec![vec![0.0; runs + 1]; MAX_BITS as usize + 1]; STEPS];
        for run in 0..runs {
            for sums in sums.iter_mut().flatten() {
                sums[run + 1] = sums[run];
            }
            for &i in &order[bounds[run]..bounds[run + 1]] {
                let weight = coefficients.sensitivity[i].max(0.0);
                for (k, &step) in steps.iter().enumerate() {
                    sums[k][0][run + 1] += energy[i];
                    for bits in least_bits(codes)..=MAX_BITS {
                        let error = mean_squared_error(&coefficients.samples[i], step, bits, codes);
                        sums[k][bits as usize][run + 1] += weight * error;
                    }
                }
            }
        }
        let of_run = |run: usize| {
            let samples = order[bounds[run]..bounds[run + 1]].iter().flat_map(|&i| &coefficients.samples[i]);
            f64::from(samples.fold(0.0_f32, |m, &z| m.max(z.abs())))
        };
        let largest = (0..runs).map(of_run).collect();
        Self { codes, order, bounds, steps, largest, sums }
    }

    /// Number of runs between which boundaries may lie.
    pub fn runs(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Weighted energy `Σ sᵢ·σᵢ²` of all runs before each: `runs + 1` numbers, rising from 0.
    pub fn energies(&self) -> &[f64] {
        &self.sums[0][0]
    }

    /// The same measurements of some runs alone, in their order; the others are no part of it.
    pub fn of_runs(&self, runs: &[usize]) -> Self {
        let order = runs.iter().flat_map(|&run| self.order[self.bounds[run]..self.bounds[run + 1]].iter().copied());
        let mut bounds = vec![0];
        for &run in runs {
            bounds.push(bounds[bounds.len() - 1] + self.bounds[run + 1] - self.bounds[run]);
        }
        let restrict = |sums: &Vec<f64>| {
            let mut kept = vec![0.0];
            for &run in runs {
                kept.push(kept[kept.len() - 1] + sums[run + 1] - sums[run]);
            }
            kept
        };
        let sums = self.sums.iter().map(|widths| widths.iter().map(restrict).collect()).collect();
        let largest = runs.iter().map(|&run| self.largest[run]).collect();
        Self { codes: self.codes, order: order.collect(), bounds, steps: self.steps.clone(), largest, sums }
    }

    /// The largest magnitude among the samples of the runs `from..to`: the clip value of a quantizer that clips nothing.
    pub fn largest(&self, from: usize, to: usize) -> f64 {
        self.largest[from..to].iter().fold(0.0, |most, &one| most.max(one))
    }

    /// The best step of a common quantizer of `bits` for the runs `from..to`.
    pub fn best_step(&self, from: usize, to: usize, bits: u32) -> Choice {
        let cost = |k: usize| self.sums[k][bits as usize][to] - self.sums[k][bits as usize][from];
        let best = (0..self.steps.len()).min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or(0);
        Choice { bits, step: self.steps[best], distortion: cost(best).max(0.0) }
    }
}

/// Adding and taking away `1.5·2²³` rounds a float of up to 2²² to the nearest even integer, in two vector instructions.
const ROUNDER: f32 = 12_582_912.0;

fn mean_squared_error(samples: &[f32], step: f64, bits: u32, codes: Codes) -> f64 {
    let (step, levels) = (step as f32, levels(bits, codes) as f32);
    let half = codes.half() as f32;
    let (high, low) = (levels - half, if codes == Codes::Unsigned { 0.0 } else { -levels - half });
    let inverse = 1.0 / step;
    // Eight sums side by side, since floats are not reordered by the compiler.
    let mut sums = [0.0_f32; 8];
    let error = |z: f32| {
        let level = ((z * inverse - half).clamp(low, high) + ROUNDER) - ROUNDER + half;
        let error = z - step * level;
        error * error
    };
    let (whole, rest) = samples.as_chunks::<8>();
    for chunk in whole {
        for (sum, &z) in sums.iter_mut().zip(chunk) {
            *sum += error(z);
        }
    }
    let rest: f32 = rest.iter().map(|&z| error(z)).sum();
    f64::from(sums.iter().sum::<f32>() + rest) / samples.len().max(1) as f64
}

#[cfg(test)]
pub(super) mod samples {
    use super::{Coefficients, Distortion};
    use crate::libtorch::Codes;
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Any kind of codes.
    pub fn any_codes() -> impl Strategy<Value = Codes> {
        prop::sample::select(vec![Codes::Unsigned, Codes::MidTread, Codes::MidRise])
    }

    /// Gaussian coefficients with the given standard deviations and sensitivities.
    pub fn gaussian(deviations: &[f64], sensitivity: &[f64], codes: Codes, count: usize, seed: u64) -> Coefficients {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || {
            let (u, v): (f64, f64) = (random.random::<f64>().max(1e-12), random.random());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let samples = deviations.iter().map(|d| {
            (0..count)
                .map(|_| if codes != Codes::Unsigned { normal() * d } else { (normal() * d).max(0.0) } as f32)
                .collect()
        });
        Coefficients { samples: samples.collect(), sensitivity: sensitivity.to_vec() }
    }

    /// [`gaussian`] coefficients, measured.
    pub fn measured(deviations: &[f64], sensitivity: &[f64], codes: Codes, count: usize, seed: u64) -> Distortion {
        Distortion::measure(&gaussian(deviations, sensitivity, codes, count, seed), codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gaussian_at_four_bits_has_the_textbook_error() {
        let measured = samples::measured(&[1.0], &[1.0], Codes::MidTread, 20_000, 1);
        // Fifteen uniform levels on a unit Gaussian: Max (1960) gives 0.0127 for 15 levels. The scan's √2 grid of steps
        // and the sampling may cost a quarter.
        let choice = measured.best_step(0, 1, 4);
        assert!((0.0115..0.0160).contains(&choice.distortion), "{choice:?}");
        // Dropping costs the variance; 20,000 samples tell it to about 1 %, four sigma are 4 %.
        assert!((measured.best_step(0, 1, 0).distortion - 1.0).abs() < 0.04);
    }

    #[test]
    fn mid_rise_codes_have_the_textbook_errors() {
        let measured = samples::measured(&[1.0], &[1.0], Codes::MidRise, 20_000, 1);
        // Max (1960) for uniform levels: 0.3634 with 2, 0.1188 with 4, 0.0115 with 16; less than the grid and the sampling allow
        // for above. Mid-tread codes of two bits, three levels, are left with 0.190.
        for (bits, textbook) in [(1, 0.3634), (2, 0.1188), (4, 0.0115)] {
            let found = measured.best_step(0, 1, bits).distortion;
            assert!((0.96 * textbook..1.25 * textbook).contains(&found), "{bits} bits: {found}");
        }
    }

    #[test]
    fn a_bit_more_never_costs_distortion() {
        let measured = samples::measured(&[1.0, 0.3], &[1.0, 5.0], Codes::MidTread, 2_000, 2);
        for bits in 2..MAX_BITS {
            assert!(measured.best_step(0, 2, bits + 1).distortion <= measured.best_step(0, 2, bits).distortion);
        }
    }

    #[test]
    fn dead_coefficients_sort_last_and_cost_nothing() {
        let mut coefficients = samples::gaussian(&[0.0, 1.0, 0.0], &[1.0, 1.0, 1.0], Codes::MidTread, 500, 3);
        coefficients.sensitivity[2] = 0.0;
        let measured = Distortion::measure(&coefficients, Codes::MidTread);
        assert_eq!(measured.order[0], 1);
        assert_eq!(measured.best_step(1, 3, 0).distortion, 0.0);
    }
}
