//! Halves of transforms that neighbouring layers carry out while the network trains, where that is exact.
//!
//! * Before the activation function, `z = Uᵀ(x − μ)` of what a layer makes, `x = s ⊙ (W·v + b) + t` with a batch normalisation
//!   `s, t` that is frozen, is a layer again: `z = (Uᵀ·diag(s)·W)·v + Uᵀ(s ⊙ b + t − μ)`.
//! * Behind the activation function, what a layer reads, `W·(U·ẑ + μ) + b`, is `(W·U)·ẑ + (W·μ + b)`, but for the limit at the
//!   function's least value, which nothing can stand for between the two.
//!
//! A product with the weights, once a step, takes the place of one with the activations, and what is dropped is missing in the
//! layer as well: it isn't convolved.

use tch::Tensor;

use super::codec::{Halves, Matrices, Quantizers, SiteCodec};
use super::compressor::Compressor;
use super::transform::Transform;
use crate::libtorch::{Asked, Clamp, Hooked, LibtorchError, Position};

/// One forward pass in training.
#[derive(Debug)]
pub struct TrainingPass<'a> {
    compressor: &'a Compressor,
    quantizers: Quantizers,
    /// Sites whose pre-activation comes as coefficients in this pass.
    transformed: Vec<bool>,
}

impl Compressor {
    /// What answers a run ([`Network::forward_training`](crate::libtorch::Network::forward_training)) in training: the same as
    /// [`Self::hook`] but for the order of sums.
    pub fn training_pass(&self, quantizers: Quantizers) -> TrainingPass<'_> {
        let sites = self.codecs.iter().map(|codec| codec.site.index + 1).max().unwrap_or(0);
        TrainingPass { compressor: self, quantizers, transformed: vec![false; sites] }
    }
}

impl TrainingPass<'_> {
    /// What a site answers.
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn answer(&mut self, site: usize, asked: Asked<'_>) -> Result<Hooked, LibtorchError> {
        let Some(index) = self.compressor.codec_of(site) else { return Ok(Hooked::Unchanged) };
        let codec = &self.compressor.codecs[index];
        match asked {
            Asked::Fold(position) => {
                let map = codec.folded_half(position)?;
                self.transformed[site] |= position == Position::Before && map.is_some();
                Ok(map.into())
            }
            Asked::Tensor(Position::Before, z) if self.transformed[site] => codec.after_producer(z, &self.quantizers),
            Asked::Tensor(position, x) => match codec.for_readers(position, x, &self.quantizers)? {
                Some(coefficients) => Ok(Hooked::Replaced(coefficients)),
                None => self.compressor.hook_activated(site, position, x, &self.quantizers),
            },
        }
    }
}

impl SiteCodec {
    /// The matrices of a transform on this side of which something is kept, unless its half has to stay in the codec.
    fn matrices_at(&self, position: Position) -> Result<Option<Matrices>, LibtorchError> {
        let stands = matches!(self.transform, Transform::Pca(_)) && self.position() == position && self.kept() > 0;
        let folds = position == Position::Before || self.site.readers_train_folded;
        if stands && folds { self.matrices() } else { Ok(None) }
    }

    /// The half that neighbouring layers carry out for a codec on this side: the matrix, the constant as its last row.
    fn folded_half(&self, position: Position) -> Result<Option<Tensor>, LibtorchError> {
        let Some(matrices) = self.matrices_at(position)? else { return Ok(None) };
        let (matrix, constant) = match position {
            Position::Before => (&matrices.analysis, &matrices.bias),
            Position::After => (&matrices.synthesis, self.transform.mean()),
        };
        Ok(Some(Tensor::f_cat(&[matrix.shallow_clone(), constant.f_unsqueeze(0)?], 0)?))
    }

    /// From coefficients `z`, `[batch, kept, ...]`: with the activation function where that only clamps.
    fn after_producer(&self, z: &Tensor, quantizers: &Quantizers) -> Result<Hooked, LibtorchError> {
        let Some(matrices) = self.matrices_at(Position::Before)? else { return Ok(Hooked::Unchanged) };
        let activation = self.site.clamp.unwrap_or(Clamp::NONE);
        let restored = self.carried_out(z, quantizers, &matrices, Halves::Synthesis, activation)?;
        Ok(if self.site.clamp.is_some() { Hooked::Activated(restored) } else { Hooked::Replaced(restored) })
    }

    /// Quantized coefficients, `[batch, kept, ...]`, for readers that take them.
    fn for_readers(
        &self,
        position: Position,
        x: &Tensor,
        quantizers: &Quantizers,
    ) -> Result<Option<Tensor>, LibtorchError> {
        if position != Position::After {
            return Ok(None);
        }
        let Some(matrices) = self.matrices_at(position)? else { return Ok(None) };
        self.carried_out(x, quantizers, &matrices, Halves::Analysis, Clamp::NONE).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::compress::codec::samples::site;
    use crate::compress::transform::Pca;
    use crate::libtorch::Codes;

    /// The graph asks by what it sees; a site that can't give coefficients must not let its readers take them.
    #[test]
    fn readers_take_coefficients_only_where_the_codec_gives_them() {
        let float = (Kind::Float, Device::Cpu);
        for folds in [false, true] {
            let (basis, mean) = (Tensor::eye(5, float), Tensor::zeros([5], float));
            let pca = Pca { basis, inverse: None, mean, position: Position::After, block: None };
            let site = crate::model::Site { readers_train_folded: folds, ..site() };
            let groups = vec![vec![0, 1, 2, 3, 4]];
            let codec =
                SiteCodec::new(site, Transform::Pca(pca), Codes::MidTread, groups, 0, &[false], Device::Cpu).unwrap();
            let quantizers = Quantizers { step: Tensor::ones([1], float), range: Tensor::ones([1], float) };
            let x = Tensor::zeros([2, 5, 6, 7], float);
            assert_eq!(codec.folded_half(Position::After).unwrap().is_some(), folds);
            assert_eq!(codec.for_readers(Position::After, &x, &quantizers).unwrap().is_some(), folds);
        }
    }
}
