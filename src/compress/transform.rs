//! A site's transform: none, or principal components, whose basis may learn.
//!
//! `z = Vᵀ(x − μ)`, `x̂ = W·Q(z) + μ`. Calibration starts with `V = W = U`, the eigenvectors of the channels' covariance. A
//! learned basis is tied (`W = V`, one matrix that need not stay orthonormal) or has both matrices learn apart (as the
//! projections of arXiv 2110.08828 do). A block-diagonal basis keeps its zeros.

use tch::Tensor;

use crate::libtorch::{LibtorchError, Position};

/// A site's transform.
#[derive(Debug)]
pub enum Transform {
    /// The channels themselves. `mean`: `[channels]`, what stands for dropped channels.
    None {
        /// Mean of each channel behind the activation function.
        mean: Tensor,
    },
    /// Principal components.
    Pca(Pca),
}

/// A basis of principal components.
#[derive(Debug)]
pub struct Pca {
    /// `V`, and `W` unless it is learned apart: `[channels, channels]`, a coefficient a column. A leaf with gradient if
    /// it is learned.
    pub basis: Tensor,
    /// `W` where it is learned apart: `[channels, channels]`, a leaf with gradient.
    pub inverse: Option<Tensor>,
    /// `μ`: `[channels]`.
    pub mean: Tensor,
    /// Which side of the activation function is transformed.
    pub position: Position,
    /// Channels of a block, if the basis is block-diagonal (up to the order of channels).
    pub block: Option<Block>,
}

/// The structure of a block-diagonal basis.
#[derive(Debug)]
pub struct Block {
    /// Channels of a block; the last one may have fewer.
    pub channels: usize,
    /// 1 where the basis may differ from 0: `[channels, channels]`.
    pub mask: Tensor,
}

impl Block {
    /// The structure of a basis that doesn't learn any more: its zeros.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn of(basis: &Tensor, channels: usize) -> Result<Self, LibtorchError> {
        Ok(Self { channels, mask: basis.f_ne(0.0)?.f_to_kind(tch::Kind::Float)? })
    }
}

impl Pca {
    /// Whether training changes the basis.
    pub fn is_learned(&self) -> bool {
        self.basis.requires_grad()
    }

    /// `V` and `W`: `[channels, channels]` each.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn bases(&self) -> Result<(Tensor, Tensor), LibtorchError> {
        let masked = |t: &Tensor| match &self.block {
            Some(block) => t.f_mul(&block.mask),
            None => Ok(t.shallow_clone()),
        };
        let forward = masked(&self.basis)?;
        let inverse = match &self.inverse {
            Some(inverse) => masked(inverse)?,
            None => forward.shallow_clone(),
        };
        Ok((forward, inverse))
    }

    /// What training changes; empty if it is fixed.
    pub fn leaves(&self) -> Vec<Tensor> {
        let leaves = std::iter::once(&self.basis).chain(&self.inverse).filter(|t| t.requires_grad());
        leaves.map(Tensor::shallow_clone).collect()
    }

    /// Numbers that one coefficient's basis vector has beside its zeros.
    pub fn vector_length(&self) -> usize {
        let channels = self.mean.numel();
        self.block.as_ref().map_or(channels, |block| block.channels.min(channels))
    }
}

impl Transform {
    /// Which side of the activation function the codec stands on.
    pub fn position(&self) -> Position {
        match self {
            Self::None { .. } => Position::After,
            Self::Pca(pca) => pca.position,
        }
    }

    /// `μ`: `[channels]`.
    pub fn mean(&self) -> &Tensor {
        match self {
            Self::None { mean } => mean,
            Self::Pca(pca) => &pca.mean,
        }
    }

    /// The transform's name in reports: `none`, `pca` or `block`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None { .. } => "none",
            Self::Pca(Pca { block: None, .. }) => "pca",
            Self::Pca(_) => "block",
        }
    }
}
