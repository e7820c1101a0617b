//! Loading with one probe run, which tells shapes, operations and classes.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::activation::{clamp, lower_bound};
use super::error::ModelError;
use crate::libtorch::{Clamp, Network, Observed, Position, Survey};

/// An activation tensor that the method compresses.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Index in the network's survey: what the hook is called with.
    pub index: usize,
    /// Dotted name, with `#2` for a module's second use.
    pub name: String,
    /// The activation function's plain name.
    pub kind: String,
    /// Name of the node that makes the pre-activation.
    pub producer: String,
    /// Names of the nodes that read the result.
    pub consumers: Vec<String>,
    /// Shape for one image, channels first: `[channels, height, width]`, or `[channels]`.
    pub shape: Vec<i64>,
    /// The channels are the tensor's last dimension rather than its second.
    pub channels_last: bool,
    /// The least value of the activation function.
    pub lower_bound: Option<f64>,
    /// What the activation function does, if it only clamps.
    pub clamp: Option<Clamp>,
    /// `Uᵀ(x − μ)` of the pre-activation folds exactly into the layers that make it: each is a dense (one group)
    /// convolution or a linear layer, followed by nothing but batch normalisation with running statistics, dropout and
    /// additions of two such chains, and nothing else reads a value in between. An identity skip makes it false, and so
    /// does whatever can't be told from the graph. For a codec before the activation function.
    pub folds_forward: bool,
    /// `U·ẑ + μ` folds exactly into the layers that read the site: each, directly or behind a dropout, is a dense
    /// convolution with padding 0 or a linear layer over the channels. Padding makes it false: the zeros around the
    /// image would have to be transformed values. For a codec after the activation function, with no clamp behind it.
    pub folds_inverse: bool,
    /// [`Self::folds_inverse`] holds in training as well: no dropout stands between, and nobody asks for the site's shape.
    pub readers_train_folded: bool,
}

impl Site {
    /// Whether one half of a transform on this side of the activation function folds into a neighbouring layer.
    pub fn folds(&self, position: Position) -> bool {
        match position {
            Position::Before => self.folds_forward,
            Position::After => self.folds_inverse,
        }
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        usize::try_from(self.shape[0]).unwrap_or(0)
    }

    /// Values of one channel of one image.
    pub fn positions(&self) -> usize {
        self.values() / self.channels().max(1)
    }

    /// Values for one image.
    pub fn values(&self) -> usize {
        usize::try_from(self.shape.iter().product::<i64>()).unwrap_or(0)
    }
}

/// A tensor of the `stored` convention: what a conv or linear layer, an average pool or a residual add reads from memory
/// when conv + BN + (add) + activation are fused into one kernel. The input image is not counted.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    /// Dotted name of its producer.
    pub name: String,
    /// Shape for one image.
    pub shape: Vec<i64>,
    /// The site (index into [`Model::sites`]) whose codes it holds, unchanged or max-pooled.
    pub site: Option<usize>,
}

impl StoredTensor {
    /// Values for one image.
    pub fn values(&self) -> usize {
        usize::try_from(self.shape.iter().product::<i64>()).unwrap_or(0)
    }
}

/// A loaded network and what a probe run with one image told of it.
#[derive(Debug)]
pub struct Model {
    /// The network.
    pub network: Network,
    /// Sites in the order of `forward`; only those that run in evaluation.
    pub sites: Vec<Site>,
    /// Tensors of the `stored` convention.
    pub stored: Vec<StoredTensor>,
    /// Multiply-accumulates of convolutions and matrix products for one image.
    pub macs: u64,
    /// Number of trainable values.
    pub parameters: u64,
    /// Number of logits.
    pub classes: usize,
    /// Input shape `[channels, height, width]`.
    pub input: [i64; 3],
    /// The file bakes evaluation into batch normalisation (a traced network): it can't be trained from scratch.
    pub baked_evaluation: bool,
}

