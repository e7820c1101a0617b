//! Automatic group partition: which coefficients share a quantizer, which are dropped, and which transform a site gets.
//!
//! One multiplier μ (the price of a bit, the counterpart of the water level θ of reverse water-filling) for the whole
//! network: each site minimises `Σ_groups (D(group, d, b) + μ·b·size) · positions` over at most `G` contiguous groups of its
//! sorted coefficients by dynamic programming, exactly, with the distortion `D` measured rather than modelled. μ is then
//! found by bisection so that the whole takes the asked bits. So bits flow between sites as well as groups, and a site
//! whose transform doesn't pay keeps `none`. The most important group of a site always keeps a width: a site without any
//! coefficient would pass nothing on.

use super::distortion::Distortion;
use super::quantizer::{MAX_BITS, least_bits, widths};
use crate::libtorch::Codes;
use crate::recipe::PartitionRule;

/// A further group must save this part of its site's price of one bit a value: its step, range and kernel cost something.
const GROUP_PRICE: f64 = 0.01;

/// The widths that groups may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Widths {
    /// Any, and none: dimension reduction and widths together.
    Any,
    /// Any but none: nothing is dropped.
    Kept,
    /// One width or none: dimension reduction alone.
    OneOrDropped(u32),
    /// One width for all.
    One(u32),
}

impl Widths {
    /// The widths that codes of a kind may have, falling.
    fn allowed(self, codes: Codes) -> Vec<u32> {
        let one = |bits: u32| bits.clamp(least_bits(codes), MAX_BITS);
        match self {
            Self::Any => widths(codes).collect(),
            Self::Kept => widths(codes).filter(|&bits| bits > 0).collect(),
            Self::OneOrDropped(bits) => vec![one(bits), 0],
            Self::One(bits) => vec![one(bits)],
        }
    }
}

/// What a plan is free to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freedom {
    /// The widths of groups.
    pub widths: Widths,
    /// Most groups of a site.
    pub max_groups: usize,
    /// How boundaries between groups are found.
    pub rule: PartitionRule,
}

/// A set of coefficients that share one quantizer.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedGroup {
    /// Indices of the coefficients.
    pub members: Vec<usize>,
    /// Width at the asked bits; 0 if dropped.
    pub bits: u32,
    /// Step `d` of least distortion at each width 0..=8 (the entry of width 0 means nothing).
    pub steps: Vec<f64>,
    /// Largest magnitude of the group's samples.
    pub largest: f64,
    /// Weighted distortion at each width 0..=8 with that step, times the site's positions: the loss that one image's
    /// values of this group add.
    pub cost: Vec<f64>,
}

impl PlannedGroup {
    /// The runs `from..to` as a group.
    fn of(distortion: &Distortion, from: usize, to: usize, bits: u32, positions: f64) -> Self {
        let choices: Vec<_> = (0..=MAX_BITS).map(|b| distortion.best_step(from, to, b)).collect();
        Self {
            members: distortion.order[distortion.bounds[from]..distortion.bounds[to]].to_vec(),
            bits,
            steps: choices.iter().map(|c| c.step).collect(),
            largest: distortion.largest(from, to),
            cost: choices.iter().map(|c| c.distortion * positions).collect(),
        }
    }
}

/// The plan of one site under one transform.
#[derive(Debug, Clone, PartialEq)]
pub struct SitePlan {
    /// Groups by falling `sᵢ·σᵢ²` of their coefficients; any but the first may be dropped, as a rule the last.
    pub groups: Vec<PlannedGroup>,
    /// Bits for one image.
    pub bits: f64,
    /// Loss and price of bits for one image: what plans are compared by.
    price: f64,
}

impl SitePlan {
    /// Coefficients that are not dropped.
    fn kept(&self) -> usize {
        self.groups.iter().filter(|g| g.bits > 0).map(|g| g.members.len()).sum()
    }
}

/// One transform that a site may get.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The measured coefficients.
    pub distortion: Distortion,
    /// Multiply-accumulates of transform and inverse for one image and one kept coefficient, without what folds into a
    /// neighbouring layer; 0 without a transform.
    pub macs_per_coefficient: f64,
}

/// A site's transforms to choose from.
#[derive(Debug, Clone)]
pub struct Candidates {
    /// Values of one channel of one image.
    pub positions: usize,
    /// At least one.
    pub transforms: Vec<Candidate>,
}

