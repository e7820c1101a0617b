//! The stages of a recipe, one struct each.
//!
//! The optimizer's keys are repeated from stage to stage: serde cannot both flatten a shared struct and refuse
//! unknown keys, and the defaults differ.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::anneal::Anneal;
use super::values::{Length, Portion};

/// One stage of the timeline; its kind is the key `stage`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "stage", rename_all = "lowercase")]
pub enum Stage {
    /// Trains the float network.
    Train(TrainStage),
    /// Gathers the statistics at every site, and decides basis and partition from them.
    Calibrate(CalibrateStage),
    /// Learns the bit-widths while the budget falls to the target.
    Search(SearchStage),
    /// Trains on with the widths frozen to integers; always the last stage.
    Finetune(FinetuneStage),
}

impl Stage {
    /// The stage's kind, as a recipe writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Train(_) => "train",
            Self::Calibrate(_) => "calibrate",
            Self::Search(_) => "search",
            Self::Finetune(_) => "finetune",
        }
    }

    /// How long the stage trains; `None` for a calibration, which takes no steps.
    pub fn length(&self) -> Option<Length> {
        match self {
            Self::Train(stage) => Some(stage.length),
            Self::Calibrate(_) => None,
            Self::Search(stage) => Some(stage.length),
            Self::Finetune(stage) => Some(stage.length),
        }
    }
}

/// Float training by stochastic gradient descent with momentum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainStage {
    /// How long: `8ep` epochs (`0.5ep` is half an epoch) or `1200st` steps; more than 0. Required.
    #[schemars(extend("format" = "positive-length"))]
    pub length: Length,
    /// Highest learning rate, reached after `warmup`, then falling to 0 by a cosine. Default: 0.05.
    #[serde(default = "defaults::train_learning_rate")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// How long the learning rate rises linearly from 0: a length, or a share of the stage (`5%`); shorter than `length`.
    /// Default: `0ep`.
    #[serde(default = "defaults::warmup")]
    pub warmup: Portion,
    /// Momentum of the gradient descent, from 0 to below 1. Default: 0.9.
    #[serde(default = "defaults::momentum")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Weight decay (L2), per step and relative to the learning rate. Default: 0.0005.
    #[serde(default = "defaults::weight_decay")]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Share of each label that is spread over all classes, from 0 to below 1. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub label_smoothing: f64,
}

/// Calibration: mean and covariance of every site, sensitivities, then basis and partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrateStage {
    /// Number of training images for the channel means and covariances; more than there are is an error. Default: 2048,
    /// or all where there are fewer.
    #[schemars(range(min = 1))]
    pub images: usize,
    /// Number of training images for the sensitivities (Fisher diagonal), likewise. Default: 1024, or all where
    /// there are fewer.
    #[schemars(range(min = 1))]
    pub sensitivity_images: usize,
    /// Which transform a site gets. Default: `auto`.
    pub transform: Transform,
    /// Where the transform sits, seen from the activation function. Default: `before`.
    pub placement: Placement,
    /// Channels of a block of block-diagonal PCA, for `transform: block` and as a choice of `auto`; from 2.
    /// Default: 16.
    #[schemars(range(min = 2, max = 4096))]
    pub block_channels: usize,
    /// Most extra multiply-accumulates that all transforms together may cost, in percent of the network's own, without
    /// those that fold into a neighbouring layer; holds for `transform: auto` alone. Default: 30.
    #[schemars(range(min = 0))]
    pub max_mac_overhead: f64,
    /// Whether the training that follows learns the bases, too. Default: `apart`.
    pub basis: BasisLearning,
    /// Most groups of one site, from 1 to 32; each group has a quantizer of its own. Default: 8.
    #[schemars(range(min = 1, max = 32))]
    pub max_groups: usize,
    /// How the boundaries between groups are found. Default: `automatic`.
    pub partition: PartitionRule,
    /// Which codes principal components get. Default: `auto`.
    pub codes: ComponentCodes,
    /// How the quantizers' first ranges are found. Default: `mse`.
    pub initial_ranges: InitialRanges,
    /// One fixed width in bits, from 1 to 8, for everything that is kept; no search follows. Mid-tread codes, as those of an
    /// activation function without a least value, take 2 bits at least. Default: none, widths are learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub bits: Option<u32>,
    /// Bits per value that the dimension reduction alone has to reach, with every kept value at `bits`. Default: none,
    /// everything is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        range(max = 8),
        extend("exclusiveMinimum" = 0, "x-why" = WHY_BITS)
    )]
    pub target_bits: Option<f64>,
    /// Share of the values that the dimension reduction keeps, decided before any width (and before `partition` cuts what
    /// is kept into groups); the search then moves widths alone. More than 0, at most 1. Default: none, both are decided
    /// together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub kept: Option<f64>,
}

