//! Integer widths that meet a budget: from learned widths to the ones that stay.
//!
//! The budget is a constraint, not a wish: the result never takes more than the target. Starting from the widths that were
//! learned, the group that loses least per saved bit gives way until the target is met; what is then left over goes to the
//! group that gains most. What was dropped before stays dropped.

use super::quantizer::widths;
use crate::libtorch::Codes;

/// What the decision needs to know of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupCost {
    /// Which codes it has.
    pub codes: Codes,
    /// Values of one image.
    pub values: f64,
    /// The loss that one image's values add at each width 0..=8.
    pub cost: Vec<f64>,
    /// Multiply-accumulates of its transform for one image, without what folds into a neighbouring layer.
    pub macs: f64,
    /// Not to be dropped while anything else can give way: the most important group of its site, since a site without any
    /// coefficient passes nothing on, and all that a dimension reduction has kept before the search.
    pub anchor: bool,
}

/// Stands for the loss of a site that passes nothing on: above all measured losses, and finite.
const CUT_OFF: f64 = 1e30;

impl GroupCost {
    fn loss(&self, bits: u32) -> f64 {
        if self.anchor && bits == 0 { CUT_OFF } else { self.cost[bits as usize] }
    }
}

/// Total bits of one image.
pub fn total_bits(groups: &[GroupCost], bits: &[u32]) -> f64 {
    groups.iter().zip(bits).map(|(g, &b)| g.values * f64::from(b)).sum()
}

/// What frozen widths may take for one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bits.
    pub bits: f64,
    /// Multiply-accumulates of all transforms.
    pub macs: f64,
}

/// Widths near `start` within `limits`. Met for every limit from 0 on, since every group may be dropped.
/// Pure and deterministic.
pub fn meet_budget(groups: &[GroupCost], start: &[u32], limits: Limits) -> Vec<u32> {
    let mut bits = start.to_vec();
    drop_costly(groups, &mut bits, limits.macs);
    // A group that was dropped before has a step and a range of long ago.
    let alive: Vec<bool> = bits.iter().map(|&b| b > 0).collect();
    lower(groups, &mut bits, limits.bits);
    let mut total = total_bits(groups, &bits);
    loop {
        let room = limits.bits - total;
        let higher = groups.iter().enumerate().flat_map(|(index, g)| {
            let (from, alive) = (bits[index], alive[index]);
            let fits = move |&to: &u32| alive && to > from && g.values * f64::from(to - from) <= room;
            widths(g.codes).filter(fits).map(move |to| (slope(g, to, from), index, to))
        });
        let best = higher.filter(|c| c.0 > 0.0).max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, index, to)) = best else { return bits };
        let mut raised = bits.clone();
        raised[index] = to;
        let sum = total_bits(groups, &raised);
        // Rounding of the sum must not break the promise.
        if sum > limits.bits {
            return bits;
        }
        (bits, total) = (raised, sum);
    }
}

/// Lowers widths until they take at most `limit` bits for one image, each time where it costs least for a saved bit.
/// Returns what the last saved bit has cost, 0 if none had to be saved.
pub fn lower(groups: &[GroupCost], bits: &mut [u32], limit: f64) -> f64 {
    let mut price = 0.0;
    while total_bits(groups, bits) > limit {
        let lower = groups.iter().enumerate().flat_map(|(index, g)| {
            let from = bits[index];
            widths(g.codes).filter(move |&to| to < from).map(move |to| (slope(g, from, to), index, to))
        });
        let Some((cost, index, to)) = lower.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
        bits[index] = to;
        price = cost;
    }
    price
}

/// The price of leaving width `from` for `to`, per bit of the total.
fn slope(g: &GroupCost, from: u32, to: u32) -> f64 {
    let saved = g.values * (f64::from(from) - f64::from(to));
    (g.loss(to) - g.loss(from)) / saved
}

