//! What an export tells of itself, as JSON inside the file.

use serde::{Deserialize, Serialize};

use crate::compress::codec::SiteCodec;
use crate::compress::compressor::GroupNow;
use crate::libtorch::{Codes, Position};
use crate::train::{OpenedRun, TrainError, stored_bits};

/// The name that an export carries its metadata under.
pub const METADATA: &str = "dimbit.json";

/// What an export tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Version of the program that wrote the file.
    pub dimbit_version: String,
    /// Version of the libtorch that wrote it.
    pub libtorch_version: String,
    /// Top-1 accuracy of the run in percent.
    pub top1: f64,
    /// Stored bits per value of the original activation tensors, `relu` convention; 32 for a float run.
    pub bits_per_value: f64,
    /// The same in the `stored` convention.
    pub bits_per_value_stored: f64,
    /// What the network takes.
    pub input: InputData,
    /// Number of logits.
    pub classes: usize,
    /// The compressed sites, in the network's order.
    pub sites: Vec<SiteData>,
    /// Batch normalisations that were folded into the layers before them.
    pub batch_norms_folded: Vec<String>,
    /// SHA-256 of the run's recipe, as in its `summary.json`.
    pub recipe_sha256: String,
    /// SHA-256 of the model's file that the run began with.
    pub model_sha256: String,
    /// SHA-256 of the run's weights and codecs (`checkpoints/final.safetensors`).
    pub checkpoint_sha256: String,
    /// The run's resolved recipe, in YAML.
    pub recipe: String,
}

/// Images as the network takes them: `[batch, channels, height, width]`, float32, `(pixel − mean) / std` of pixels in 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputData {
    /// `[channels, height, width]`.
    pub shape: [i64; 3],
    /// One value, or one a channel.
    pub mean: Vec<f32>,
    /// One value, or one a channel.
    pub std: Vec<f32>,
}

/// A compressed site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteData {
    /// Name of the site.
    pub name: String,
    /// Its buffers are `codecs.<key>.<what>`.
    pub key: String,
    /// Shape of the original tensor for one image, channels first.
    pub shape: Vec<i64>,
    /// The channels are the last dimension of the tensors rather than the second.
    pub channels_last: bool,
    /// `none`, `pca` or `block`.
    pub transform: String,
    /// Which side of the activation function the codec stands on: `before` or `after`.
    pub placement: String,
    /// Which half of the transform neighbouring layers do along: `forward`, `inverse` or `none`.
    pub folded: String,
    /// `unsigned` (from 0), `mid_tread` (as many on either side of 0) or `mid_rise` (one more below 0 than above).
    pub codes: Codes,
    /// The groups, dropped ones included.
    pub groups: Vec<GroupData>,
}

/// A group of a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupData {
    /// Number of coefficients, or of channels without a transform.
    pub channels: usize,
    /// Width in bits; 0 if dropped.
    pub bits: u32,
    /// Step `d`; 0 if dropped.
    pub step: f64,
    /// Range `qmax`; 0 if dropped.
    pub range: f64,
    /// The coefficients (channels) of the group. With a transform, codes have those of the groups that are not dropped, one
    /// group after the other; without one, all channels in their own order.
    pub members: Vec<usize>,
}

impl SiteData {
    /// `folded`: one half of the transform is.
    pub(super) fn new(codec: &SiteCodec, key: &str, groups: &[GroupNow], folded: bool) -> Self {
        let before = codec.position() == Position::Before;
        let group = |(now, members): (&GroupNow, &Vec<usize>)| GroupData {
            channels: now.channels,
            bits: now.bits,
            step: now.step,
            range: now.range,
            members: members.clone(),
        };
        Self {
            name: codec.site.name.clone(),
            key: key.to_owned(),
            shape: codec.site.shape.clone(),
            channels_last: codec.site.channels_last,
            transform: codec.transform.name().to_owned(),
            placement: if before { "before" } else { "after" }.to_owned(),
            folded: match (folded, before) {
                (false, _) => "none",
                (true, true) => "forward",
                (true, false) => "inverse",
            }
            .to_owned(),
            codes: codec.codes,
            groups: groups.iter().zip(&codec.groups).map(group).collect(),
        }
    }
}

impl Metadata {
    /// Of a run; `sites` and `batch_norms_folded` tell what was written.
    ///
    /// # Errors
    /// If libtorch fails.
    pub(super) fn new(
        run: &OpenedRun,
        sites: Vec<SiteData>,
        batch_norms_folded: Vec<String>,
    ) -> Result<Self, TrainError> {
        let bits = run.compressor.as_ref().map(|c| c.bits_per_value()).transpose()?;
        Ok(Self {
            dimbit_version: env!("CARGO_PKG_VERSION").to_owned(),
            libtorch_version: crate::libtorch::version(),
            top1: run.summary.top1,
            bits_per_value: bits.unwrap_or(32.0),
            bits_per_value_stored: stored_bits(&run.model, run.compressor.as_ref())?,
            input: InputData { shape: run.model.input, mean: run.feed.mean.clone(), std: run.feed.std.clone() },
            classes: run.model.classes,
            sites,
            batch_norms_folded,
            recipe_sha256: run.summary.recipe_sha256.clone(),
            model_sha256: run.summary.model_sha256.clone(),
            checkpoint_sha256: run.checkpoint_sha256()?,
            recipe: run.recipe.clone(),
        })
    }
}
