//! Data sets, augmentation and the loader: from files to normalised batches.
//!
//! [`Samples`] are labelled images as a network takes them: a [`Dataset`] of images of one shape on a canvas ([`Canvas`]),
//! or photographs of any size under torchvision's transforms ([`Pictures`]) that lie in folders ([`FolderSet`]) or in tar
//! files ([`ShardSet`]). A [`Loader`] turns them into [`Batch`]es in an order and with an augmentation that depend on the
//! seed, the epoch and the image alone. Nothing here knows of libtorch.

mod augment;
mod cache;
mod canvas;
mod error;
mod folder;
mod idx;
mod loader;
mod picture;
mod shards;
mod synthetic;

use std::borrow::Cow;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

pub use cache::cache_folder;
pub use canvas::{Canvas, CanvasOptions};
pub use error::DataError;
pub use folder::FolderSet;
pub use idx::{IdxDataset, Split};
pub use loader::{Epoch, Loader, LoaderOptions};
pub use picture::{
    Augmentation, ImageError, Interpolation, MOST_PIXELS, Pictures, Preprocessing, Store, Transform, Unreadable,
};
pub use shards::ShardSet;
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

/// The bytes of an image as they are stored.
pub type Stored = Vec<u8>;

/// Stored images in the order of an epoch, read as they are asked for; an image that can't be read is the reason why.
pub type Stream = Box<dyn Iterator<Item = Result<Stored, String>> + Send>;

/// Labelled images as a network takes them.
///
/// Indices run from 0 to `len() - 1`; an index beyond is the caller's mistake and may panic.
pub trait Samples: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there is no image at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Class of an image, counted from 0.
    fn label(&self, index: usize) -> i64;

    /// All images in the order of an epoch: as they come, or shuffled by `rng`.
    fn order(&self, rng: Option<&mut ChaCha8Rng>) -> Vec<usize> {
        shuffled(self.len(), rng)
    }

    /// The stored images from position `from` of `order` on, where reading them one after the other is better than each
    /// by itself.
    fn stream(&self, _order: &[usize], _from: usize) -> Option<Stream> {
        None
    }

    /// Writes an image's normalised values to `out`; `stored` is what [`Self::stream`] gave for it. False if the image
    /// can't be read and is to be left out.
    ///
    /// # Errors
    /// Whatever must end the run.
    fn render(
        &self,
        index: usize,
        stored: Option<Result<Stored, String>>,
        rng: &mut ChaCha8Rng,
        out: &mut [f32],
    ) -> Result<bool, DataError>;
}

/// The numbers below `count`, as they come or shuffled.
fn shuffled(count: usize, rng: Option<&mut ChaCha8Rng>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if let Some(rng) = rng {
        order.shuffle(rng);
    }
    order
}

/// Images as the network takes them, with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<Values> {
    /// Normalised values, row-major in `shape`; what lies behind them is none of the batch's.
    pub images: Values,
    /// `[batch, channels, height, width]`.
    pub shape: [usize; 4],
    /// One class an image, counted from 0.
    pub labels: Vec<i64>,
}
