//! Data sets of photographs: their own keys, and those that all of them share.
//!
//! serde cannot both flatten a shared struct and refuse unknown keys, so a macro writes the shared ones into each.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::language::path_text;

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

/// Writes a data set of photographs: the keys given, and behind them those that all share.
macro_rules! photographs {
    ($(#[$about:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($own)*
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

        impl $name {
            /// The keys that the data sets of photographs share.
            pub fn photographs(&self) -> Photographs {
                Photographs {
                    eval_batch_size: self.eval_batch_size,
                    resize: self.resize,
                    interpolation: self.interpolation,
                    scale: self.scale,
                    ratio: self.ratio,
                    horizontal_flip: self.horizontal_flip,
                    scaled_decoding: self.scaled_decoding,
                    mean: self.mean,
                    std: self.std,
                    max_unreadable: self.max_unreadable,
                    threads: self.threads,
                }
            }
        }
    };
}

photographs! {
    /// A data set of photographs in folders: `train/CLASS/…` and `val/CLASS/…`, JPEG or PNG; classes are numbered by their names.
    FolderData {
        /// Folder with `train` and `val`; a relative path starts at the folder of the file it is written in. Required.
        #[serde(serialize_with = "path_text")]
        #[schemars(length(min = 1), example = "/data/imagenet")]
        pub path: PathBuf,
    }
}

photographs! {
    /// A data set of photographs in tar files: samples of an image `KEY.jpg` and its class in `KEY.cls`.
    ShardData {
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
    }
}

/// The values of keys that are left out.
mod defaults {
    pub(super) use super::super::language::defaults::{batch_size, eval_batch_size};

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
