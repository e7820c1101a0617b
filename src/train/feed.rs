//! A recipe's data set as batches of tensors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use super::error::TrainError;
use crate::data::{Batch, Dataset, Epoch, IdxDataset, Loader, LoaderOptions, Split, SyntheticDataset};
use crate::recipe::{Data, Recipe};

/// The training and validation splits of a recipe's data.
pub struct Feed {
    train: Loader,
    /// Training images without augmentation, for calibration.
    plain: Loader,
    validation: Loader,
    /// Training images.
    pub train_images: usize,
    /// Validation images.
    pub validation_images: usize,
    /// Mean of pixels in 0 to 1 that is subtracted: one value, or one a channel.
    pub mean: Vec<f32>,
    /// Standard deviation of pixels in 0 to 1 that is divided by: one value, or one a channel.
    pub std: Vec<f32>,
    device: Device,
}

impl Feed {
    /// Opens both splits and checks them against the network's input and number of classes.
    ///
    /// # Errors
    /// See [`crate::data::DataError`].
    pub fn open(recipe: &Recipe, classes: usize, device: Device) -> Result<Self, TrainError> {
        let shape = recipe.model.input;
        let input = [shape.channels, shape.height, shape.width];
        let batches = LoaderOptions {
            batch_size: recipe.data.batch_size(),
            input,
            mean: vec![0.5],
            std: vec![0.25],
            crop_padding: 0,
            horizontal_flip: false,
            shuffle: true,
            drop_last: true,
            seed: recipe.seed,
        };
        let (train, validation, options, eval_batch_size): (Arc<dyn Dataset>, Arc<dyn Dataset>, _, _) =
            match &recipe.data {
                Data::Idx(data) => {
                    let train = IdxDataset::open(&data.path, Split::Train)?;
                    let validation = IdxDataset::open(&data.path, Split::Validation)?;
                    for set in [&train, &validation] {
                        set.check_labels(classes)?;
                    }
                    let options = LoaderOptions {
                        mean: vec![data.mean as f32],
                        std: vec![data.std as f32],
                        crop_padding: data.crop_padding,
                        horizontal_flip: data.horizontal_flip,
                        ..batches
                    };
                    (Arc::new(train), Arc::new(validation), options, data.eval_batch_size)
                }
                Data::Synthetic(data) => {
                    let set = |split| Arc::new(SyntheticDataset::new(data.images, input, classes, split, recipe.seed));
                    (set(Split::Train), set(Split::Validation), batches, data.eval_batch_size)
                }
            };
        let (train_images, validation_images) = (train.len(), validation.len());
        let plain = LoaderOptions { crop_padding: 0, horizontal_flip: false, drop_last: false, ..options.clone() };
        let eval = LoaderOptions { batch_size: eval_batch_size, shuffle: false, ..plain.clone() };
        let (mean, std) = (options.mean.clone(), options.std.clone());
        Ok(Self {
            mean,
            std,
            train: Loader::new(train.clone(), options)?,
            plain: Loader::new(train, plain)?,
            validation: Loader::new(validation, eval)?,
            train_images,
            validation_images,
            device,
        })
    }

    /// Full training batches in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.train.steps_per_epoch()
    }

    /// The augmented training batches of an epoch, without the first `skipped`.
    pub fn train_epoch(&self, epoch: u64, skipped: usize) -> Batches {
        Batches::new(self.train.epoch_from(epoch, skipped), self.device)
    }

    /// Training images as they are, in a random but fixed order.
    pub fn calibration(&self) -> Batches {
        Batches::new(self.plain.epoch(0), self.device)
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

    /// All images of a split, without augmentation.
    pub fn all(&self, split: Split) -> Batches {
        match split {
            Split::Train => self.calibration(),
            Split::Validation => Batches::new(self.validation.epoch(0), self.device),
        }
    }

    /// Number of images of a split.
    pub fn images(&self, split: Split) -> usize {
        match split {
            Split::Train => self.train_images,
            Split::Validation => self.validation_images,
        }
    }
}

/// Batches as tensors on the device: images `[batch, channels, height, width]`, labels `[batch]`.
pub struct Batches {
    epoch: Epoch,
    device: Device,
    waited: Duration,
}

impl Batches {
    fn new(epoch: Epoch, device: Device) -> Self {
        Self { epoch, device, waited: Duration::ZERO }
    }

    /// How long batches were waited for since this was asked last.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl Iterator for Batches {
    type Item = Result<(Tensor, Tensor), TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let asked = Instant::now();
        let batch = self.epoch.next();
        self.waited += asked.elapsed();
        batch.map(|batch| to_tensors(&batch, self.device))
    }
}

fn to_tensors(batch: &Batch, device: Device) -> Result<(Tensor, Tensor), TrainError> {
    let shape = batch.shape.map(|extent| extent as i64);
    let images = Tensor::f_from_slice(&batch.images)?.f_reshape(shape)?.f_to_device(device)?;
    Ok((images, Tensor::f_from_slice(&batch.labels)?.f_to_device(device)?))
}
