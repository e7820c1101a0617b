//! A codec as plain numbers, for readers that don't run this project: what an export bakes into a network.
//!
//! With a transform `z = x·analysis + bias`, without one `z = x`, the channels innermost. Then
//!
//! ```text
//! code = min(max(round((z − offset) · (1/step)), low), high)      round: half to even
//! ẑ    = offset + step · code
//! x̂    = ẑ·synthesis + mean                                       with a transform, else ẑ
//! x̂    = max(x̂, lower_bound)                                      where there is one
//! ```
//!
//! This is the quantizer's own arithmetic, digit for digit: a reader that evaluates it in float32, in this order, gets the
//! same codes from the same `z`. What adds up `x·analysis` in another order may get another code for a value on the boundary
//! between two.

use tch::{Tensor, no_grad};

use super::codec::{Quantizers, SiteCodec};
use super::transform::Transform;
use crate::libtorch::{Codes, LibtorchError, Position};

/// The codec of one site as plain numbers; float32 tensors on the run's device, without gradients.
///
/// `kept` are the coefficients that are not dropped. Without a transform it is all channels: a dropped one has the code 0
/// alone, and its offset is its mean.
#[derive(Debug)]
pub struct PlainCodec {
    /// Which side of the activation function the codec stands on.
    pub position: Position,
    /// The channel transform; none where the channels themselves are quantized.
    pub transform: Option<PlainTransform>,
    /// Step `d`: `[kept]`, positive.
    pub step: Tensor,
    /// What code 0 stands for: `[kept]`.
    pub offset: Tensor,
    /// Least code, a whole number: `[kept]`.
    pub low: Tensor,
    /// Largest code, a whole number: `[kept]`.
    pub high: Tensor,
    /// Whether each coefficient is stored; `false` for the dropped channels of a codec without a transform: `[kept]`.
    pub stored: Vec<bool>,
    /// `x̂` is not below this.
    pub lower_bound: Option<f64>,
}

/// The channel transform of a [`PlainCodec`]. With `kept = 0`, `x̂` is the mean everywhere.
#[derive(Debug)]
pub struct PlainTransform {
    /// `[channels, kept]`.
    pub analysis: Tensor,
    /// `−μ·analysis`: `[kept]`.
    pub bias: Tensor,
    /// `[kept, channels]`.
    pub synthesis: Tensor,
    /// `μ`: `[channels]`.
    pub mean: Tensor,
}

impl PlainCodec {
    /// `(z − offset) · (1/step)`, what is rounded to the code. `rows`: `[rows, channels]` → `[rows, kept]`.
    ///
    /// # Errors
    /// If the shape is not the codec's.
    pub fn scaled(&self, rows: &Tensor) -> Result<Tensor, LibtorchError> {
        let z = match &self.transform {
            Some(transform) => transform.bias.f_addmm(rows, &transform.analysis)?,
            None => rows.shallow_clone(),
        };
        Ok(z.f_sub(&self.offset)?.f_mul(&self.step.f_reciprocal()?)?)
    }
}

