//! Photographs: from a file's bytes to the network's input, as torchvision does it with Pillow.
//!
//! Three steps, each equal to its model: [`decode`] gives the pixels of `Image.open(file).convert("RGB")`, [`resample`]
//! those of `Image.resize`, and [`Transform`] puts them together as torchvision's evaluation and training transforms do.

mod bytes;
mod decode;
mod jpeg;
mod png;
mod resample;
mod set;
mod transform;

pub use decode::{ImageError, MOST_PIXELS};
pub use resample::Interpolation;
pub use set::{Pictures, Store, Unreadable};
pub use transform::{Augmentation, Preprocessing, Transform};

use bytes::Bytes;
use decode::{Picture, decode, decode_scaled};
use resample::resample;

/// A rectangle of whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}