/// Drops groups of transformed coefficients, those first that lose least for a multiply-accumulate, until the rest takes
/// at most `limit` of them.
fn drop_costly(groups: &[GroupCost], bits: &mut [u32], limit: f64) {
    let taken = |bits: &[u32]| groups.iter().zip(bits).filter(|&(_, &b)| b > 0).map(|(g, _)| g.macs).sum::<f64>();
    while taken(bits) > limit {
        let costly = groups.iter().enumerate().filter(|&(index, g)| bits[index] > 0 && g.macs > 0.0);
        let priced = costly.map(|(index, g)| ((g.loss(0) - g.loss(bits[index])) / g.macs, index));
        let Some((_, index)) = priced.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
        bits[index] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::distortion::samples::any_codes;
    use super::super::quantizer::MAX_BITS;
    use super::*;
    use proptest::prelude::*;

    fn within(bits: f64) -> Limits {
        Limits { bits, macs: f64::INFINITY }
    }

    fn group(values: f64, scale: f64, codes: Codes) -> GroupCost {
        let cost = (0..=MAX_BITS).map(|b| scale * values * 0.25_f64.powi(b as i32)).collect();
        GroupCost { codes, values, cost, macs: 0.0, anchor: false }
    }

    proptest! {
        #[test]
        fn the_target_is_met_whatever_was_learned(
            groups in prop::collection::vec((1.0_f64..5000.0, 1e-9_f64..1e3, any_codes(), 0_u32..=8), 1..40),
            target in 0.0_f64..8.5,
            part in 0.0_f64..1.0,
        ) {
            let costs: Vec<_> = groups
                .iter()
                .map(|&(v, s, codes, b)| GroupCost { macs: f64::from(b % 3) * v.round(), ..group(v.round(), s, codes) })
                .collect();
            let start: Vec<u32> = groups.iter().map(|g| if g.2 == Codes::MidTread && g.3 == 1 { 2 } else { g.3 }).collect();
            let budget = target * costs.iter().map(|g| g.values).sum::<f64>();
            let macs: f64 = costs.iter().map(|g| g.macs).sum::<f64>() * part;
            let bits = meet_budget(&costs, &start, Limits { bits: budget, macs });
            prop_assert!(total_bits(&costs, &bits) <= budget);
            let taken = costs.iter().zip(&bits).filter(|&(_, &b)| b > 0).map(|(g, _)| g.macs).sum::<f64>();
            prop_assert!(taken <= macs);
            prop_assert!(bits.iter().zip(&start).all(|(&now, &before)| before > 0 || now == 0));
            prop_assert!(bits.iter().zip(&costs).all(|(&b, g)| widths(g.codes).any(|w| w == b)));
        }
    }

    #[test]
    fn what_costs_least_gives_way_first() {
        let groups = [group(100.0, 1.0, Codes::Unsigned), group(100.0, 1e-6, Codes::Unsigned)];
        assert_eq!(meet_budget(&groups, &[4, 4], within(600.0)), [4, 2]);
    }

    #[test]
    fn a_mid_tread_group_falls_from_two_bits_to_none() {
        assert_eq!(meet_budget(&[group(10.0, 1.0, Codes::MidTread)], &[2], within(19.0)), [0]);
    }

    #[test]
    fn a_sites_most_important_group_is_dropped_last() {
        let anchor = GroupCost { anchor: true, ..group(100.0, 1e-9, Codes::Unsigned) };
        let groups = [anchor, group(100.0, 1.0, Codes::Unsigned)];
        assert_eq!(meet_budget(&groups, &[1, 1], within(100.0)), [1, 0]);
        assert_eq!(meet_budget(&groups, &[1, 1], within(50.0)), [0, 0]);
    }

    #[test]
    fn room_that_is_left_goes_to_the_group_that_gains_most() {
        let groups = [group(100.0, 1.0, Codes::Unsigned), group(100.0, 1e-3, Codes::Unsigned)];
        assert_eq!(meet_budget(&groups, &[2, 2], within(500.0)), [3, 2]);
    }
}
