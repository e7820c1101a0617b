//! The codec of a site: transform, quantize, transform back.
//!
//! * without a transform, behind the activation function: `ŷ = Q(y)`, codes without a sign where the function has a least
//!   value (which is their offset); a dropped channel becomes its mean;
//! * with PCA, before the activation function: `y = f(U·Q(Uᵀ(x − μ)) + μ)` — pre-activations are nearly Gaussian, and the
//!   activation function erases part of the error;
//! * with PCA, behind it: `ŷ = max(U·Q(Uᵀ(y − μ)) + μ, least value)`, since the result is known not to lie below. Where the
//!   inverse folds into the layers that read it there is no such bound, since nothing can stand between the two.
//!
//! Dropped coefficients are neither computed nor propagated back. A site's tensor is seen as a matrix of rows, one for each
//! image and position, with a channel a column: channels-last memory is one without a copy.

use tch::{Device, Kind, Tensor};

use super::basis::is_orthonormal;
use super::transform::{Pca, Transform};
use crate::libtorch::{Affine, Clamp, CodecParts, Codes, LibtorchError, Position, codec, quantize};
use crate::model::Site;

/// The codec of one site. Steps and ranges live in the [`Compressor`](super::compressor::Compressor).
#[derive(Debug)]
pub struct SiteCodec {
    /// The site.
    pub site: Site,
    /// Its transform.
    pub transform: Transform,
    /// Which codes it has.
    pub codes: Codes,
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
    /// `[kept]`.
    offset: Tensor,
    /// Without a transform dropped channels are carried along: 0 for them, 1 for others, `[channels]`.
    keep: Option<Tensor>,
    /// The matrices of the kept coefficients; none without a transform, and those of a learned basis are made at every use.
    fixed: Option<Matrices>,
    /// Columns of the kept coefficients: `[kept]`, int64.
    columns: Tensor,
    /// Columns of the dropped coefficients (channels) and the group of each: `[dropped]`, int64.
    dropped: (Tensor, Tensor),
}

/// `z = x·analysis + bias`, `x̂ = ẑ·synthesis + μ`.
#[derive(Debug)]
pub(super) struct Matrices {
    /// `[channels, kept]`.
    pub(super) analysis: Tensor,
    /// `[kept]`.
    pub(super) bias: Tensor,
    /// `[kept, channels]`.
    pub(super) synthesis: Tensor,
    /// Nothing is dropped from an orthonormal basis that is its own inverse's transpose.
    orthonormal: bool,
}

impl Matrices {
    fn of(pca: &Pca, columns: &Tensor) -> Result<Self, LibtorchError> {
        let (forward, inverse) = pca.bases()?;
        let analysis = forward.f_index_select(1, columns)?;
        let bias = pca.mean.f_unsqueeze(0)?.f_matmul(&analysis)?.f_squeeze_dim(0)?.f_neg()?;
        let synthesis = inverse.f_index_select(1, columns)?.f_transpose(0, 1)?;
        Ok(Self { analysis, bias, synthesis, orthonormal: false })
    }

    /// Those of a basis that doesn't learn. Whether it is orthonormal is measured: one that has learned needn't be.
    fn fixed(pca: &Pca, columns: &Tensor) -> Result<Self, LibtorchError> {
        let matrices = Self::of(pca, columns)?;
        let complete = columns.numel() == pca.mean.numel() && pca.inverse.is_none();
        let orthonormal = complete && is_orthonormal(&matrices.analysis)?;
        // The same numbers in the same layout: one matrix in memory is enough.
        let synthesis = if orthonormal { matrices.analysis.f_transpose(0, 1)? } else { matrices.synthesis };
        Ok(Self { orthonormal, synthesis, ..matrices })
    }

    fn shallow_clone(&self) -> Self {
        let Self { analysis, bias, synthesis, orthonormal } = self;
        let [analysis, bias, synthesis] = [analysis, bias, synthesis].map(Tensor::shallow_clone);
        Self { analysis, bias, synthesis, orthonormal: *orthonormal }
    }

