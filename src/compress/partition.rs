//! Automatic group partition: which coefficients share a quantizer, which are dropped, and which transform a site gets.
//!
//! One multiplier μ (the price of a bit, the counterpart of the water level θ of reverse water-filling) for the whole
//! network: each site minimises `Σ_groups (D(group, d, b) + μ·b·size) · positions` over at most `G` contiguous groups of its
//! sorted coefficients by dynamic programming, exactly, with the distortion `D` measured rather than modelled. μ is then
//! found by bisection so that the whole takes the asked bits. So bits flow between sites as well as groups, and a site
//! whose transform doesn't pay keeps `none`.

use super::distortion::Distortion;
use super::quantizer::{MAX_BITS, widths};

/// A further group must save this part of its site's price of one bit a value: its step, range and kernel cost something.
const GROUP_PRICE: f64 = 0.01;

/// A set of coefficients that share one quantizer.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedGroup {
    /// Indices of the coefficients.
    pub members: Vec<usize>,
    /// Width at the asked bits; 0 if dropped.
    pub bits: u32,
    /// Step `d` of least distortion at each width 0..=8 (the entry of width 0 means nothing).
    pub steps: Vec<f64>,
    /// Weighted distortion at each width 0..=8 with that step, times the site's positions: the loss that one image's
    /// values of this group add.
    pub cost: Vec<f64>,
}

/// The plan of one site under one transform.
#[derive(Debug, Clone, PartialEq)]
pub struct SitePlan {
    /// Groups by falling `sᵢ·σᵢ²` of their coefficients; any of them may be dropped, as a rule the last.
    pub groups: Vec<PlannedGroup>,
    /// Weighted distortion for one image.
    pub distortion: f64,
    /// Bits for one image.
    pub bits: f64,
    price: f64,
}

/// A site's transforms to choose from.
#[derive(Debug, Clone)]
pub struct Candidates {
    /// Values of one channel of one image.
    pub positions: usize,
    /// Without a transform, if that may be chosen.
    pub none: Option<Distortion>,
    /// With PCA, if that may be chosen.
    pub pca: Option<Distortion>,
    /// Multiply-accumulates of transform and inverse with all coefficients kept, for one image.
    pub pca_macs: f64,
}

/// What the network gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// For each site: whether it has PCA, and its groups.
    pub sites: Vec<(bool, SitePlan)>,
    /// Bits per value of the original tensors.
    pub bits_per_value: f64,
}

/// Plans the whole network for at most `bits_per_value`, with at most `max_groups` groups a site and at most `max_macs`
/// multiply-accumulates for the transforms of one image. Pure and deterministic.
pub fn partition(sites: &[Candidates], bits_per_value: f64, max_groups: usize, max_macs: f64) -> Partition {
    let values: f64 = sites.iter().map(|s| (s.positions * channels(s)) as f64).sum();
    let at = |price: f64| {
        let plans = choose(sites, price, max_groups, max_macs);
        let bits = plans.iter().map(|(_, plan)| plan.bits).sum::<f64>() / values.max(1.0);
        Partition { sites: plans, bits_per_value: bits }
    };
    // Prices span many orders of magnitude (squared gradients): bisect their logarithm.
    let (mut low, mut high) = (-200.0_f64, 60.0_f64);
    let mut best = at(high.exp2());
    for _ in 0..36 {
        let middle = f64::midpoint(low, high);
        let plan = at(middle.exp2());
        if plan.bits_per_value <= bits_per_value {
            high = middle;
            best = plan;
        } else {
            low = middle;
        }
    }
    best
}

fn channels(site: &Candidates) -> usize {
    site.none.as_ref().or(site.pca.as_ref()).map_or(0, |d| d.order.len())
}

