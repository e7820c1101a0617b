//! Data sets, augmentation and the loader: from files to normalised batches.
//!
//! A [`Dataset`] hands out labelled images of one shape, a [`Loader`] turns them into [`Batch`]es in an
//! order and with an augmentation that depend on the seed, the epoch and the image alone. Nothing here
//! knows of libtorch.

mod augment;
mod error;
mod idx;
mod loader;
mod synthetic;

use std::borrow::Cow;

pub use error::DataError;
pub use idx::{IdxDataset, Split};
pub use loader::{Epoch, Loader, LoaderOptions};
pub use synthetic::SyntheticDataset;

/// Labelled images of one shape.
///
/// Indices run from 0 to `len() - 1`; an index beyond is the caller's mistake and may panic.
pub trait Dataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there is no image at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shape of every image, `[channels, height, width]`.
    fn image_shape(&self) -> [usize; 3];

    /// Pixels of an image, 0 to 255, channel by channel and row by row (`channels × height × width`).
    fn image(&self, index: usize) -> Cow<'_, [u8]>;

    /// Class of an image, counted from 0.
    fn label(&self, index: usize) -> i64;
}

/// Images as the network takes them, with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Normalised values, row-major in `shape`.
    pub images: Vec<f32>,
    /// `[batch, channels, height, width]`.
    pub shape: [usize; 4],
    /// One class an image, counted from 0.
    pub labels: Vec<i64>,
}