    /// `z` of all rows: `[rows, kept]`.
    fn analyse(&self, rows: &Tensor) -> Result<Tensor, LibtorchError> {
        Ok(self.bias.f_addmm(rows, &self.analysis)?)
    }
}

/// Which halves of its transform a codec carries out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halves {
    /// Both.
    Both,
    /// From channels to coefficients: the readers take coefficients.
    Analysis,
    /// From coefficients to channels: the layer in front gives coefficients.
    Synthesis,
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
    /// A codec; `dropped[g]` marks those of its groups that are dropped.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn new(
        site: Site,
        transform: Transform,
        codes: Codes,
        groups: Vec<Vec<usize>>,
        first_group: usize,
        dropped: &[bool],
        device: Device,
    ) -> Result<Self, LibtorchError> {
        let prepared = prepare(&site, &transform, codes, &groups, first_group, dropped, device)?;
        Ok(Self { site, transform, codes, groups, first_group, prepared })
    }

    /// Drops the marked groups: `dropped[g]` for each of the codec's groups.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn set_dropped(&mut self, dropped: &[bool], device: Device) -> Result<(), LibtorchError> {
        self.prepared =
            prepare(&self.site, &self.transform, self.codes, &self.groups, self.first_group, dropped, device)?;
        Ok(())
    }

    /// Makes the basis a leaf with gradient, and the inverse where it stands apart.
    ///
    /// # Errors
    /// If libtorch fails.
    pub(super) fn learn(&mut self) -> Result<(), LibtorchError> {
        if let Transform::Pca(pca) = &mut self.transform {
            pca.basis = pca.basis.f_set_requires_grad(true)?;
            pca.inverse = pca.inverse.as_ref().map(|inverse| inverse.f_set_requires_grad(true)).transpose()?;
            self.prepared.fixed = None;
        }
        Ok(())
    }

    /// Where the codec stands.
    pub fn position(&self) -> Position {
        self.transform.position()
    }

    /// Compresses and reconstructs by the plain operations that an export consists of, so that both add up in the same order.
    /// `x`: the tensor at [`Self::position`], `[batch, channels, ...]` (or channels last).
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn apply(&self, x: &Tensor, quantizers: &Quantizers) -> Result<Tensor, LibtorchError> {
        self.apply_and(x, quantizers, |_, _| Ok(()), |_, reconstructed| Ok(reconstructed))
    }

    /// Like [`Self::apply`], in one pass over memory where that can be: the same but for the order of sums.
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn apply_in_one_pass(&self, x: &Tensor, quantizers: &Quantizers) -> Result<Tensor, LibtorchError> {
        match self.in_one_pass(x, quantizers, Clamp::NONE)? {
            Some(reconstructed) => self.bounded(reconstructed),
            None => self.apply(x, quantizers),
        }
    }

    /// The activation function and the codec in one pass over memory, `x` the pre-activation: what [`Self::apply_in_one_pass`]
    /// and the function make of it together. None where they have to be carried out one after the other: the function does more
    /// than clamp, or a transform stands behind it.
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn activate(&self, x: &Tensor, quantizers: &Quantizers) -> Result<Option<Tensor>, LibtorchError> {
        match (self.site.clamp, &self.transform, self.position()) {
            (Some(function), Transform::None { .. }, _) => {
                let (step, range) = self.per_column(quantizers)?;
                let rows = to_rows(x, &self.site)?;
                let quantized = quantize(&rows, &step, &range, &self.prepared.offset, self.codes, function)?;
                from_rows(&quantized, x, &self.site).map(Some)
            }
            (Some(function), Transform::Pca(_), Position::Before) => self.in_one_pass(x, quantizers, function),
            _ => Ok(None),
        }
    }

    /// With a transform of which something is kept: forth, quantized and back, then `activation`.
    fn in_one_pass(
        &self,
        x: &Tensor,
        quantizers: &Quantizers,
        activation: Clamp,
    ) -> Result<Option<Tensor>, LibtorchError> {
        let Some(matrices) = self.matrices()?.filter(|_| self.kept() > 0) else { return Ok(None) };
        self.carried_out(x, quantizers, &matrices, Halves::Both, activation).map(Some)
    }

    /// The codec but for the half that a neighbouring layer carries out.
    pub(super) fn carried_out(
        &self,
        x: &Tensor,
        quantizers: &Quantizers,
        matrices: &Matrices,
        halves: Halves,
        activation: Clamp,
    ) -> Result<Tensor, LibtorchError> {
        let (step, range) = self.per_column(quantizers)?;
        let analysis = Affine { matrix: &matrices.analysis, constant: &matrices.bias };
        let synthesis = Affine { matrix: &matrices.synthesis, constant: self.transform.mean() };
        let parts = CodecParts {
            analysis: (halves != Halves::Synthesis).then_some(analysis),
            synthesis: (halves != Halves::Analysis).then_some(synthesis),
            step: &step,
            range: &range,
            offset: &self.prepared.offset,
            codes: self.codes,
            orthonormal: matrices.orthonormal && halves == Halves::Both,
        };
        let rows = match halves {
            Halves::Synthesis => rows_of(x, &self.site, self.kept() as i64)?,
            _ => to_rows(x, &self.site)?,
        };
        from_rows(&codec(&rows, &parts, activation)?, x, &self.site)
    }

    /// Behind the activation function a reconstruction is known not to lie below the function's least value; where the
    /// inverse folds into the readers nothing can stand between the two.
    fn bounded(&self, reconstructed: Tensor) -> Result<Tensor, LibtorchError> {
        match self.bound_behind() {
            Some(least) => Ok(reconstructed.f_clamp_min(least)?),
            None => Ok(reconstructed),
        }
    }

    /// Like [`Self::apply`]; adds to `rates` the estimated code length of one image in bits, a scalar with gradient: the
    /// mean over images of `Σ log2(1 + |z − o|/d)`, which is what a code needs whose lengths grow with the logarithm of a
    /// code's magnitude.
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn apply_rated(
        &self,
        x: &Tensor,
        quantizers: &Quantizers,
        rates: &mut Vec<Tensor>,
    ) -> Result<Tensor, LibtorchError> {
        let images = x.size().first().copied().unwrap_or(1).max(1) as f64;
        let rate = |z: &Tensor, step: &Tensor| -> Result<(), LibtorchError> {
            let levels = z.f_sub(&self.prepared.offset)?.f_div(step)?.f_abs()?;
            let lengths = levels.f_log1p()?.f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Float)?;
            let stored = match &self.prepared.keep {
                Some(keep) => lengths.f_mul(keep)?,
                None => lengths,
            };
            rates.push(stored.f_sum(Kind::Float)?.f_mul_scalar(std::f64::consts::LOG2_E / images)?);
            Ok(())
        };
        self.apply_and(x, quantizers, rate, |_, reconstructed| Ok(reconstructed))
    }

    /// Like [`Self::apply`], with `weight[g]` of each dropped group's coefficients added to the reconstruction, unquantized.
    /// `weight`: `[groups of the network]`. Its gradient at 0 tells what the loss gains from a group.
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn apply_with_dropped(
        &self,
        x: &Tensor,
        quantizers: &Quantizers,
        weight: &Tensor,
    ) -> Result<Tensor, LibtorchError> {
        let (columns, groups) = &self.prepared.dropped;
        if columns.numel() == 0 {
            return self.apply(x, quantizers);
        }
        let weight = weight.f_index_select(0, groups)?;
        let add = |rows: &Tensor, reconstructed: Tensor| -> Result<Tensor, LibtorchError> {
            let mean = self.transform.mean();
            let centred = rows.f_sub(mean)?;
            let missing = match &self.transform {
                Transform::None { .. } => {
                    let all = Tensor::f_zeros([mean.numel() as i64], (Kind::Float, mean.device()))?;
                    centred.f_mul(&all.f_index_add(0, columns, &weight)?)?
                }
                Transform::Pca(pca) => {
                    let matrices = Matrices::of(pca, columns)?;
                    centred.f_matmul(&matrices.analysis)?.f_mul(&weight)?.f_matmul(&matrices.synthesis)?
                }
            };
            Ok(reconstructed.f_add(&missing)?)
        };
        self.apply_and(x, quantizers, |_, _| Ok(()), add)
    }

    fn apply_and(
        &self,
        x: &Tensor,
        quantizers: &Quantizers,
        mut seen: impl FnMut(&Tensor, &Tensor) -> Result<(), LibtorchError>,
        completed: impl Fn(&Tensor, Tensor) -> Result<Tensor, LibtorchError>,
    ) -> Result<Tensor, LibtorchError> {
        let rows = to_rows(x, &self.site)?;
        let mut quantized = |z: &Tensor| -> Result<Tensor, LibtorchError> {
            let (step, range) = self.per_column(quantizers)?;
            seen(z, &step)?;
            quantize(z, &step, &range, &self.prepared.offset, self.codes, Clamp::NONE)
        };
        let reconstructed = match self.matrices()? {
            None => quantized(&rows)?,
            // Nothing is left to compute: the mean stands for every value.
            Some(_) if self.kept() == 0 => rows.f_zeros_like()?.f_add(self.transform.mean())?,
            Some(matrices) => {
                let quantized = quantized(&matrices.analyse(&rows)?)?;
                self.transform.mean().f_addmm(&quantized, &matrices.synthesis)?
            }
        };
        let reconstructed = completed(&rows, reconstructed)?;
        from_rows(&self.bounded(reconstructed)?, x, &self.site)
    }

    /// What a reconstruction behind the activation function is not let fall below.
    pub(super) fn bound_behind(&self) -> Option<f64> {
        match (&self.transform, self.position()) {
            (Transform::Pca(_), Position::After) if !self.site.folds_inverse => self.site.lower_bound,
            _ => None,
        }
    }

    /// What code 0 stands for, `step` being that of each coefficient: `[kept]`.
    pub(super) fn offset(&self, step: &Tensor) -> Result<Tensor, LibtorchError> {
        Ok(self.prepared.offset.f_add(&step.f_mul_scalar(self.codes.half())?)?)
    }

    /// Without a transform, 1 for channels that are stored and 0 for dropped ones: `[channels]`.
    pub(super) fn kept_channels(&self) -> Option<&Tensor> {
        self.prepared.keep.as_ref()
    }

    /// The matrices of the kept coefficients; none without a transform.
    pub(super) fn matrices(&self) -> Result<Option<Matrices>, LibtorchError> {
        match (&self.transform, &self.prepared.fixed) {
            (Transform::None { .. }, _) => Ok(None),
            (Transform::Pca(_), Some(fixed)) => Ok(Some(fixed.shallow_clone())),
            (Transform::Pca(pca), None) => Matrices::of(pca, &self.prepared.columns).map(Some),
        }
    }

    /// Coefficients that are computed and quantized (or, without a transform, all channels).
    pub(super) fn kept(&self) -> usize {
        self.prepared.group.numel()
    }

    /// The codes that a device would store, and the group of each: `[rows, kept]`, `[kept]`; float tensors of whole
    /// numbers. They are those of [`Self::apply`], also of values on the boundary between two codes, which sums in another
    /// order would let fall the other way.
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn codes(&self, x: &Tensor, quantizers: &Quantizers) -> Result<(Tensor, &Tensor), LibtorchError> {
        let rows = to_rows(x, &self.site)?;
        if self.kept() == 0 {
            return Ok((rows.f_narrow(1, 0, 0)?, &self.prepared.group));
        }
        let (step, range) = self.per_column(quantizers)?;
        let coefficients = match self.matrices()? {
            Some(matrices) => matrices.analyse(&rows)?,
            None => rows,
        };
        let quantized = quantize(&coefficients, &step, &range, &self.prepared.offset, self.codes, Clamp::NONE)?;
        Ok((quantized.f_sub(&self.offset(&step)?)?.f_div(&step)?.f_round()?, &self.prepared.group))
    }

    /// The columns of [`Self::codes`] that hold the members of a group (of the codec's own groups), in their order; none for
    /// a dropped group of coefficients. A dropped channel without a transform has a column of zeros.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn code_columns(&self, group: usize) -> Result<Vec<i64>, LibtorchError> {
        if let (Transform::None { .. }, Some(members)) = (&self.transform, self.groups.get(group)) {
            return Ok(members.iter().map(|&channel| channel as i64).collect());
        }
        let groups = Vec::<i64>::try_from(self.prepared.group.f_to_device(Device::Cpu)?)?;
        let own = (self.first_group + group) as i64;
        Ok((0_i64..).zip(groups).filter(|&(_, of)| of == own).map(|(column, _)| column).collect())
    }

    /// The value of code 0 in a group that is not dropped and has this step.
    pub fn code_offset(&self, step: f64) -> f64 {
        code_offset(&self.site, &self.transform, self.codes) + self.codes.half() * step
    }

    /// What leads back from kept coefficients to channels, a row for each: `[kept, channels]`; none without a transform.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn synthesis(&self) -> Result<Option<Tensor>, LibtorchError> {
        Ok(self.matrices()?.map(|matrices| matrices.synthesis))
    }

    pub(super) fn per_column(&self, quantizers: &Quantizers) -> Result<(Tensor, Tensor), LibtorchError> {
        let step = quantizers.step.f_index_select(0, &self.prepared.group)?;
        let range = quantizers.range.f_index_select(0, &self.prepared.group)?;
        Ok(match &self.prepared.keep {
            Some(keep) => (step, range.f_mul(keep)?),
            None => (step, range),
        })
    }
}

