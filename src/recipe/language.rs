//! The recipe itself: its top level, what follows from it, and its JSON Schema.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize, Serializer};

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

/// A data set of photographs in folders: `train/CLASS/…` and `val/CLASS/…`, JPEG or PNG; classes are numbered by their names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderData {
    /// Folder with `train` and `val`; a relative path starts at the folder of the file it is written in. Required.
    #[serde(serialize_with = "path_text")]
    #[schemars(length(min = 1), example = "/data/imagenet")]
    pub path: PathBuf,
    /// Number of images in a training batch. Default: 128.
    #[serde(default = "defaults::batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub batch_size: usize,
    /// Number of images in an evaluation batch. Default: 250.
    #[serde(default = "defaults::eval_batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub eval_batch_size: usize,
    /// Length that an image's shorter side is scaled to in evaluation, before the input is cut out of its centre. Default: 256.
    #[serde(default = "defaults::resize")]
    #[schemars(range(min = 1, max = 65536))]
    pub resize: usize,
    /// Filter of the scaling, in training as well. Default: `bilinear`.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// Least and greatest part of an image's area that is cut out at random in training and scaled to the input. Default: `[0.08, 1]`.
    #[serde(default = "defaults::scale")]
    #[schemars(inner(range(min = 0.0001, max = 1)), example = [0.08, 1.0])]
    pub scale: [f64; 2],
    /// Least and greatest width of that part as a multiple of its height. Default: `[0.75, 1.3333333333333333]`.
    #[serde(default = "defaults::ratio")]
    #[schemars(inner(range(min = 0.01, max = 100)), example = [0.75, 1.3333333333333333])]
    pub ratio: [f64; 2],
    /// Whether half of the training images, at random, are mirrored left to right. Default: true.
    #[serde(default = "defaults::yes")]
    pub horizontal_flip: bool,
    /// Whether training images are decoded at half, a quarter or an eighth of their size where the part that is cut out is at least so many times as wide and as high as the input: faster, with other pixels than torchvision's. JPEG alone. Default: false.
    #[serde(default)]
    pub scaled_decoding: bool,
    /// Mean of red, green and blue, in units where white is 1; subtracted. Default: `[0.485, 0.456, 0.406]`, ImageNet's.
    #[serde(default = "defaults::colour_mean")]
    #[schemars(inner(range(min = 0, max = 1)), example = [0.485, 0.456, 0.406])]
    pub mean: [f64; 3],
    /// Standard deviation of red, green and blue, in units where white is 1; divided by. Default: `[0.229, 0.224, 0.225]`, ImageNet's.
    #[serde(default = "defaults::colour_std")]
    #[schemars(inner(range(min = 0.0001, max = 1000)), example = [0.229, 0.224, 0.225])]
    pub std: [f64; 3],
    /// Number of images of each split that may be left out because they can't be read; one more ends the run. Default: 0.
    #[serde(default)]
    #[schemars(range(max = 10_000_000))]
    pub max_unreadable: usize,
    /// Number of threads that load images. Default: on a GPU all of the machine's (at most 32), else a quarter of them, as libtorch computes on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256), example = 8)]
    pub threads: Option<usize>,
}