/// The best transform of each site at a price, those that save most per multiply-accumulate first.
fn choose(sites: &[Candidates], price: f64, max_groups: usize, max_macs: f64) -> Vec<(bool, SitePlan)> {
    let plan = |d: &Distortion, site: &Candidates| plan_site(d, site.positions, price, max_groups);
    let mut plans = Vec::with_capacity(sites.len());
    let mut gains = Vec::new();
    let mut macs = 0.0;
    for (index, site) in sites.iter().enumerate() {
        let none = site.none.as_ref().map(|d| plan(d, site));
        let pca = site.pca.as_ref().map(|d| plan(d, site));
        match (none, pca) {
            (Some(none), Some(pca)) => {
                if pca.price < none.price {
                    gains.push(((none.price - pca.price) / site.pca_macs.max(1.0), index, pca));
                }
                plans.push((false, none));
            }
            (Some(none), None) => plans.push((false, none)),
            (None, Some(pca)) => {
                macs += site.pca_macs;
                plans.push((true, pca));
            }
            (None, None) => plans.push((false, SitePlan { groups: vec![], distortion: 0.0, bits: 0.0, price: 0.0 })),
        }
    }
    gains.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, index, pca) in gains {
        if macs + sites[index].pca_macs <= max_macs {
            macs += sites[index].pca_macs;
            plans[index] = (true, pca);
        }
    }
    plans
}

/// The cheapest at most `max_groups` contiguous groups of a site's runs: exact, `O(runs² · (groups + widths))`.
fn plan_site(distortion: &Distortion, positions: usize, price: f64, max_groups: usize) -> SitePlan {
    let runs = distortion.runs();
    let positions = positions as f64;
    let size = |from: usize, to: usize| (distortion.bounds[to] - distortion.bounds[from]) as f64;
    // The least price of one group of the runs `from..to`, and its width.
    let group = |from: usize, to: usize| {
        let choices = widths(distortion.signed).map(|bits| {
            let choice = distortion.best_step(from, to, bits);
            (choice.distortion + price * f64::from(bits) * size(from, to), bits)
        });
        choices.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
    };
    let row = |from: usize| (0..=runs).map(|to| if to > from { group(from, to) } else { (0.0, 0) }).collect();
    let interval: Vec<Vec<(f64, u32)>> = (0..runs).map(row).collect();
    let group_price = GROUP_PRICE * price * size(0, runs) / max_groups.max(1) as f64;
    // best[g][to]: the least price of the runs before `to` in g groups, and where the last one starts.
    let mut best = vec![vec![(f64::INFINITY, 0_usize); runs + 1]; max_groups + 1];
    best[0][0].0 = 0.0;
    for groups in 1..=max_groups {
        for to in 1..=runs {
            let starts = (0..to).map(|from| (best[groups - 1][from].0 + interval[from][to].0 + group_price, from));
            best[groups][to] = starts.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, 0));
        }
    }
    let count = (1..=max_groups).min_by(|&a, &b| best[a][runs].0.total_cmp(&best[b][runs].0)).unwrap_or(1);
    let (mut to, mut groups) = (runs, Vec::new());
    for g in (1..=count).rev() {
        let from = best[g][to].1;
        let (_, bits) = interval[from][to];
        let members = distortion.order[distortion.bounds[from]..distortion.bounds[to]].to_vec();
        let choices: Vec<_> = (0..=MAX_BITS).map(|b| distortion.best_step(from, to, b)).collect();
        groups.push(PlannedGroup {
            members,
            bits,
            steps: choices.iter().map(|c| c.step).collect(),
            cost: choices.iter().map(|c| c.distortion * positions).collect(),
        });
        to = from;
    }
    groups.reverse();
    let bits = groups.iter().map(|g| f64::from(g.bits) * g.members.len() as f64).sum::<f64>() * positions;
    let loss = groups.iter().map(|g| g.cost[g.bits as usize]).sum::<f64>();
    SitePlan { groups, distortion: loss, bits, price: best[count][runs].0 * positions }
}

#[cfg(test)]
mod tests {
    use super::super::distortion::{Coefficients, samples::gaussian};
    use super::*;
    use proptest::prelude::*;

    fn measured(coefficients: &Coefficients) -> Distortion {
        Distortion::measure(coefficients)
    }