/// `[rows, channels]` of a site's tensor, a row for each image and position; no copy of channels-last memory.
///
/// # Errors
/// If the shape is not the site's.
pub fn to_rows(x: &Tensor, site: &Site) -> Result<Tensor, LibtorchError> {
    rows_of(x, site, site.shape[0])
}

/// [`to_rows`] of a tensor with as many columns in place of the site's channels.
fn rows_of(x: &Tensor, site: &Site, columns: i64) -> Result<Tensor, LibtorchError> {
    let last = if site.channels_last { x.shallow_clone() } else { x.f_movedim_int(1, -1)? };
    Ok(last.f_reshape([-1, columns])?)
}

/// The way back from [`to_rows`] to the shape of `like` and its layout in memory, with the columns of `rows` in place of its channels.
fn from_rows(rows: &Tensor, like: &Tensor, site: &Site) -> Result<Tensor, LibtorchError> {
    let mut shape = like.size();
    if site.channels_last {
        shape.pop();
    } else {
        shape.remove(1);
    }
    shape.extend(rows.size().last());
    let last = rows.f_reshape(&shape)?;
    if site.channels_last {
        return Ok(last);
    }
    let second = last.f_movedim_int(-1, 1)?;
    if !like.is_contiguous() {
        return Ok(second);
    }
    // By way of one dimension, for the standard strides of dimensions of size 1 as well: layers tell the layout by them.
    Ok(second.f_reshape([-1])?.f_reshape(second.size())?)
}