impl CalibrateStage {
    /// Most multiply-accumulates that the transforms may take for one image, of a network that itself takes `network`.
    pub fn max_macs(&self, network: u64) -> f64 {
        match self.transform {
            Transform::Auto => network as f64 * self.max_mac_overhead / 100.0,
            _ => f64::INFINITY,
        }
    }
}

impl Default for CalibrateStage {
    fn default() -> Self {
        Self {
            images: 2048,
            sensitivity_images: 1024,
            transform: Transform::Auto,
            placement: Placement::Before,
            block_channels: 16,
            max_mac_overhead: 30.0,
            basis: BasisLearning::Apart,
            max_groups: 8,
            partition: PartitionRule::Automatic,
            codes: ComponentCodes::Auto,
            initial_ranges: InitialRanges::Mse,
            bits: None,
            target_bits: None,
            kept: None,
        }
    }
}

/// Search: the bit-widths are learned under a budget, which may fall from `start_bits` to `target_bits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchStage {
    /// How long: `6ep` epochs (`0.5ep` is half an epoch) or `1200st` steps; more than 0. Required.
    #[schemars(extend("format" = "positive-length"))]
    pub length: Length,
    /// Budget at the end, in bits per value of the original activation tensors; more than 0, at most 8. Required.
    #[schemars(
        range(max = 8),
        extend("exclusiveMinimum" = 0, "x-why" = WHY_BITS),
        example = 2.16
    )]
    pub target_bits: f64,
    /// Budget at the start, in bits per value; from `target_bits` to 8. Default: `target_bits`, the same budget from the
    /// first step to the last.
    #[serde(default)]
    #[schemars(range(max = 8), extend("exclusiveMinimum" = 0, "x-why" = WHY_BITS))]
    pub start_bits: Option<f64>,
    /// Curve by which the budget falls from `start_bits` to `target_bits`. Default: `exponential`.
    #[serde(default)]
    pub anneal: Anneal,
    /// Highest learning rate of the weights, falling to 0 by a cosine; 0 keeps them as they are. Default: 0.01.
    #[serde(default = "defaults::learning_rate")]
    #[schemars(range(min = 0))]
    pub learning_rate: f64,
    /// Momentum of the weights' gradient descent, from 0 to below 1. Default: 0.9.
    #[serde(default = "defaults::momentum")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Weight decay (L2) of the weights; quantizers never have any. Default: 0.0005.
    #[serde(default = "defaults::weight_decay")]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Learning rate of Adam on log2 of the quantizers' steps and ranges. Default: 0.02.
    #[serde(default = "defaults::quantizer_learning_rate")]
    #[schemars(range(min = 0))]
    pub quantizer_learning_rate: f64,
    /// What batch normalization does meanwhile. Default: `train`.
    #[serde(default)]
    pub batch_norm: BatchNorm,
    /// Weight, from 0 to 1, of the divergence from the float network's outputs in the loss. Default: 0.5.
    #[serde(default = "defaults::distillation")]
    #[schemars(range(min = 0, max = 1))]
    pub distillation: f64,
    /// Weight in the loss of the estimated code length in bits per value, for those who code the activations with an
    /// entropy coder. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub entropy_weight: f64,
    /// What convolutions and max-poolings keep of a compressed activation for their backward pass: `full`, its values, or
    /// `packed`, its integer codes, from which the values are made anew bit for bit. Packed takes less memory and more time;
    /// on the CPU, for codecs in front of ReLU or ReLU6, others keep values. Default: `full`.
    #[serde(default)]
    pub save_activations: SaveActivations,
    /// Whether dropped groups come back where the loss gains more than their bits cost; never what the calibration's
    /// `kept` has dropped. Default: true.
    #[serde(default = "defaults::revival")]
    pub revival: bool,
}

