//! The codec of a site: transform, quantize, transform back.
//!
//! * without a transform, behind the activation function: `ŷ = Q(y)`, codes without a sign where the function has a least
//!   value (which is their offset); a dropped channel becomes its mean;
//! * with PCA, before the activation function: `y = f(U·Q(Uᵀ(x − μ)) + μ)` — pre-activations are nearly Gaussian, and the
//!   activation function erases part of the error;
//! * with PCA, behind it: `ŷ = max(U·Q(Uᵀ(y − μ)) + μ, least value)`, since the result is known not to lie below.
//!
//! Dropped coefficients are neither computed nor propagated back.

use tch::{Device, Kind, Tensor};

use crate::libtorch::{LibtorchError, Position, quantize};
use crate::model::Site;

/// A site's transform.
#[derive(Debug)]
pub enum Transform {
    /// The channels themselves. `mean`: `[channels]`, what stands for dropped channels.
    None {
        /// Mean of each channel behind the activation function.
        mean: Tensor,
    },
    /// Principal components.
    Pca {
        /// `U`: `[channels, channels]`, columns by falling eigenvalue.
        basis: Tensor,
        /// `μ`: `[channels]`.
        mean: Tensor,
        /// Which side of the activation function is transformed.
        position: Position,
    },
}

/// The codec of one site. Steps and ranges live in the [`Compressor`](super::compressor::Compressor).
#[derive(Debug)]
pub struct SiteCodec {
    /// The site.
    pub site: Site,
    /// Its transform.
    pub transform: Transform,
    /// Codes carry a sign.
    pub signed: bool,
    /// Members of each group: coefficients, or channels without a transform.
    pub groups: Vec<Vec<usize>>,
    /// Index of the first group among all groups of the network.
    pub first_group: usize,
    prepared: Prepared,
}

/// Tensors that follow from the transform and from what is dropped.
#[derive(Debug)]
struct Prepared {
    /// Group (index in the network) of each quantized coefficient: `[kept]`, int64.
    group: Tensor,
    /// 0 for dropped channels, 1 for others: `[kept]`. Only without a transform are dropped channels carried along.
    keep: Option<Tensor>,
    /// `[kept]`.
    offset: Tensor,
    /// `(Uᵀ, −Uᵀμ, U, μ)` of the kept coefficients: `[kept, channels, 1]`, `[kept]`, `[channels, kept, 1]`, `[channels]`.
    matrices: Option<(Tensor, Tensor, Tensor, Tensor)>,
}

/// Steps and ranges of all groups of the network as they enter a forward pass: `[groups]` each, with gradients.
#[derive(Debug)]
pub struct Quantizers {
    /// Step `d` of each group.
    pub step: Tensor,
    /// Range `qmax` of each group.
    pub range: Tensor,
}

impl SiteCodec {
    /// A codec with nothing dropped.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn new(
        site: Site,
        transform: Transform,
        signed: bool,
        groups: Vec<Vec<usize>>,
        first_group: usize,
        device: Device,
    ) -> Result<Self, LibtorchError> {
        let none = vec![false; groups.len()];
        let prepared = prepare(&site, &transform, signed, &groups, first_group, &none, device)?;
        Ok(Self { site, transform, signed, groups, first_group, prepared })
    }

    /// Drops the marked groups: `dropped[g]` for each of the codec's groups.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn set_dropped(&mut self, dropped: &[bool], device: Device) -> Result<(), LibtorchError> {
        self.prepared =
            prepare(&self.site, &self.transform, self.signed, &self.groups, self.first_group, dropped, device)?;
        Ok(())
    }

    /// Where the codec stands.
    pub fn position(&self) -> Position {
        match &self.transform {
            Transform::None { .. } => Position::After,
            Transform::Pca { position, .. } => *position,
        }
    }

    /// The transform's name in reports.
    pub fn transform_name(&self) -> &'static str {
        match &self.transform {
            Transform::None { .. } => "none",
            Transform::Pca { .. } => "pca",
        }
    }

    /// Coefficients that are computed and quantized (or, without a transform, all channels).
    pub fn kept(&self) -> usize {
        self.prepared.group.numel()
    }

    /// Compresses and reconstructs. `x`: the tensor at [`Self::position`], `[batch, channels, ...]` (or channels last).
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn apply(&self, x: &Tensor, quantizers: &Quantizers) -> Result<Tensor, LibtorchError> {
        let flat = to_channels(x, &self.site)?;
        let reconstructed = match &self.prepared.matrices {
            // Nothing is left to compute: the mean stands for every value.
            Some((_, _, _, mean)) if self.kept() == 0 => flat.f_zeros_like()?.f_add(&mean.f_unsqueeze(1)?)?,
            _ => self.inverse(&self.quantized(&self.transformed(&flat)?, quantizers)?)?,
        };
        let bounded = match (&self.transform, self.position(), self.site.lower_bound) {
            (Transform::Pca { .. }, Position::After, Some(least)) => reconstructed.f_clamp_min(least)?,
            _ => reconstructed,
        };
        from_channels(&bounded, x, &self.site)
    }

    /// The codes that a device would store, and the group of each: `[batch, kept, positions]`, `[kept]`; float tensors of
    /// whole numbers.
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn codes(&self, x: &Tensor, quantizers: &Quantizers) -> Result<(Tensor, &Tensor), LibtorchError> {
        let flat = to_channels(x, &self.site)?;
        if self.kept() == 0 {
            let none = flat.f_narrow(1, 0, 0)?;
            return Ok((none, &self.prepared.group));
        }
        let z = self.transformed(&flat)?;
        let (step, range) = self.per_channel(quantizers)?;
        let high = range.f_div(&step)?.f_unsqueeze(1)?;
        let low = if self.signed { high.f_neg()? } else { high.f_zeros_like()? };
        // The kernel's own arithmetic, so that ties fall the same way; n = range/d is whole but for its last digit.
        let scaled = z.f_sub(&self.prepared.offset.f_unsqueeze(1)?)?.f_mul(&step.f_reciprocal()?.f_unsqueeze(1)?)?;
        Ok((scaled.f_round()?.f_maximum(&low)?.f_minimum(&high)?.f_round()?, &self.prepared.group))
    }

    fn per_channel(&self, quantizers: &Quantizers) -> Result<(Tensor, Tensor), LibtorchError> {
        let step = quantizers.step.f_index_select(0, &self.prepared.group)?;
        let range = quantizers.range.f_index_select(0, &self.prepared.group)?;
        Ok(match &self.prepared.keep {
            Some(keep) => (step, range.f_mul(keep)?),
            None => (step, range),
        })
    }

    fn quantized(&self, z: &Tensor, quantizers: &Quantizers) -> Result<Tensor, LibtorchError> {
        let (step, range) = self.per_channel(quantizers)?;
        quantize(z, &step, &range, &self.prepared.offset, self.signed)
    }

    /// `[batch, channels, positions]` → `[batch, kept, positions]`.
    fn transformed(&self, x: &Tensor) -> Result<Tensor, LibtorchError> {
        match &self.prepared.matrices {
            None => Ok(x.shallow_clone()),
            Some((forward, bias, _, _)) => product(x, forward, bias),
        }
    }

    /// `[batch, kept, positions]` → `[batch, channels, positions]`.
    fn inverse(&self, z: &Tensor) -> Result<Tensor, LibtorchError> {
        match &self.prepared.matrices {
            None => Ok(z.shallow_clone()),
            Some((_, _, inverse, mean)) => product(z, inverse, mean),
        }
    }
}