/// What the network gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// For each site: which of its transforms, and its groups.
    pub sites: Vec<(usize, SitePlan)>,
    /// Bits of one image.
    pub bits: f64,
}

/// Plans the whole network for at most `budget` bits of one image, with at most `max_macs` multiply-accumulates for the
/// transforms of one image. Where even the least that `freedom` allows takes more than the budget, the plan is that least.
/// Pure and deterministic.
pub fn partition(sites: &[Candidates], budget: f64, freedom: Freedom, max_macs: f64) -> Partition {
    let tables: Vec<Vec<Intervals>> = sites
        .iter()
        .map(|site| site.transforms.iter().map(|t| Intervals::of(&t.distortion, freedom)).collect())
        .collect();
    let at = |price: f64| {
        let plans = choose(sites, &tables, price, freedom, max_macs);
        let bits = plans.iter().map(|(_, plan)| plan.bits).sum::<f64>();
        Partition { sites: plans, bits }
    };
    // Prices span many orders of magnitude (squared gradients): bisect their logarithm.
    let (mut low, mut high) = (-200.0_f64, 60.0_f64);
    let mut best = at(high.exp2());
    for _ in 0..36 {
        let middle = f64::midpoint(low, high);
        let plan = at(middle.exp2());
        if plan.bits <= budget {
            high = middle;
            best = plan;
        } else {
            low = middle;
        }
    }
    best
}

/// Dimension reduction first, widths after: chooses transforms and ranks so that the share `kept` of all values remains,
/// with 8 bits on each of them, then groups and widths of what remains for at most `budget` bits of one image. Dropped
/// coefficients are each site's last group.
pub fn partition_kept(sites: &[Candidates], kept: f64, budget: f64, freedom: Freedom, max_macs: f64) -> Partition {
    let values: f64 = sites.iter().map(|s| (s.positions * channels(s)) as f64).sum();
    let ranks = Freedom { widths: Widths::OneOrDropped(MAX_BITS), max_groups: 2, rule: PartitionRule::Automatic };
    let reduced = partition(sites, kept * values * f64::from(MAX_BITS), ranks, max_macs);
    let mut left = Vec::with_capacity(sites.len());
    let mut gone = Vec::with_capacity(sites.len());
    for (site, (choice, plan)) in sites.iter().zip(&reduced.sites) {
        let Candidate { distortion, macs_per_coefficient } = &site.transforms[*choice];
        let is_kept = |run: &usize| {
            let first = distortion.order[distortion.bounds[*run]];
            plan.groups.iter().any(|g| g.bits > 0 && g.members.contains(&first))
        };
        let (alive, dropped): (Vec<usize>, Vec<usize>) = (0..distortion.runs()).partition(is_kept);
        let one = Candidate { distortion: distortion.of_runs(&alive), macs_per_coefficient: *macs_per_coefficient };
        left.push(Candidates { positions: site.positions, transforms: vec![one] });
        let rest = distortion.of_runs(&dropped);
        let positions = site.positions as f64;
        gone.push((!dropped.is_empty()).then(|| PlannedGroup::of(&rest, 0, rest.runs(), 0, positions)));
    }
    let mut plan = partition(&left, budget, Freedom { widths: Widths::Kept, ..freedom }, f64::INFINITY);
    for (((choice, site), (before, _)), gone) in plan.sites.iter_mut().zip(&reduced.sites).zip(gone) {
        *choice = *before;
        site.groups.extend(gone);
    }
    plan
}

fn channels(site: &Candidates) -> usize {
    site.transforms.first().map_or(0, |t| t.distortion.order.len())
}