impl SearchStage {
    /// A search with every other key at its default.
    pub fn new(length: Length, target_bits: f64) -> Self {
        Self {
            length,
            target_bits,
            start_bits: None,
            anneal: Anneal::default(),
            learning_rate: defaults::learning_rate(),
            momentum: defaults::momentum(),
            weight_decay: defaults::weight_decay(),
            quantizer_learning_rate: defaults::quantizer_learning_rate(),
            batch_norm: BatchNorm::default(),
            distillation: defaults::distillation(),
            entropy_weight: 0.0,
            save_activations: SaveActivations::default(),
            revival: defaults::revival(),
        }
    }

    /// Budget at the start, in bits per value.
    pub fn first_bits(&self) -> f64 {
        self.start_bits.unwrap_or(self.target_bits)
    }
}

/// Fine-tuning with the widths frozen to integers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinetuneStage {
    /// How long: `3ep` epochs (`0.5ep` is half an epoch) or `1200st` steps; more than 0. Required.
    #[schemars(extend("format" = "positive-length"))]
    pub length: Length,
    /// Highest learning rate of the weights, falling to 0 by a cosine; 0 keeps them as they are. Default: 0.01.
    #[serde(default = "defaults::learning_rate")]
    #[schemars(range(min = 0))]
    pub learning_rate: f64,
    /// Momentum of the weights' gradient descent, from 0 to below 1. Default: 0.9.
    #[serde(default = "defaults::momentum")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Weight decay (L2) of the weights; quantizers never have any. Default: 0.0005.
    #[serde(default = "defaults::weight_decay")]
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Learning rate of Adam on log2 of the quantizers' steps and ranges. Default: 0.02.
    #[serde(default = "defaults::quantizer_learning_rate")]
    #[schemars(range(min = 0))]
    pub quantizer_learning_rate: f64,
    /// What batch normalization does meanwhile. Default: `train`.
    #[serde(default)]
    pub batch_norm: BatchNorm,
    /// Weight, from 0 to 1, of the divergence from the float network's outputs in the loss. Default: 0.5.
    #[serde(default = "defaults::distillation")]
    #[schemars(range(min = 0, max = 1))]
    pub distillation: f64,
    /// Weight in the loss of the estimated code length in bits per value, for those who code the activations with an
    /// entropy coder. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub entropy_weight: f64,
    /// What convolutions and max-poolings keep of a compressed activation for their backward pass: `full`, its values, or
    /// `packed`, its integer codes, from which the values are made anew bit for bit. Packed takes less memory and more time;
    /// on the CPU, for codecs in front of ReLU or ReLU6, others keep values. Default: `full`.
    #[serde(default)]
    pub save_activations: SaveActivations,
}

/// How weights and quantizers train while activations are compressed: the keys that `search` and `finetune` share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retraining {
    /// How long.
    pub length: Length,
    /// Highest learning rate of the weights.
    pub learning_rate: f64,
    /// Momentum of the weights' gradient descent.
    pub momentum: f64,
    /// Weight decay of the weights.
    pub weight_decay: f64,
    /// Learning rate of steps and ranges, in octaves.
    pub quantizer_learning_rate: f64,
    /// What batch normalization does.
    pub batch_norm: BatchNorm,
    /// Weight of the distillation.
    pub distillation: f64,
    /// Weight of the estimated code length.
    pub entropy_weight: f64,
    /// What is kept of compressed activations for the backward pass.
    pub save_activations: SaveActivations,
}