/// Codes without a sign begin at the activation function's least value.
fn code_offset(site: &Site, transform: &Transform, codes: Codes) -> f64 {
    match (transform, codes) {
        (Transform::None { .. }, Codes::Unsigned) => site.lower_bound.unwrap_or(0.0),
        _ => 0.0,
    }
}

fn prepare(
    site: &Site,
    transform: &Transform,
    codes: Codes,
    groups: &[Vec<usize>],
    first_group: usize,
    dropped: &[bool],
    device: Device,
) -> Result<Prepared, LibtorchError> {
    let numbered = || groups.iter().enumerate().flat_map(|(g, members)| members.iter().map(move |&m| (g, m)));
    let indices = |numbers: Vec<i64>| Tensor::from_slice(&numbers).f_to_device(device);
    let of = |which: &dyn Fn(usize) -> bool| -> Result<(Tensor, Tensor), LibtorchError> {
        let chosen: Vec<(usize, usize)> = numbered().filter(|&(g, _)| which(g)).collect();
        let columns = indices(chosen.iter().map(|&(_, m)| m as i64).collect())?;
        let group = indices(chosen.iter().map(|&(g, _)| (first_group + g) as i64).collect())?;
        Ok((columns, group))
    };
    let (columns, group_of_column) = of(&|g| !dropped[g])?;
    let dropped_columns = of(&|g| dropped[g])?;
    match transform {
        Transform::None { mean } => {
            let mut of_channel = vec![0_usize; site.channels()];
            for (g, channel) in numbered() {
                of_channel[channel] = g;
            }
            let group = indices(of_channel.iter().map(|&g| (first_group + g) as i64).collect())?;
            let keep: Vec<f32> = of_channel.iter().map(|&g| f32::from(u8::from(!dropped[g]))).collect();
            let keep = Tensor::from_slice(&keep).f_to_device(device)?;
            let least = code_offset(site, transform, codes);
            let of_dropped = mean.f_mul(&keep.f_neg()?.f_add_scalar(1.0)?)?;
            let offset = of_dropped.f_add(&keep.f_mul_scalar(least)?)?;
            Ok(Prepared { group, offset, keep: Some(keep), fixed: None, columns, dropped: dropped_columns })
        }
        Transform::Pca(pca) => {
            let offset = Tensor::f_zeros([columns.numel() as i64], (Kind::Float, device))?;
            // In the very layout of a learned basis, so that a saved one gives the same digits when it is fixed.
            let fixed = (!pca.is_learned()).then(|| Matrices::fixed(pca, &columns)).transpose()?;
            Ok(Prepared { group: group_of_column, offset, keep: None, fixed, columns, dropped: dropped_columns })
        }
    }
}

