//! The recipe itself: its top level, what follows from it, and its JSON Schema.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize, Serializer};

use super::photographs::{FolderData, Photographs, ShardData};
use super::sites::SitePatterns;
use super::stage::{CalibrateStage, FinetuneStage, SearchStage, Stage, Transform};
use super::values::{Device, InputShape};

/// A recipe for compressing the activations of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Version of the recipe language; 1 is the only one. Required.
    #[schemars(
        range(min = 1, max = 1),
        extend("x-why" = "this program reads version 1 of the recipe language"),
        example = 1
    )]
    pub version: u32,
    /// Name of the recipe, shown in reports. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(example = "fashion-mnist-mini/resnet18-joint")]
    pub name: Option<String>,
    /// Seed of everything random: order of images, augmentation, initial weights. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Where to compute: `auto` (CUDA where present), `cpu`, `cuda` or `cuda:N`. Default: `auto`.
    #[serde(default)]
    pub device: Device,
    /// The network to compress. Required.
    pub model: Model,
    /// The images to train, calibrate and evaluate on. Required.
    pub data: Data,
    /// The sites to compress. Default: all of them.
    #[serde(default)]
    pub sites: SitePatterns,
    /// The timeline: what is done, in this order; at least one stage. Required.
    #[schemars(length(min = 1))]
    pub stages: Vec<Stage>,
}

/// The network to compress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// TorchScript file; a relative path starts at the folder of the file it is written in. Required.
    #[serde(serialize_with = "path_text")]
    #[schemars(length(min = 1), example = "models/resnet18.pt")]
    pub path: PathBuf,
    /// Shape of one input image as `CxHxW`: channels, height, width. Required.
    pub input: InputShape,
}

/// The data set; its kind is the key `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Data {
    /// Images and labels in IDX files, as MNIST and Fashion-MNIST come.
    Idx(IdxData),
    /// Photographs in one folder a class, as ImageNet comes.
    Folder(FolderData),
    /// Photographs in tar files, as WebDataset writes them.
    Shards(ShardData),
    /// Random images of the network's input shape, for measuring speed.
    Synthetic(SyntheticData),
}

/// A data set of IDX files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdxData {
    /// Folder with the IDX files; a relative path starts at the folder of the file it is written in. Required.
    #[serde(serialize_with = "path_text")]
    #[schemars(length(min = 1), example = "data/fashion-mnist-mini")]
    pub path: PathBuf,
    /// Number of images in a training batch. Default: 128.
    #[serde(default = "defaults::batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub batch_size: usize,
    /// Number of images in an evaluation batch. Default: 250.
    #[serde(default = "defaults::eval_batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub eval_batch_size: usize,
    /// Training images are shifted at random by up to this many pixels (a crop after zero padding). Default: 0.
    #[serde(default)]
    #[schemars(range(max = 1024))]
    pub crop_padding: usize,
    /// Whether half of the training images, at random, are mirrored left to right. Default: false.
    #[serde(default)]
    pub horizontal_flip: bool,
    /// Mean of the pixels, in units where white is 1; subtracted. Default: 0.2860, Fashion-MNIST's.
    #[serde(default = "defaults::mean")]
    #[schemars(range(min = 0, max = 1))]
    pub mean: f64,
    /// Standard deviation of the pixels, in units where white is 1; divided by. Default: 0.3530, Fashion-MNIST's.
    #[serde(default = "defaults::std")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub std: f64,
}

/// Random images of the network's input shape with random labels: nothing is read, and nothing can be learned from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyntheticData {
    /// Number of images in each split; at least `batch_size`. Default: 1024.
    #[serde(default = "defaults::images")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub images: usize,
    /// Number of images in a training batch. Default: 128.
    #[serde(default = "defaults::batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub batch_size: usize,
    /// Number of images in an evaluation batch. Default: 250.
    #[serde(default = "defaults::eval_batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub eval_batch_size: usize,
}

impl Data {
    /// The keys about photographs; none where the images are no photographs.
    pub fn photographs(&self) -> Option<Photographs> {
        match self {
            Self::Folder(data) => Some(data.photographs()),
            Self::Shards(data) => Some(data.photographs()),
            Self::Idx(_) | Self::Synthetic(_) => None,
        }
    }

    /// The kind, as a recipe writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Idx(_) => "idx",
            Self::Folder(_) => "folder",
            Self::Shards(_) => "shards",
            Self::Synthetic(_) => "synthetic",
        }
    }

    /// Where the images lie; none if they lie nowhere.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Idx(data) => Some(&data.path),
            Self::Folder(data) => Some(&data.path),
            Self::Shards(data) => Some(&data.train),
            Self::Synthetic(_) => None,
        }
    }

    /// The key that says where the images lie.
    pub fn path_key(&self) -> &'static str {
        match self {
            Self::Idx(_) | Self::Folder(_) => "data.path",
            Self::Shards(_) => "data.train",
            Self::Synthetic(_) => "data",
        }
    }

    /// Images in a training batch.
    pub fn batch_size(&self) -> usize {
        match self {
            Self::Idx(data) => data.batch_size,
            Self::Folder(data) => data.batch_size,
            Self::Shards(data) => data.batch_size,
            Self::Synthetic(data) => data.batch_size,
        }
    }
}