macro_rules! retraining {
    ($stage:ty) => {
        impl $stage {
            /// The keys that the compressed stages share.
            pub fn retraining(&self) -> Retraining {
                Retraining {
                    length: self.length,
                    learning_rate: self.learning_rate,
                    momentum: self.momentum,
                    weight_decay: self.weight_decay,
                    quantizer_learning_rate: self.quantizer_learning_rate,
                    batch_norm: self.batch_norm,
                    distillation: self.distillation,
                    entropy_weight: self.entropy_weight,
                    save_activations: self.save_activations,
                }
            }
        }
    };
}

retraining!(SearchStage);
retraining!(FinetuneStage);

/// Why a number of bits has the range it has; the schema carries it, findings repeat it.
const WHY_BITS: &str = "bits per value are counted over the values of the ORIGINAL activation tensors; \
     fixed-length codes have 1 to 8 bits and a dropped value has 0, so an average of 0 would keep nothing \
     and more than 8 cannot be coded";

/// Which transform a site gets before its quantizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transform {
    /// Site by site whatever pays, within `max_mac_overhead`.
    #[default]
    Auto,
    /// The PCA basis at every site.
    Pca,
    /// Block-diagonal PCA at every site: the bases of `block_channels` channels each that vary together.
    Block,
    /// No transform: channels are quantized as they are.
    None,
}

/// Where the transform sits, seen from the activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// On the pre-activations; the activation function follows the reconstruction.
    #[default]
    Before,
    /// On the outputs of the activation function.
    After,
    /// Site by site where it pays.
    Auto,
}

/// Whether training changes the bases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BasisLearning {
    /// They stay as calibration found them.
    Fixed,
    /// They learn; the inverse stays the transpose.
    Tied,
    /// They learn, transform and inverse each for itself.
    #[default]
    Apart,
}

/// How the boundaries between a site's groups are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartitionRule {
    /// By least weighted distortion at the target's price of a bit, with as many groups as pay.
    #[default]
    Automatic,
    /// `max_groups` groups, each with the same part of the site's weighted energy.
    EqualEnergy,
    /// `max_groups` groups of the same number of coefficients.
    EqualSize,
}

/// Which codes principal components get. They have a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComponentCodes {
    /// Site by site what distorts less.
    #[default]
    Auto,
    /// 0 lies between two levels: all codes of a width are used, from 1 bit.
    MidRise,
    /// 0 is a level, with as many on either side: one code of a width stays unused, from 2 bits.
    MidTread,
}

/// How the quantizers' first ranges are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitialRanges {
    /// By the least weighted mean squared error over a scan of steps.
    #[default]
    Mse,
    /// The largest magnitude that calibration saw.
    Max,
}

/// What batch normalization does while activations are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchNorm {
    /// Normalizes by the batch and keeps updating its running statistics.
    #[default]
    Train,
    /// Normalizes by its running statistics and leaves them as they are.
    Frozen,
    /// Like `train`; at the stage's end the running statistics are averaged anew over training images, with weights and
    /// widths as they stand then.
    Reestimated,
}

/// What the layers that read a compressed activation keep of it for their backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SaveActivations {
    /// Its values.
    #[default]
    Full,
    /// Its integer codes.
    Packed,
}

/// The values of keys that are left out.
mod defaults {
    use super::{Length, Portion};

    pub(super) fn train_learning_rate() -> f64 {
        0.05
    }
    pub(super) fn warmup() -> Portion {
        Portion::Length(Length::Epochs(0.0))
    }
    pub(super) fn momentum() -> f64 {
        0.9
    }
    pub(super) fn weight_decay() -> f64 {
        5e-4
    }
    pub(super) fn learning_rate() -> f64 {
        0.01
    }
    pub(super) fn quantizer_learning_rate() -> f64 {
        0.02
    }
    pub(super) fn distillation() -> f64 {
        0.5
    }
    pub(super) fn revival() -> bool {
        true
    }
}