/// The best transform of each site at a price. Where multiply-accumulates are short, those steps to a costlier transform
/// come first that save most for each of them (the lower convex hull of every site's choices).
fn choose(
    sites: &[Candidates],
    tables: &[Vec<Intervals>],
    price: f64,
    freedom: Freedom,
    max_macs: f64,
) -> Vec<(usize, SitePlan)> {
    let mut plans = Vec::with_capacity(sites.len());
    let mut steps = Vec::new();
    let mut macs = 0.0;
    for (index, (site, tables)) in sites.iter().zip(tables).enumerate() {
        let options = site.transforms.iter().zip(tables).enumerate().map(|(choice, (transform, table))| {
            let plan = plan_site(&transform.distortion, table, site.positions, price, freedom);
            (plan.kept() as f64 * transform.macs_per_coefficient, choice, plan)
        });
        let mut hull: Vec<(f64, usize, SitePlan)> = Vec::new();
        let mut options: Vec<_> = options.collect();
        options.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.2.price.total_cmp(&b.2.price)).then(a.1.cmp(&b.1)));
        for option in options {
            let slope = |a: &(f64, usize, SitePlan), b: &(f64, usize, SitePlan)| {
                (a.2.price - b.2.price) / (b.0 - a.0).max(f64::MIN_POSITIVE)
            };
            if hull.last().is_some_and(|last| option.2.price >= last.2.price) {
                continue;
            }
            while hull.len() > 1
                && slope(&hull[hull.len() - 2], &hull[hull.len() - 1]) <= slope(&hull[hull.len() - 1], &option)
            {
                hull.pop();
            }
            hull.push(option);
        }
        for (step, pair) in hull.windows(2).enumerate() {
            let gain = (pair[0].2.price - pair[1].2.price) / (pair[1].0 - pair[0].0).max(f64::MIN_POSITIVE);
            steps.push((gain, index, step));
        }
        macs += hull[0].0;
        plans.push((hull, 0_usize));
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    for (_, index, step) in steps {
        let (hull, at) = &mut plans[index];
        let more = hull[step + 1].0 - hull[step].0;
        if *at == step && macs + more <= max_macs {
            macs += more;
            *at += 1;
        }
    }
    plans.into_iter().map(|(mut hull, at)| hull.swap_remove(at)).map(|(_, choice, plan)| (choice, plan)).collect()
}

/// The least distortion of every interval of runs at every allowed width, measured once for all prices.
struct Intervals {
    runs: usize,
    /// `[from · (runs + 1) + to]`, by the order of `allowed`.
    distortion: Vec<Vec<f64>>,
    allowed: Vec<u32>,
}

impl Intervals {
    fn of(distortion: &Distortion, freedom: Freedom) -> Self {
        let (runs, allowed) = (distortion.runs(), freedom.widths.allowed(distortion.codes));
        let one = |from: usize, to: usize| match to > from {
            true => allowed.iter().map(|&bits| distortion.best_step(from, to, bits).distortion).collect(),
            false => Vec::new(),
        };
        let all = (0..runs).flat_map(|from| (0..=runs).map(move |to| (from, to)));
        Self { runs, distortion: all.map(|(from, to)| one(from, to)).collect(), allowed }
    }

    /// The least price of one group of the runs `from..to` of `size` coefficients, and its width. A site's first group is
    /// not dropped.
    fn cheapest(&self, from: usize, to: usize, size: f64, price: f64) -> (f64, u32) {
        let measured = self.distortion[from * (self.runs + 1) + to].iter().zip(&self.allowed);
        let choices = measured.filter(|&(_, &bits)| bits > 0 || from > 0);
        let priced = choices.map(|(&distortion, &bits)| (distortion + price * f64::from(bits) * size, bits));
        priced.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
    }
}

/// The best groups of a site: by the rule `automatic` the cheapest at most `max_groups` contiguous groups of its runs,
/// exact, `O(runs² · (groups + widths))`; by the other rules the boundaries are given and only widths are chosen.
fn plan_site(distortion: &Distortion, table: &Intervals, positions: usize, price: f64, freedom: Freedom) -> SitePlan {
    let runs = distortion.runs();
    let positions = positions as f64;
    let size = |from: usize, to: usize| (distortion.bounds[to] - distortion.bounds[from]) as f64;
    let group = |from: usize, to: usize| table.cheapest(from, to, size(from, to), price);
    let group_price = GROUP_PRICE * price * size(0, runs) / freedom.max_groups.max(1) as f64;
    let cuts = match freedom.rule {
        PartitionRule::Automatic => cheapest_cuts(runs, freedom.max_groups, group_price, |from, to| group(from, to).0),
        PartitionRule::EqualSize => equal_cuts(runs, freedom.max_groups, |run| run as f64),
        PartitionRule::EqualEnergy => equal_cuts(runs, freedom.max_groups, |run| distortion.energies()[run]),
    };
    let (mut groups, mut total) = (Vec::new(), 0.0);
    for pair in cuts.windows(2) {
        let (cost, bits) = group(pair[0], pair[1]);
        total += cost + group_price;
        groups.push(PlannedGroup::of(distortion, pair[0], pair[1], bits, positions));
    }
    let bits = groups.iter().map(|g| f64::from(g.bits) * g.members.len() as f64).sum::<f64>() * positions;
    SitePlan { groups, bits, price: total * positions }
}