    /// The least price over every way to cut the sorted coefficients, by recursion.
    fn brute_force(d: &Distortion, from: usize, groups_left: usize, price: f64, group_price: f64) -> f64 {
        let runs = d.runs();
        if from == runs {
            return 0.0;
        }
        if groups_left == 0 {
            return f64::INFINITY;
        }
        let cut = |to: usize| {
            let size = (d.bounds[to] - d.bounds[from]) as f64;
            let of_width = |bits: u32| d.best_step(from, to, bits).distortion + price * f64::from(bits) * size;
            let cheapest = widths(d.signed).map(of_width).fold(f64::INFINITY, f64::min);
            cheapest + group_price + brute_force(d, to, groups_left - 1, price, group_price)
        };
        (from + 1..=runs).map(cut).fold(f64::INFINITY, f64::min)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_partition_of_a_site_is_the_best_of_all(
            deviations in prop::collection::vec(0.001_f64..3.0, 1..=10),
            max_groups in 1_usize..=4,
            price in -20.0_f64..2.0,
            signed: bool,
        ) {
            let sensitivity = vec![1.0; deviations.len()];
            let d = measured(&gaussian(&deviations, &sensitivity, signed, 200, 7));
            let price = price.exp2();
            let plan = plan_site(&d, 1, price, max_groups);
            let group_price = GROUP_PRICE * price * deviations.len() as f64 / max_groups as f64;
            let best = brute_force(&d, 0, max_groups, price, group_price);
            prop_assert!((plan.price - best).abs() <= 1e-9 * best.max(1e-30), "{} against {best}", plan.price);
            let mut members: Vec<_> = plan.groups.iter().flat_map(|g| g.members.clone()).collect();
            members.sort_unstable();
            prop_assert_eq!(members, (0..deviations.len()).collect::<Vec<_>>());
        }

        #[test]
        fn a_partition_never_takes_more_than_asked(bits in 0.01_f64..8.0, seed in 0_u64..50) {
            let deviations: Vec<f64> = (0..12).map(|i| 2.0_f64.powi(-(i % 7))).collect();
            let site = |signed, seed| measured(&gaussian(&deviations, &[1.0; 12], signed, 100, seed));
            let sites = [
                Candidates { positions: 16, none: Some(site(false, seed)), pca: Some(site(true, seed + 1)), pca_macs: 1e3 },
                Candidates { positions: 4, none: Some(site(false, seed + 2)), pca: None, pca_macs: 0.0 },
            ];
            let plan = partition(&sites, bits, 4, 1e9);
            prop_assert!(plan.bits_per_value <= bits);
            prop_assert!(partition(&sites, bits, 4, 10.0).sites.iter().all(|(pca, _)| !pca), "no multiply-accumulates left");
        }
    }

    #[test]
    fn water_filling_gives_bits_by_the_logarithm_of_the_variance() {
        // Reverse water-filling: each factor 16 of variance is 2 bits. With one group a coefficient the measured plan
        // follows within one bit, which is what whole widths allow.
        let deviations = [16.0, 4.0, 1.0, 0.25];
        let d = measured(&gaussian(&deviations, &[1.0; 4], true, 4_000, 11));
        let sites = [Candidates { positions: 1, none: None, pca: Some(d), pca_macs: 0.0 }];
        let plan = partition(&sites, 4.0, 4, f64::INFINITY);
        let bits: Vec<u32> = plan.sites[0].1.groups.iter().flat_map(|g| vec![g.bits; g.members.len()]).collect();
        assert!(bits.windows(2).all(|w| w[0] >= w[1]), "{bits:?}");
        assert!(bits[0] >= 5 && bits[3] <= 3, "{bits:?}");
    }

    #[test]
    fn coefficients_that_carry_nothing_are_dropped() {
        let mut deviations = vec![1.0; 4];
        deviations.extend([1e-6; 12]);
        let d = measured(&gaussian(&deviations, &[1.0; 16], true, 500, 13));
        let sites = [Candidates { positions: 1, none: None, pca: Some(d), pca_macs: 0.0 }];
        let plan = partition(&sites, 1.0, 8, f64::INFINITY);
        let dropped: usize = plan.sites[0].1.groups.iter().filter(|g| g.bits == 0).map(|g| g.members.len()).sum();
        assert_eq!(dropped, 12);
    }
}