/// Which of the methods a recipe is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// No compression.
    Float,
    /// One fixed width everywhere, with learned steps.
    Uniform,
    /// Widths learned per site, no transform.
    Mp,
    /// Widths learned per group of channels, no transform.
    MpGrouped,
    /// Dimension reduction alone: what is kept has one fixed width.
    DrOnly,
    /// The dimension reduction first, then widths of what it kept.
    DrThenMp,
    /// Transform and widths together.
    Joint,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float => "float",
            Self::Uniform => "uniform",
            Self::Mp => "mp",
            Self::MpGrouped => "mp_grouped",
            Self::DrOnly => "dr_only",
            Self::DrThenMp => "dr_then_mp",
            Self::Joint => "joint",
        })
    }
}

impl Recipe {
    /// The calibration, if there is one.
    pub fn calibrate(&self) -> Option<&CalibrateStage> {
        self.stages.iter().find_map(|stage| match stage {
            Stage::Calibrate(stage) => Some(stage),
            _ => None,
        })
    }

    /// The search, if there is one.
    pub fn search(&self) -> Option<&SearchStage> {
        self.stages.iter().find_map(|stage| match stage {
            Stage::Search(stage) => Some(stage),
            _ => None,
        })
    }

    /// The fine-tuning, if there is one.
    pub fn finetune(&self) -> Option<&FinetuneStage> {
        self.stages.iter().find_map(|stage| match stage {
            Stage::Finetune(stage) => Some(stage),
            _ => None,
        })
    }

    /// Which method this recipe is: `float` without a calibration, else by what the calibration fixes.
    pub fn mode(&self) -> Mode {
        let Some(calibrate) = self.calibrate() else { return Mode::Float };
        match (calibrate.bits, calibrate.target_bits, calibrate.kept, calibrate.transform) {
            (Some(_), None, ..) => Mode::Uniform,
            (Some(_), Some(_), ..) => Mode::DrOnly,
            (None, _, Some(_), _) => Mode::DrThenMp,
            (None, _, None, Transform::None) if calibrate.max_groups == 1 => Mode::Mp,
            (None, _, None, Transform::None) => Mode::MpGrouped,
            _ => Mode::Joint,
        }
    }

    /// Bits per value that a run of this recipe must not exceed: the search's target, or the dimension reduction's. None
    /// where nothing is asked.
    pub fn target_bits(&self) -> Option<f64> {
        self.search().map(|s| s.target_bits).or_else(|| self.calibrate().and_then(|c| c.target_bits))
    }

    /// Full training batches in one pass over `images` training images; the rest of an epoch is dropped.
    pub fn steps_per_epoch(&self, images: usize) -> usize {
        images / self.data.batch_size().max(1)
    }

    /// The whole recipe as YAML: every key explicit, every path absolute. Loads again to an equal recipe.
    pub fn resolved_yaml(&self) -> String {
        // Nothing in a recipe fails to serialize: it has plain values and string keys alone.
        let text = serde_yaml::to_string(self).expect("a recipe serializes");
        // What is no variable any more must not be read as one.
        text.replace("${", "$${")
    }

    /// Replaces every path by what `resolve` makes of its key and itself.
    pub(super) fn resolve_paths(&mut self, resolve: impl Fn(&str, &Path) -> PathBuf) {
        let data = match &mut self.data {
            Data::Idx(data) => vec![("data.path", &mut data.path)],
            Data::Folder(data) => vec![("data.path", &mut data.path)],
            Data::Shards(data) => vec![("data.train", &mut data.train), ("data.val", &mut data.val)],
            Data::Synthetic(_) => Vec::new(),
        };
        for (key, path) in std::iter::once(("model.path", &mut self.model.path)).chain(data) {
            *path = resolve(key, path);
        }
    }
}

/// The JSON Schema of a recipe as its types say it.
pub(super) fn type_schema() -> serde_json::Value {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Recipe>()
        .to_value()
}

/// Paths come from UTF-8 text; one made by hand that isn't is written with replacement characters.
pub(super) fn path_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The values of keys that are left out.
pub(super) mod defaults {
    pub(super) fn images() -> usize {
        1024
    }
    pub(in crate::recipe) fn batch_size() -> usize {
        128
    }
    pub(in crate::recipe) fn eval_batch_size() -> usize {
        250
    }
    pub(super) fn mean() -> f64 {
        0.286
    }
    pub(super) fn std() -> f64 {
        0.353
    }
}