/// Bounds of the cheapest at most `max_groups` intervals that cover `0..runs`, by dynamic programming.
fn cheapest_cuts(runs: usize, max_groups: usize, group_price: f64, cost: impl Fn(usize, usize) -> f64) -> Vec<usize> {
    let interval: Vec<Vec<f64>> =
        (0..runs).map(|from| (0..=runs).map(|to| if to > from { cost(from, to) } else { 0.0 }).collect()).collect();
    // best[g][to]: the least price of the runs before `to` in g groups, and where the last one starts.
    let mut best = vec![vec![(f64::INFINITY, 0_usize); runs + 1]; max_groups + 1];
    best[0][0].0 = 0.0;
    for groups in 1..=max_groups {
        for to in 1..=runs {
            let starts = (0..to).map(|from| (best[groups - 1][from].0 + interval[from][to] + group_price, from));
            best[groups][to] = starts.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, 0));
        }
    }
    let count = (1..=max_groups).min_by(|&a, &b| best[a][runs].0.total_cmp(&best[b][runs].0)).unwrap_or(1);
    let mut cuts = vec![runs];
    for groups in (1..=count).rev() {
        cuts.push(best[groups][cuts[cuts.len() - 1]].1);
    }
    cuts.reverse();
    cuts
}

/// Bounds of `groups` intervals of `0..runs` with equal parts of what `before` counts; fewer where parts coincide.
fn equal_cuts(runs: usize, groups: usize, before: impl Fn(usize) -> f64) -> Vec<usize> {
    let total = before(runs);
    let mut cuts: Vec<usize> = (0..groups)
        .map(|part| (0..runs).find(|&run| before(run) >= total * part as f64 / groups as f64).unwrap_or(runs))
        .chain([runs])
        .collect();
    cuts.dedup();
    cuts
}

#[cfg(test)]
mod tests {
    use super::super::distortion::samples::{any_codes, measured};
    use super::*;
    use proptest::prelude::*;

    const JOINT: Freedom = Freedom { widths: Widths::Any, max_groups: 8, rule: PartitionRule::Automatic };

    fn only(positions: usize, distortion: Distortion) -> Candidates {
        Candidates { positions, transforms: vec![Candidate { distortion, macs_per_coefficient: 0.0 }] }
    }

    fn bits_of(plan: &SitePlan) -> Vec<u32> {
        plan.groups.iter().flat_map(|g| vec![g.bits; g.members.len()]).collect()
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
            let allowed = widths(d.codes).filter(|&bits| bits > 0 || from > 0);
            let cheapest = allowed.map(of_width).fold(f64::INFINITY, f64::min);
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
            codes in any_codes(),
        ) {
            let sensitivity = vec![1.0; deviations.len()];
            let d = measured(&deviations, &sensitivity, codes, 200, 7);
            let price = price.exp2();
            let freedom = Freedom { max_groups, ..JOINT };
            let plan = plan_site(&d, &Intervals::of(&d, freedom), 1, price, freedom);
            let group_price = GROUP_PRICE * price * deviations.len() as f64 / max_groups as f64;
            let best = brute_force(&d, 0, max_groups, price, group_price);
            prop_assert!((plan.price - best).abs() <= 1e-9 * best.max(1e-30), "{} against {best}", plan.price);
            let mut members: Vec<_> = plan.groups.iter().flat_map(|g| g.members.clone()).collect();
            members.sort_unstable();
            prop_assert_eq!(members, (0..deviations.len()).collect::<Vec<_>>());
        }

