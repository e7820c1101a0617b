//! The uniform quantizer of a group: its step `d`, its range `qmax`, and the bit-width that follows from them.
//!
//! `Q(z) = d · clamp(round(z/d), −n, n)` with `n = qmax/d` for mid-tread codes, `clamp(…, 0, n)` for unsigned ones, and
//! `Q(z) = d · clamp(round(z/d − ½) + ½, −n, n)` for mid-rise ones. The width is inferred from the number of levels (Uhlich et
//! al., arXiv 1905.11452, for the first two): mid-tread `b = ceil(log2(n + 1) + 1)`, at least 2; unsigned `b = ceil(log2(n + 1))`
//! and mid-rise `b = ceil(log2(2n + 1))`, at least 1. A dropped group has 0 bits.
//!
//! Mid-tread codes have `2^b − 1` levels: of the four codes of two bits they use three, and one bit is too little for them.
//! Mid-rise codes use all, at the price of a zero that is no level. A Gaussian of variance 1 is left with a squared error of 0.19
//! in two bits by the former, of 0.12 by the latter, and of 0.36 in one bit (Max, IRE Trans. Inf. Theory 1960).

use tch::Tensor;

use crate::libtorch::{Codes, LibtorchError};

/// The largest width of a group in bits.
pub const MAX_BITS: u32 = 8;

/// The least width of a group that is not dropped: a mid-tread code has −n, 0 and n.
pub fn least_bits(codes: Codes) -> u32 {
    if codes == Codes::MidTread { 2 } else { 1 }
}

/// `n = qmax/d` of a width: `2^(b−1) − 1` mid-tread, `2^(b−1) − ½` mid-rise, `2^b − 1` unsigned; 0 for a dropped group.
pub fn levels(bits: u32, codes: Codes) -> f64 {
    let exponent = i32::try_from(bits).unwrap_or(31);
    match (bits, codes) {
        (0, _) => 0.0,
        (_, Codes::Unsigned) => 2_f64.powi(exponent) - 1.0,
        (_, Codes::MidTread) => 2_f64.powi(exponent - 1) - 1.0,
        (_, Codes::MidRise) => 2_f64.powi(exponent - 1) - 0.5,
    }
}

/// `step` rounded to 16 significant bits, by Veltkamp's splitting; its gradient is passed on as it is. In float32 the product with a
/// number of up to 8 bits is then exact, and so is `qmax/d` of [`levels`].
///
/// # Errors
/// If libtorch fails.
pub fn to_16_bits(step: &Tensor) -> Result<Tensor, LibtorchError> {
    let wide = step.f_mul_scalar(257.0)?;
    Ok(wide.f_sub(&wide.f_sub(step)?)?)
}

/// What turns `n = qmax/d` into the width before it is rounded up, `log2(factor·n + 1) + sign`: `(factor, sign)`.
pub fn width_terms(codes: Codes) -> (f64, f64) {
    match codes {
        Codes::Unsigned => (1.0, 0.0),
        Codes::MidTread => (1.0, 1.0),
        Codes::MidRise => (2.0, 0.0),
    }
}

/// The width before it is rounded up.
pub fn real_bits(step: f64, range: f64, codes: Codes) -> f64 {
    let (factor, sign) = width_terms(codes);
    (factor * range / step + 1.0).log2() + sign
}

/// The inferred width. `range` and `step` are positive and in the same unit.
pub fn inferred_bits(step: f64, range: f64, codes: Codes) -> u32 {
    // A ratio that was set to n exactly must not gain a bit by rounding in the logarithm.
    let bits = (real_bits(step, range, codes) - 1e-5).ceil();
    (bits as u32).clamp(least_bits(codes), MAX_BITS)
}

/// Whether a range is so small beside the step that 0 alone is left of the levels: `qmax < d/2`. Of mid-rise codes two are always
/// left.
pub fn is_void(step: f64, range: f64, codes: Codes) -> bool {
    codes != Codes::MidRise && range < step / 2.0
}

/// The widths that a group may have, falling, with 0 (dropped) last.
pub fn widths(codes: Codes) -> impl DoubleEndedIterator<Item = u32> {
    std::iter::once(0).chain(least_bits(codes)..=MAX_BITS).rev()
}