/// A data set of photographs in tar files: samples of an image `KEY.jpg` and its class in `KEY.cls`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShardData {
    /// Tar files of training images, with a range or alternatives in braces; a relative path starts at the folder of the file it is written in. Required.
    #[serde(serialize_with = "path_text")]
    #[schemars(length(min = 1), example = "/data/imagenet-train-{000000..000146}.tar")]
    pub train: PathBuf,
    /// Tar files of validation images, likewise. Required.
    #[serde(serialize_with = "path_text")]
    #[schemars(length(min = 1), example = "/data/imagenet-val-{000000..000006}.tar")]
    pub val: PathBuf,
    /// Number of training images that lie in memory to be mixed: the tar files come in random order, their images through this buffer. Default: 4096.
    #[serde(default = "defaults::shuffle_buffer")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub shuffle_buffer: usize,
    /// Number of images in a training batch. Default: 128.
    #[serde(default = "defaults::batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub batch_size: usize,
    /// Number of images in an evaluation batch. Default: 250.
    #[serde(default = "defaults::eval_batch_size")]
    #[schemars(range(min = 1, max = 65536))]
    pub eval_batch_size: usize,
    /// Length that an image's shorter side is scaled to in evaluation, before the input is cut out of its centre. Default: 256.
    #[serde(default = "defaults::resize")]
    #[schemars(range(min = 1, max = 65536))]
    pub resize: usize,
    /// Filter of the scaling, in training as well. Default: `bilinear`.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// Least and greatest part of an image's area that is cut out at random in training and scaled to the input. Default: `[0.08, 1]`.
    #[serde(default = "defaults::scale")]
    #[schemars(inner(range(min = 0.0001, max = 1)), example = [0.08, 1.0])]
    pub scale: [f64; 2],
    /// Least and greatest width of that part as a multiple of its height. Default: `[0.75, 1.3333333333333333]`.
    #[serde(default = "defaults::ratio")]
    #[schemars(inner(range(min = 0.01, max = 100)), example = [0.75, 1.3333333333333333])]
    pub ratio: [f64; 2],
    /// Whether half of the training images, at random, are mirrored left to right. Default: true.
    #[serde(default = "defaults::yes")]
    pub horizontal_flip: bool,
    /// Whether training images are decoded at half, a quarter or an eighth of their size where the part that is cut out is at least so many times as wide and as high as the input: faster, with other pixels than torchvision's. JPEG alone. Default: false.
    #[serde(default)]
    pub scaled_decoding: bool,
    /// Mean of red, green and blue, in units where white is 1; subtracted. Default: `[0.485, 0.456, 0.406]`, ImageNet's.
    #[serde(default = "defaults::colour_mean")]
    #[schemars(inner(range(min = 0, max = 1)), example = [0.485, 0.456, 0.406])]
    pub mean: [f64; 3],
    /// Standard deviation of red, green and blue, in units where white is 1; divided by. Default: `[0.229, 0.224, 0.225]`, ImageNet's.
    #[serde(default = "defaults::colour_std")]
    #[schemars(inner(range(min = 0.0001, max = 1000)), example = [0.229, 0.224, 0.225])]
    pub std: [f64; 3],
    /// Number of images of each split that may be left out because they can't be read; one more ends the run. Default: 0.
    #[serde(default)]
    #[schemars(range(max = 10_000_000))]
    pub max_unreadable: usize,
    /// Number of threads that load images. Default: on a GPU all of the machine's (at most 32), else a quarter of them, as libtorch computes on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256), example = 8)]
    pub threads: Option<usize>,
}

/// How photographs are scaled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Triangles.
    #[default]
    Bilinear,
    /// Cubics.
    Bicubic,
}

/// What the data sets of photographs have in common; see the keys of [`FolderData`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the keys' own documentation is FolderData's")]
pub struct Photographs {
    pub eval_batch_size: usize,
    pub resize: usize,
    pub interpolation: Interpolation,
    pub scale: [f64; 2],
    pub ratio: [f64; 2],
    pub horizontal_flip: bool,
    pub scaled_decoding: bool,
    pub mean: [f64; 3],
    pub std: [f64; 3],
    pub max_unreadable: usize,
    pub threads: Option<usize>,
}

/// The keys that two kinds share, out of one of them.
macro_rules! photographs {
    ($data:expr) => {
        Photographs {
            eval_batch_size: $data.eval_batch_size,
            resize: $data.resize,
            interpolation: $data.interpolation,
            scale: $data.scale,
            ratio: $data.ratio,
            horizontal_flip: $data.horizontal_flip,
            scaled_decoding: $data.scaled_decoding,
            mean: $data.mean,
            std: $data.std,
            max_unreadable: $data.max_unreadable,
            threads: $data.threads,
        }
    };
}

impl Data {
    /// The keys about photographs; none where the images are no photographs.
    pub fn photographs(&self) -> Option<Photographs> {
        match self {
            Self::Folder(data) => Some(photographs!(data)),
            Self::Shards(data) => Some(photographs!(data)),
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
fn path_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The values of keys that are left out.
mod defaults {
    pub(super) fn images() -> usize {
        1024
    }
    pub(super) fn batch_size() -> usize {
        128
    }
    pub(super) fn eval_batch_size() -> usize {
        250
    }
    pub(super) fn mean() -> f64 {
        0.286
    }
    pub(super) fn std() -> f64 {
        0.353
    }
    pub(super) fn resize() -> usize {
        256
    }
    pub(super) fn scale() -> [f64; 2] {
        [0.08, 1.0]
    }
    pub(super) fn ratio() -> [f64; 2] {
        [3.0 / 4.0, 4.0 / 3.0]
    }
    pub(super) fn yes() -> bool {
        true
    }
    pub(super) fn colour_mean() -> [f64; 3] {
        [0.485, 0.456, 0.406]
    }
    pub(super) fn colour_std() -> [f64; 3] {
        [0.229, 0.224, 0.225]
    }
    pub(super) fn shuffle_buffer() -> usize {
        4096
    }
}
