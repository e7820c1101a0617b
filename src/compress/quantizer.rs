//! The uniform quantizer of a group: its step `d`, its range `qmax`, and the bit-width that follows from them.
//!
//! `Q(z) = d · clamp(round(z/d), −n, n)` for signed coefficients with `n = qmax/d`, `clamp(…, 0, n)` for non-negative ones.
//! The width is inferred (Uhlich et al., arXiv 1905.11452): signed `b = ceil(log2(qmax/d + 1) + 1)`, at least 2;
//! unsigned `b = ceil(log2(qmax/d + 1))`, at least 1. A dropped group has 0 bits.

/// The largest width of a group in bits.
pub const MAX_BITS: u32 = 8;

/// The least width of a group that is not dropped: a signed code has −n, 0 and n.
pub fn least_bits(signed: bool) -> u32 {
    if signed { 2 } else { 1 }
}

/// The largest code `n` of a width: `2^(b−1) − 1` signed, `2^b − 1` unsigned; 0 for a dropped group.
pub fn levels(bits: u32, signed: bool) -> f64 {
    match bits {
        0 => 0.0,
        bits => 2_f64.powi(i32::try_from(bits).unwrap_or(31) - i32::from(signed)) - 1.0,
    }
}

/// The width before it is rounded up: `log2(qmax/d + 1)`, one more for the sign.
pub fn real_bits(step: f64, range: f64, signed: bool) -> f64 {
    (range / step + 1.0).log2() + f64::from(u8::from(signed))
}

/// The inferred width. `range` and `step` are positive and in the same unit.
pub fn inferred_bits(step: f64, range: f64, signed: bool) -> u32 {
    // A ratio that was set to n exactly must not gain a bit by rounding in the logarithm.
    let bits = (real_bits(step, range, signed) - 1e-5).ceil();
    (bits as u32).clamp(least_bits(signed), MAX_BITS)
}

/// Whether a range is so small beside the step that no code is left between 0 and it: `qmax < d/2`.
pub fn is_void(step: f64, range: f64) -> bool {
    range < step / 2.0
}

/// The widths that a group may have, falling, with 0 (dropped) last.
pub fn widths(signed: bool) -> impl DoubleEndedIterator<Item = u32> {
    std::iter::once(0).chain(least_bits(signed)..=MAX_BITS).rev()
}

/// The fractional part of the golden ratio: its multiples spread evenly over an interval.
pub const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Step and range of a width for group `number`, around the best `step` of that width. Widths that all stood at the very
/// end of their interval would all lose a bit in the same step of the search; the golden ratio spreads them over it.
pub fn spread(step: f64, bits: u32, signed: bool, number: usize) -> (f64, f64) {
    let range = step * levels(bits, signed);
    let part = 0.9 * ((number + 1) as f64 * GOLDEN).fract();
    let real = f64::from(bits) - part - f64::from(u8::from(signed));
    // At the least width, stay clear of the half step below which a group counts as dropped.
    let wanted = (real.exp2() - 1.0).max(0.6);
    let change = (range / step / wanted).sqrt();
    (step * change, range / change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_is_inferred_as_the_formula_says() {
        assert_eq!(inferred_bits(1.0, 7.0, true), 4);
        assert_eq!(inferred_bits(1.0, 7.0, false), 3);
        assert_eq!(inferred_bits(1.0, 7.1, false), 4);
        assert_eq!(inferred_bits(1.0, 0.6, true), 2);
        assert_eq!(inferred_bits(1.0, 0.6, false), 1);
    }

    #[test]
    fn a_range_of_all_levels_gives_its_width_back() {
        for signed in [false, true] {
            for bits in least_bits(signed)..=MAX_BITS {
                for step in [1e-4, 0.03, 7.7] {
                    let range = step * levels(bits, signed);
                    assert_eq!(inferred_bits(step, range, signed), bits, "{bits} bits, step {step}");
                }
            }
        }
    }

    #[test]
    fn spreading_keeps_the_width() {
        for number in 0..50 {
            for bits in 2..=MAX_BITS {
                let (step, range) = spread(0.1, bits, true, number);
                assert_eq!(inferred_bits(step, range, true), bits);
                assert!(!is_void(step, range));
            }
        }
    }

    #[test]
    fn widths_fall_and_end_with_dropping() {
        assert_eq!(widths(true).collect::<Vec<_>>(), [8, 7, 6, 5, 4, 3, 2, 0]);
        assert_eq!(widths(false).last(), Some(0));
        assert!(is_void(1.0, 0.49) && !is_void(1.0, 0.51));
    }
}