impl SiteCodec {
    /// The codec as plain numbers.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn plain(&self, quantizers: &Quantizers) -> Result<PlainCodec, LibtorchError> {
        no_grad(|| {
            let (step, range) = self.per_column(quantizers)?;
            // Frozen, n = range/d is whole, or a half beside a whole number.
            let half = self.codes.half();
            let high = range.f_div(&step)?.f_sub_scalar(half)?.f_round()?;
            let low = match self.codes {
                Codes::Unsigned => high.f_zeros_like()?,
                Codes::MidTread | Codes::MidRise => high.f_neg()?.f_sub_scalar(2.0 * half)?,
            };
            let transform = match (&self.transform, self.matrices()?) {
                (Transform::Pca(pca), Some(matrices)) => Some(PlainTransform {
                    analysis: matrices.analysis.f_detach()?,
                    bias: matrices.bias.f_detach()?,
                    synthesis: matrices.synthesis.f_detach()?,
                    mean: pca.mean.f_detach()?,
                }),
                _ => None,
            };
            let stored = match self.kept_channels() {
                Some(keep) => {
                    Vec::<f32>::try_from(keep.f_to_device(tch::Device::Cpu)?)?.iter().map(|&k| k > 0.0).collect()
                }
                None => vec![true; self.kept()],
            };
            Ok(PlainCodec {
                position: self.position(),
                transform,
                offset: self.offset(&step)?.f_detach()?,
                step: step.f_detach()?,
                low,
                high,
                stored,
                lower_bound: self.bound_behind(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::compress::codec::{samples::site, to_rows};
    use crate::compress::quantizer::{levels, to_16_bits};
    use crate::compress::transform::Pca;

    const CHANNELS: i64 = 5;

    fn codec(transform: Transform, codes: Codes) -> (SiteCodec, Quantizers) {
        let groups = vec![vec![3, 0], vec![1], vec![4, 2]];
        let codec = SiteCodec::new(site(), transform, codes, groups, 0, &[false, false, true], Device::Cpu).unwrap();
        // As after freezing.
        let step = to_16_bits(&Tensor::from_slice(&[0.1_f32, 0.37, 1.0])).unwrap();
        let levels = [4, 2, 0].map(|bits| levels(bits, codes) as f32);
        (codec, Quantizers { range: &step * Tensor::from_slice(&levels), step })
    }

    fn pca(position: Position) -> Transform {
        tch::manual_seed(1);
        let basis = Tensor::linalg_qr(&Tensor::randn([CHANNELS, CHANNELS], (Kind::Float, Device::Cpu)), "reduced").0;
        let mean = Tensor::rand([CHANNELS], (Kind::Float, Device::Cpu));
        Transform::Pca(Pca { basis, inverse: None, mean, position, block: None })
    }

    /// The module's formulas.
    fn evaluate(plain: &PlainCodec, x: &Tensor) -> (Tensor, Tensor) {
        let code = plain.scaled(x).unwrap().round().maximum(&plain.low).minimum(&plain.high);
        let quantized = &plain.offset + &plain.step * &code;
        let reconstructed = match &plain.transform {
            Some(t) => t.mean.addmm(&quantized, &t.synthesis),
            None => quantized,
        };
        (code, plain.lower_bound.map_or_else(|| reconstructed.shallow_clone(), |least| reconstructed.clamp_min(least)))
    }

    #[test]
    fn plain_numbers_give_the_codecs_own_codes_and_values() {
        let mean = || Tensor::from_slice(&[0.5_f32, 0.25, 0.75, 0.1, 0.9]);
        let cases = [
            codec(Transform::None { mean: mean() }, Codes::Unsigned),
            codec(Transform::None { mean: mean() }, Codes::MidTread),
            codec(pca(Position::Before), Codes::MidTread),
            codec(pca(Position::Before), Codes::MidRise),
            codec(pca(Position::After), Codes::MidTread),
        ];
        for (codec, quantizers) in cases {
            tch::manual_seed(2);
            let x = Tensor::randn([3, CHANNELS, 6, 7], (Kind::Float, Device::Cpu));
            let plain = codec.plain(&quantizers).unwrap();
            let (codes, values) = evaluate(&plain, &to_rows(&x, &codec.site).unwrap());
            assert_eq!(codes, codec.codes(&x, &quantizers).unwrap().0, "{:?}", codec.transform.name());
            let wanted = to_rows(&codec.apply(&x, &quantizers).unwrap(), &codec.site).unwrap();
            assert_eq!(values, wanted, "{:?}", codec.transform.name());
            let dropped = plain.stored.iter().filter(|&&stored| !stored).count();
            assert_eq!(dropped, if plain.transform.is_none() { 2 } else { 0 });
        }
    }
}