        #[test]
        fn a_partition_never_takes_more_than_asked(bits in 0.4_f64..8.0, seed in 0_u64..50, macs in 0.0_f64..200.0) {
            let deviations: Vec<f64> = (0..12).map(|i| 2.0_f64.powi(-(i % 7))).collect();
            let site = |codes, seed| measured(&deviations, &[1.0; 12], codes, 100, seed);
            let transforms = vec![
                Candidate { distortion: site(Codes::Unsigned, seed), macs_per_coefficient: 0.0 },
                Candidate { distortion: site(Codes::MidTread, seed + 1), macs_per_coefficient: 4.0 },
                Candidate { distortion: site(Codes::MidRise, seed + 3), macs_per_coefficient: 12.0 },
            ];
            let sites = [Candidates { positions: 16, transforms }, only(4, site(Codes::Unsigned, seed + 2))];
            let values = 12.0 * 20.0;
            // The least that keeps one coefficient of each site is 0.2 bits here.
            let plan = partition(&sites, bits * values, JOINT, macs);
            prop_assert!(plan.bits <= bits * values);
            let used: f64 =
                plan.sites.iter().zip(&sites).map(|((t, p), s)| p.kept() as f64 * s.transforms[*t].macs_per_coefficient).sum();
            prop_assert!(used <= macs);
            prop_assert!(plan.sites.iter().all(|(_, p)| p.groups[0].bits > 0), "a site without any coefficient");
        }

        #[test]
        fn what_dimension_reduction_drops_first_stays_dropped(kept in 0.2_f64..1.0, seed in 0_u64..20) {
            let deviations: Vec<f64> = (0..16).map(|i| 1.5_f64.powi(-i)).collect();
            let site = |seed| only(8, measured(&deviations, &[1.0; 16], Codes::MidTread, 100, seed));
            let sites = [site(seed), site(seed + 1)];
            let values = 2.0 * 16.0 * 8.0;
            let plan = partition_kept(&sites, kept, kept * values * 4.0, JOINT, f64::INFINITY);
            let alive: usize = plan.sites.iter().map(|(_, p)| p.kept() * 8).sum();
            prop_assert!(alive as f64 <= kept * values && plan.bits <= kept * values * 4.0);
            for (_, site) in &plan.sites {
                let mut members: Vec<_> = site.groups.iter().flat_map(|g| g.members.clone()).collect();
                members.sort_unstable();
                prop_assert_eq!(members, (0..16).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn water_filling_gives_bits_by_the_logarithm_of_the_variance() {
        // Reverse water-filling: each factor 16 of variance is 2 bits. With one group a coefficient the measured plan
        // follows within one bit, which is what whole widths allow.
        let deviations = [16.0, 4.0, 1.0, 0.25];
        let d = measured(&deviations, &[1.0; 4], Codes::MidTread, 4_000, 11);
        let plan = partition(&[only(1, d)], 16.0, Freedom { max_groups: 4, ..JOINT }, f64::INFINITY);
        let bits = bits_of(&plan.sites[0].1);
        assert!(bits.windows(2).all(|w| w[0] >= w[1]), "{bits:?}");
        assert!(bits[0] >= 5 && bits[3] <= 3, "{bits:?}");
    }

    #[test]
    fn coefficients_that_carry_nothing_are_dropped() {
        let mut deviations = vec![1.0; 4];
        deviations.extend([1e-6; 12]);
        let d = measured(&deviations, &[1.0; 16], Codes::MidTread, 500, 13);
        let plan = partition(&[only(1, d)], 16.0, JOINT, f64::INFINITY);
        assert_eq!(bits_of(&plan.sites[0].1).iter().filter(|&&bits| bits == 0).count(), 12);
    }

    #[test]
    fn dimension_reduction_alone_has_one_width() {
        let deviations: Vec<f64> = (0..16).map(|i| 1.5_f64.powi(-i)).collect();
        let d = measured(&deviations, &[1.0; 16], Codes::MidTread, 500, 17);
        let freedom = Freedom { widths: Widths::OneOrDropped(8), max_groups: 2, ..JOINT };
        let plan = partition(&[only(1, d)], 32.0, freedom, f64::INFINITY);
        assert_eq!(bits_of(&plan.sites[0].1), [vec![8; 4], vec![0; 12]].concat());
    }

    #[test]
    fn equal_rules_cut_into_equal_parts() {
        assert_eq!(equal_cuts(64, 8, |run| run as f64), (0..=8).map(|k| 8 * k).collect::<Vec<_>>());
        // Half of the energy is in the first run: the first two boundaries coincide there.
        let energies = [0.0, 4.0, 6.0, 7.0, 8.0];
        assert_eq!(equal_cuts(4, 4, |run| energies[run]), [0, 1, 2, 4]);
    }
}