impl Model {
    /// Loads `path`, moves it to `device` and probes it with one image of shape `input` (`[channels, height, width]`).
    /// The network is left in evaluation.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn load(path: &Path, input: [i64; 3], device: Device) -> Result<Self, ModelError> {
        let mut network = Network::load(path)?;
        network.to_device(device)?;
        network.set_train(false, false)?;
        let image = Tensor::f_zeros([1, input[0], input[1], input[2]], (Kind::Float, device))
            .map_err(crate::libtorch::LibtorchError::from)?;
        let (seen, output) = tch::no_grad(|| network.observe(&image))?;
        let shape = output.size();
        let classes = match shape[..] {
            [1, classes] => usize::try_from(classes).unwrap_or(0),
            _ => return Err(ModelError::NotAClassifier { shape }),
        };
        let tensors = network.tensors()?;
        let parameters = tensors.iter().filter(|t| t.is_parameter).map(|t| t.tensor.numel() as u64).sum();
        let (sites, numbers) = sites(network.survey(), &seen);
        if sites.is_empty() {
            return Err(ModelError::NoSites);
        }
        let stored = stored(network.survey(), &seen, &numbers);
        let macs = macs(network.survey(), &seen);
        let baked_evaluation = network.norm_is_baked();
        Ok(Self { network, sites, stored, macs, parameters, classes, input, baked_evaluation })
    }

    /// Values of all sites for one image: the denominator of bits per value in the `relu` convention.
    pub fn values(&self) -> usize {
        self.sites.iter().map(Site::values).sum()
    }
}

/// The sites that ran, and for each surveyed site its place among them.
fn sites(survey: &Survey, seen: &Observed) -> (Vec<Site>, Vec<Option<usize>>) {
    let mut sites = Vec::new();
    let mut numbers = vec![None; survey.sites.len()];
    for (index, (raw, shape)) in survey.sites.iter().zip(&seen.sites).enumerate() {
        // What has no batch dimension (a scale, a weight) is no activation.
        let Some([1, shape @ ..]) = shape.as_deref() else { continue };
        if shape.is_empty() {
            continue;
        }
        let mut shape = shape.to_vec();
        let channels_last = raw.channels_last && shape.len() > 1;
        if channels_last {
            shape.rotate_right(1);
        }
        numbers[index] = Some(sites.len());
        let (folds_forward, folds_inverse) = (raw.folds_forward.holds_for(&shape), raw.folds_inverse.holds_for(&shape));
        sites.push(Site {
            index,
            name: raw.name.clone(),
            kind: raw.kind.clone(),
            producer: raw.producer.clone(),
            consumers: raw.consumers.clone(),
            shape,
            channels_last,
            lower_bound: lower_bound(raw),
            clamp: clamp(raw),
            folds_forward,
            folds_inverse,
            readers_train_folded: folds_inverse && raw.readers_train_folded,
        });
    }
    (sites, numbers)
}

fn stored(survey: &Survey, seen: &Observed, numbers: &[Option<usize>]) -> Vec<StoredTensor> {
    let ran = survey.stored.iter().zip(&seen.stored).filter_map(|(raw, shape)| match shape.as_deref() {
        Some([1, shape @ ..]) if !shape.is_empty() => Some((raw, shape.to_vec())),
        _ => None,
    });
    ran.map(|(raw, shape)| StoredTensor {
        name: raw.name.clone(),
        shape,
        site: raw.sites.first().and_then(|&site| numbers[site]),
    })
    .collect()
}

/// Multiply-accumulates for the probe's single image.
fn macs(survey: &Survey, seen: &Observed) -> u64 {
    let count = |kind: &str, output: &[i64], weight: &[i64]| -> i64 {
        let outputs: i64 = output.iter().product();
        match kind {
            // Weight [in, out]: each output sums over the first dimension.
            "addmm" | "matmul" | "mm" => outputs * weight.iter().rev().nth(1).copied().unwrap_or(1),
            // Weight [out, in / groups, kernel...]: each output sums over all but the first.
            _ => outputs * weight.iter().skip(1).product::<i64>(),
        }
    };
    let ran = survey.computes.iter().zip(&seen.computes).filter_map(|(node, shapes)| Some((node, shapes.as_ref()?)));
    ran.map(|(node, (output, weight))| u64::try_from(count(&node.kind, output, weight)).unwrap_or(0)).sum()
}