/// The fractional part of the golden ratio: its multiples spread evenly over an interval.
pub const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Step and range of a width for group `number`, around the best `step` of that width. Widths that all stood at the very
/// end of their interval would all lose a bit in the same step of the search; the golden ratio spreads them over it.
pub fn spread(step: f64, bits: u32, codes: Codes, number: usize) -> (f64, f64) {
    let range = step * levels(bits, codes);
    let part = 0.9 * ((number + 1) as f64 * GOLDEN).fract();
    let (factor, sign) = width_terms(codes);
    let real = f64::from(bits) - part - sign;
    // At the least width, stay clear of the half step below which a group counts as dropped; of two mid-rise levels nothing
    // is gained by a range below half a step.
    let least = if codes == Codes::MidRise { 0.5 } else { 0.6 };
    let wanted = ((real.exp2() - 1.0) / factor).max(least);
    let change = (range / step / wanted).sqrt();
    (step * change, range / change)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Codes; 3] = [Codes::Unsigned, Codes::MidTread, Codes::MidRise];

    #[test]
    fn the_width_is_inferred_as_the_formula_says() {
        assert_eq!(inferred_bits(1.0, 7.0, Codes::MidTread), 4);
        assert_eq!(inferred_bits(1.0, 7.0, Codes::Unsigned), 3);
        assert_eq!(inferred_bits(1.0, 7.1, Codes::Unsigned), 4);
        assert_eq!(inferred_bits(1.0, 0.6, Codes::MidTread), 2);
        assert_eq!(inferred_bits(1.0, 0.6, Codes::Unsigned), 1);
        assert_eq!(inferred_bits(1.0, 7.5, Codes::MidRise), 4);
        assert_eq!(inferred_bits(1.0, 0.5, Codes::MidRise), 1);
        assert_eq!(inferred_bits(1.0, 0.6, Codes::MidRise), 2);
    }

    #[test]
    fn multiples_of_a_step_of_16_bits_are_exact() {
        let steps: Vec<f32> = (1_u8..=200).map(|i| (f32::from(i) * 0.7312).powi(3) * 1e-5).collect();
        let given = Tensor::from_slice(&steps).set_requires_grad(true);
        let rounded = to_16_bits(&given).unwrap();
        rounded.sum(tch::Kind::Float).backward();
        assert_eq!(Vec::<f32>::try_from(&given.grad()).unwrap(), vec![1.0; steps.len()]);
        for (&step, rounded) in steps.iter().zip(Vec::<f32>::try_from(&rounded).unwrap()) {
            assert!(
                (rounded - step).abs() <= step / 65536.0 && rounded.to_bits().is_multiple_of(256),
                "{step} {rounded}"
            );
            for codes in ALL {
                for n in (least_bits(codes)..=MAX_BITS).map(|bits| levels(bits, codes) as f32) {
                    assert_eq!(f64::from(rounded * n), f64::from(rounded) * f64::from(n));
                    assert_eq!(rounded * n / rounded, n);
                }
            }
        }
    }

    #[test]
    fn a_range_of_all_levels_gives_its_width_back() {
        for codes in ALL {
            for bits in least_bits(codes)..=MAX_BITS {
                for step in [1e-4, 0.03, 7.7] {
                    let range = step * levels(bits, codes);
                    assert_eq!(inferred_bits(step, range, codes), bits, "{bits} bits, step {step}");
                }
            }
        }
    }

    #[test]
    fn spreading_keeps_the_width() {
        for codes in ALL {
            for (number, bits) in (0..50).flat_map(|n| (least_bits(codes)..=MAX_BITS).map(move |b| (n, b))) {
                let (step, range) = spread(0.1, bits, codes, number);
                assert_eq!(inferred_bits(step, range, codes), bits);
                assert!(!is_void(step, range, codes));
            }
        }
    }

    #[test]
    fn widths_fall_and_end_with_dropping() {
        assert_eq!(widths(Codes::MidTread).collect::<Vec<_>>(), [8, 7, 6, 5, 4, 3, 2, 0]);
        assert_eq!(widths(Codes::MidRise).collect::<Vec<_>>(), [8, 7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(widths(Codes::Unsigned).last(), Some(0));
        assert!(is_void(1.0, 0.49, Codes::MidTread) && !is_void(1.0, 0.51, Codes::MidTread));
        assert!(!is_void(1.0, 0.1, Codes::MidRise));
    }
}
