//! A recipe's data set as batches of tensors.

use std::sync::Arc;
use std::thread::available_parallelism;

use tch::{Device, Tensor};

use super::batches::{Batches, Memory};
use super::error::TrainError;
use super::source::{Images, Source};
use crate::data::{DataError, Loader, LoaderOptions, Split, Unreadable};
use crate::recipe::Recipe;

/// The training and validation splits of a recipe's data.
pub struct Feed {
    augmented: Loader,
    /// For the batches of `augmented`, from epoch to epoch.
    memory: Memory,
    train: SplitFeed,
    validation: SplitFeed,
    /// Training images.
    pub train_images: usize,
    /// Validation images.
    pub validation_images: usize,
}

impl Feed {
    /// The number of training images of a recipe.
    ///
    /// # Errors
    /// If they can't be opened.
    pub fn training_images(recipe: &Recipe) -> Result<usize, DataError> {
        Ok(Source::open(recipe, usize::MAX, Split::Train)?.len())
    }

    /// Opens both splits and checks them against the network's input and number of classes (`usize::MAX` if that is not
    /// known).
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open(recipe: &Recipe, classes: usize, device: Device) -> Result<Self, TrainError> {
        let (train, validation) =
            (Source::open(recipe, classes, Split::Train)?, Source::open(recipe, classes, Split::Validation)?);
        train.check_same_classes(&validation)?;
        for source in [&train, &validation] {
            source.check_classes(classes)?;
        }
        let (train, validation) = (train.images(recipe)?, validation.images(recipe)?);
        let whole = LoaderOptions { drop_last: true, ..options(&train, recipe, Split::Train, device) };
        let augmented = Loader::new(Arc::clone(&train.augmented), whole)?;
        Ok(Self {
            train_images: train.plain.len(),
            validation_images: validation.plain.len(),
            memory: Memory::of(&augmented),
            augmented,
            train: SplitFeed::new(train, recipe, Split::Train, device)?,
            validation: SplitFeed::new(validation, recipe, Split::Validation, device)?,
        })
    }

    /// Full training batches in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.augmented.steps_per_epoch()
    }

    /// The augmented training batches of an epoch, without the first `skipped`.
    pub fn train_epoch(&self, epoch: u64, skipped: usize) -> Batches {
        Batches::new(&self.augmented, &self.memory, epoch, skipped, self.train.device)
    }

    /// A split's images as they are.
    pub fn split(&self, split: Split) -> &SplitFeed {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }

    /// Training images as they are, in a random but fixed order.
    pub fn calibration(&self) -> Batches {
        self.train.all()
    }

    /// Like [`Self::calibration`], images alone, in parts of at most `size`: `[≤ size, channels, height, width]`.
    pub fn calibration_in_parts(&self, size: i64) -> impl Iterator<Item = Result<Tensor, TrainError>> + use<> {
        self.calibration().flat_map(move |batch| {
            let parts = batch.and_then(|(images, _)| Ok(images.f_split(size, 0)?));
            let (parts, error) = match parts {
                Ok(parts) => (parts, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            parts.into_iter().map(Ok).chain(error)
        })
    }

    /// Where images lie that could not be read, and why: those of both splits found since this was last asked.
    pub fn take_unreadable(&self) -> Vec<String> {
        [&self.train, &self.validation].into_iter().flat_map(SplitFeed::take_unreadable).collect()
    }

    /// Threads that load images.
    pub fn threads(&self) -> usize {
        self.augmented.threads()
    }
}

/// One split of a recipe's data, without augmentation.
pub struct SplitFeed {
    loader: Loader,
    /// Number of images.
    pub images: usize,
    /// Mean of pixels in 0 to 1 that is subtracted: one value, or one a channel.
    pub mean: Vec<f32>,
    /// Standard deviation of pixels in 0 to 1 that is divided by: one value, or one a channel.
    pub std: Vec<f32>,
    device: Device,
    /// Images that can't be read, where there may be such.
    unreadable: Option<Arc<Unreadable>>,
}

impl SplitFeed {
    /// Opens one split alone; as [`Feed::open`] else.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open(recipe: &Recipe, classes: usize, device: Device, split: Split) -> Result<Self, TrainError> {
        let source = Source::open(recipe, classes, split)?;
        source.check_classes(classes)?;
        Self::new(source.images(recipe)?, recipe, split, device)
    }

    fn new(images: Images, recipe: &Recipe, split: Split, device: Device) -> Result<Self, TrainError> {
        let options = options(&images, recipe, split, device);
        let Images { plain, mean, std, unreadable, .. } = images;
        let images = plain.len();
        let loader = Loader::new(plain, options)?;
        Ok(Self { loader, images, mean, std, device, unreadable })
    }

    /// All images: those for training in a random but fixed order, others as they come.
    pub fn all(&self) -> Batches {
        Batches::new(&self.loader, &Memory::of(&self.loader), 0, 0, self.device)
    }

    /// Where images lie that could not be read, and why: those found since this was last asked.
    pub fn take_unreadable(&self) -> Vec<String> {
        self.unreadable.as_ref().map(|found| found.take_fresh()).unwrap_or_default()
    }
}

/// How a split's images come as they are.
fn options(images: &Images, recipe: &Recipe, split: Split, device: Device) -> LoaderOptions {
    let shape = recipe.model.input;
    LoaderOptions {
        batch_size: match split {
            Split::Train => recipe.data.batch_size(),
            Split::Validation => images.eval_batch_size,
        },
        input: [shape.channels, shape.height, shape.width],
        shuffle: split == Split::Train,
        drop_last: false,
        seed: recipe.seed,
        threads: images.threads.unwrap_or_else(|| default_threads(device)),
    }
}

/// On a GPU all threads that the machine has, for nothing else wants them; on the CPU libtorch computes on all of them,
/// and a network takes far longer for an image than loading it does.
fn default_threads(device: Device) -> usize {
    let all = available_parallelism().map_or(1, usize::from);
    if device.is_cuda() { all.min(32) } else { all.div_ceil(4).min(8) }
}