#[cfg(test)]
pub(super) mod samples {
    use crate::model::Site;

    /// A ReLU with five channels at 6x7 positions.
    pub fn site() -> Site {
        Site {
            index: 0,
            name: "relu".into(),
            kind: "relu".into(),
            producer: "conv".into(),
            consumers: vec![],
            shape: vec![5, 6, 7],
            channels_last: false,
            lower_bound: Some(0.0),
            clamp: None,
            folds_forward: false,
            folds_inverse: false,
            readers_train_folded: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::site;
    use super::*;

    #[test]
    fn only_a_whole_basis_that_is_orthonormal_counts_as_one() {
        tch::manual_seed(1);
        let basis = Tensor::linalg_qr(&Tensor::randn([5, 5], (Kind::Double, Device::Cpu)), "reduced").0;
        let basis = basis.to_kind(Kind::Float);
        let codec = |basis: &Tensor, inverse: Option<Tensor>| {
            let mean = Tensor::zeros([5], (Kind::Float, Device::Cpu));
            let pca = Pca { basis: basis.copy(), inverse, mean, position: Position::Before, block: None };
            let groups = vec![vec![3, 0], vec![1], vec![4, 2]];
            SiteCodec::new(site(), Transform::Pca(pca), Codes::MidTread, groups, 0, &[false; 3], Device::Cpu).unwrap()
        };
        let counts = |codec: &SiteCodec| codec.matrices().unwrap().unwrap().orthonormal;
        let mut whole = codec(&basis, None);
        assert!(counts(&whole));
        whole.set_dropped(&[false, true, false], Device::Cpu).unwrap();
        assert!(!counts(&whole), "without a coefficient");
        whole.set_dropped(&[false; 3], Device::Cpu).unwrap();
        whole.learn().unwrap();
        assert!(!counts(&whole), "learning");
        // As training leaves a learned basis.
        assert!(!counts(&codec(&(&basis * 1.001), None)), "longer vectors");
        assert!(!counts(&codec(&basis, Some(basis.copy()))), "an inverse of its own");
    }
}
