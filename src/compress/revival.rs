//! Revival: dropped groups that come back because the loss asks for them.
//!
//! A dropped group has no gradient, so the search asks for one from time to time: the reconstruction gets `α_g` of every
//! dropped group's coefficients, and `−∂L/∂α_g` at 0 is how fast the loss of an image would fall as the group came back. A
//! loss that curves ends at half of what its first slope promises, and a width `b` leaves the part `D(b)/D(0)` of the
//! distortion. So a group comes back at the width of the largest
//!
//! ```text
//! ½·(−∂L/∂α_g)·(1 − D_g(b)/D_g(0)) − price·values_g·b
//! ```
//!
//! if that is above 0, at the price that the last bit has cost which gave way to the budget.

use super::freeze::GroupCost;
use super::quantizer::widths;

/// The width with which a dropped group comes back, if it does. `gain`: how fast the loss of an image falls; `price`: what
/// a bit of an image costs in the same unit.
pub fn width(group: &GroupCost, gain: f64, price: f64) -> Option<u32> {
    let dropped = group.cost[0].max(f64::MIN_POSITIVE);
    let net = |bits: u32| {
        let restored = 1.0 - (group.cost[bits as usize] / dropped).min(1.0);
        0.5 * gain * restored - price * group.values * f64::from(bits)
    };
    let choices = widths(group.codes).filter(|&bits| bits > 0).map(|bits| (net(bits), bits));
    choices.filter(|&(net, _)| net > 0.0).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, bits)| bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::Codes;

    fn group() -> GroupCost {
        let cost = (0..=8).map(|b| 0.25_f64.powi(b)).collect();
        GroupCost { codes: Codes::Unsigned, values: 100.0, cost, macs: 0.0, anchor: false }
    }

    #[test]
    fn a_group_comes_back_only_where_it_pays() {
        // One bit restores three quarters of the gain's half: 0.375 against a price of 100 values.
        assert_eq!(width(&group(), 1.0, 0.001), Some(1));
        assert_eq!(width(&group(), 1.0, 0.004), None);
        assert_eq!(width(&group(), -1.0, 0.0), None);
        assert_eq!(width(&group(), f64::NAN, 0.0), None);
    }

    #[test]
    fn cheap_bits_bring_it_back_wider() {
        assert!(width(&group(), 1.0, 1e-5) > Some(3));
    }
}