/// A 1×1 convolution. `x`: `[batch, in, positions]`, `weight`: `[out, in, 1]`, `bias`: `[out]`.
fn product(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor, LibtorchError> {
    let none = [0_i64];
    Ok(x.f_conv1d(weight, Some(bias), [1], none.as_slice(), [1], 1)?)
}

/// `[batch, channels, positions]` of a site's tensor.
///
/// # Errors
/// If the shape is not the site's.
pub fn to_channels(x: &Tensor, site: &Site) -> Result<Tensor, LibtorchError> {
    let x = if site.channels_last { x.f_movedim_int(-1, 1)? } else { x.shallow_clone() };
    let batch = x.size().first().copied().unwrap_or(0);
    Ok(x.f_reshape([batch, site.shape[0], -1])?)
}

/// The way back from [`to_channels`] to the shape of `like`.
fn from_channels(flat: &Tensor, like: &Tensor, site: &Site) -> Result<Tensor, LibtorchError> {
    let mut shape = like.size();
    if site.channels_last {
        let channels = shape.pop().unwrap_or(1);
        shape.insert(1, channels);
        return Ok(flat.f_reshape(&shape)?.f_movedim_int(1, -1)?.f_contiguous()?);
    }
    Ok(flat.f_reshape(&shape)?)
}

fn prepare(
    site: &Site,
    transform: &Transform,
    signed: bool,
    groups: &[Vec<usize>],
    first_group: usize,
    dropped: &[bool],
    device: Device,
) -> Result<Prepared, LibtorchError> {
    let numbered = || groups.iter().enumerate().flat_map(|(g, members)| members.iter().map(move |&m| (g, m)));
    let number = |g: usize| (first_group + g) as i64;
    match transform {
        Transform::None { mean } => {
            let mut of_channel = vec![0_usize; site.channels()];
            for (g, channel) in numbered() {
                of_channel[channel] = g;
            }
            let group: Vec<i64> = of_channel.iter().map(|&g| number(g)).collect();
            let keep: Vec<f32> = of_channel.iter().map(|&g| f32::from(u8::from(!dropped[g]))).collect();
            let keep = Tensor::from_slice(&keep).f_to_device(device)?;
            let least = if signed { 0.0 } else { site.lower_bound.unwrap_or(0.0) };
            let of_dropped = mean.f_mul(&keep.f_neg()?.f_add_scalar(1.0)?)?;
            let offset = of_dropped.f_add(&keep.f_mul_scalar(least)?)?;
            let group = Tensor::from_slice(&group).f_to_device(device)?;
            Ok(Prepared { group, keep: Some(keep), offset, matrices: None })
        }
        Transform::Pca { basis, mean, .. } => {
            let kept: Vec<(usize, usize)> = numbered().filter(|&(g, _)| !dropped[g]).collect();
            let columns: Vec<i64> = kept.iter().map(|&(_, m)| m as i64).collect();
            let group: Vec<i64> = kept.iter().map(|&(g, _)| number(g)).collect();
            let inverse = basis.f_index_select(1, &Tensor::from_slice(&columns).f_to_device(device)?)?;
            let forward = inverse.f_transpose(0, 1)?.f_contiguous()?;
            let bias = forward.f_mv(mean)?.f_neg()?;
            let offset = Tensor::f_zeros([columns.len() as i64], (Kind::Float, device))?;
            let matrices =
                (forward.f_unsqueeze(2)?, bias, inverse.f_contiguous()?.f_unsqueeze(2)?, mean.shallow_clone());
            let group = Tensor::from_slice(&group).f_to_device(device)?;
            Ok(Prepared { group, keep: None, offset, matrices: Some(matrices) })
        }
    }
}
