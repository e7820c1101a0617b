//! A recipe's data set as batches of tensors.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use super::error::TrainError;
use crate::data::{
    Augmentation, Batch, Canvas, CanvasOptions, DataError, Dataset, Epoch, FolderSet, IdxDataset, Interpolation,
    Loader, LoaderOptions, Pictures, Preprocessing, Samples, ShardSet, Split, Store, SyntheticDataset, Transform,
    Unreadable, cache_folder,
};
use crate::recipe::{self, Data, Photographs, Recipe};

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
    /// Images that can't be read, of either split.
    unreadable: Vec<Arc<Unreadable>>,
}

/// The images of both splits, ready to be loaded.
struct Sets {
    train: Arc<dyn Samples>,
    plain: Arc<dyn Samples>,
    validation: Arc<dyn Samples>,
    mean: Vec<f32>,
    std: Vec<f32>,
    eval_batch_size: usize,
    threads: usize,
    unreadable: Vec<Arc<Unreadable>>,
}

impl Feed {
    /// The number of training images of a recipe.
    ///
    /// # Errors
    /// If they can't be opened.
    pub fn training_images(recipe: &Recipe) -> Result<usize, DataError> {
        let cache = cache_folder();
        Ok(match &recipe.data {
            Data::Idx(data) => IdxDataset::open(&data.path, Split::Train)?.len(),
            Data::Folder(data) => FolderSet::open(&data.path, Split::Train, cache.as_deref())?.len(),
            Data::Shards(data) => ShardSet::open(&data.train, data.shuffle_buffer, cache.as_deref())?.len(),
            Data::Synthetic(data) => data.images,
        })
    }

    /// Opens both splits and checks them against the network's input and number of classes (`usize::MAX` if that is not
    /// known).
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open(recipe: &Recipe, classes: usize, device: Device) -> Result<Self, TrainError> {
        let shape = recipe.model.input;
        let input = [shape.channels, shape.height, shape.width];
        let sets = match &recipe.data {
            Data::Idx(data) => {
                let train = IdxDataset::open(&data.path, Split::Train)?;
                let validation = IdxDataset::open(&data.path, Split::Validation)?;
                for set in [&train, &validation] {
                    set.check_labels(classes)?;
                }
                let options = CanvasOptions {
                    input,
                    mean: vec![data.mean as f32],
                    std: vec![data.std as f32],
                    crop_padding: data.crop_padding,
                    horizontal_flip: data.horizontal_flip,
                };
                on_canvas(Arc::new(train), Arc::new(validation), options, data.eval_batch_size)?
            }
            Data::Synthetic(data) => {
                let set = |split| Arc::new(SyntheticDataset::new(data.images, input, classes, split, recipe.seed));
                let options =
                    CanvasOptions { input, mean: vec![0.5], std: vec![0.25], crop_padding: 0, horizontal_flip: false };
                on_canvas(set(Split::Train), set(Split::Validation), options, data.eval_batch_size)?
            }
            Data::Folder(data) => {
                let cache = cache_folder();
                let open = |split| FolderSet::open(&data.path, split, cache.as_deref());
                let (train, validation) = (open(Split::Train)?, open(Split::Validation)?);
                train.check_same_classes(&validation)?;
                if classes != usize::MAX {
                    train.check_outputs(classes)?;
                }
                let unreadable = [&train, &validation].map(|set| (data.max_unreadable, set.empty_files().collect()));
                photographs(&recipe.data, input, device, Arc::new(train), Arc::new(validation), unreadable)?
            }
            Data::Shards(data) => {
                let cache = cache_folder();
                let train = ShardSet::open(&data.train, data.shuffle_buffer, cache.as_deref())?;
                let validation = ShardSet::open(&data.val, data.shuffle_buffer, cache.as_deref())?;
                for set in [&train, &validation] {
                    set.check_outputs(classes)?;
                }
                let unreadable = [(data.max_unreadable, Vec::new()), (data.max_unreadable, Vec::new())];
                photographs(&recipe.data, input, device, Arc::new(train), Arc::new(validation), unreadable)?
            }
        };
        let options = LoaderOptions {
            batch_size: recipe.data.batch_size(),
            input,
            shuffle: true,
            drop_last: true,
            seed: recipe.seed,
            threads: sets.threads,
        };
        let plain = LoaderOptions { drop_last: false, ..options.clone() };
        let eval = LoaderOptions { batch_size: sets.eval_batch_size, shuffle: false, ..plain.clone() };
        Ok(Self {
            train_images: sets.train.len(),
            validation_images: sets.validation.len(),
            train: Loader::new(sets.train, options)?,
            plain: Loader::new(sets.plain, plain)?,
            validation: Loader::new(sets.validation, eval)?,
            mean: sets.mean,
            std: sets.std,
            device,
            unreadable: sets.unreadable,
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

    /// Where images lie that could not be read, and why: those found since this was last asked.
    pub fn take_unreadable(&self) -> Vec<String> {
        self.unreadable.iter().flat_map(|split| split.take_fresh()).collect()
    }

    /// Threads that load images.
    pub fn threads(&self) -> usize {
        self.train.threads()
    }
}

fn on_canvas(
    train: Arc<dyn Dataset>,
    validation: Arc<dyn Dataset>,
    options: CanvasOptions,
    eval_batch_size: usize,
) -> Result<Sets, DataError> {
    let plain = CanvasOptions { crop_padding: 0, horizontal_flip: false, ..options.clone() };
    Ok(Sets {
        mean: options.mean.clone(),
        std: options.std.clone(),
        train: Arc::new(Canvas::new(Arc::clone(&train), options)?),
        plain: Arc::new(Canvas::new(train, plain.clone())?),
        validation: Arc::new(Canvas::new(validation, plain)?),
        eval_batch_size,
        threads: 1,
        unreadable: Vec::new(),
    })
}

/// `unreadable`: of either split how many images may be left out, and those that are known to be.
fn photographs(
    data: &Data,
    input: [usize; 3],
    device: Device,
    train: Arc<dyn Store>,
    validation: Arc<dyn Store>,
    unreadable: [(usize, Vec<usize>); 2],
) -> Result<Sets, DataError> {
    let [channels, height, width] = input;
    if channels != 3 {
        return Err(DataError::Channels { channels });
    }
    let Some(keys) = data.photographs() else { return Err(DataError::Empty) };
    let Photographs { scale, ratio, horizontal_flip, .. } = keys;
    let preprocessing = Preprocessing {
        input: [height, width],
        resize: keys.resize,
        interpolation: match keys.interpolation {
            recipe::Interpolation::Bilinear => Interpolation::Bilinear,
            recipe::Interpolation::Bicubic => Interpolation::Bicubic,
        },
        mean: keys.mean.map(|value| value as f32),
        std: keys.std.map(|value| value as f32),
    };
    let (mean, std) = (preprocessing.mean.to_vec(), preprocessing.std.to_vec());
    let transform = Transform::new(preprocessing, Some(Augmentation { scale, ratio, horizontal_flip }))?;
    let mut tallies = Vec::new();
    for ((limit, empty), store) in unreadable.into_iter().zip([&train, &validation]) {
        let tally = Arc::new(Unreadable::new(limit));
        for index in empty {
            tally.add(index, format!("{}: the file is empty", store.place(index)))?;
        }
        tallies.push(tally);
    }
    let plain = Pictures::new(train, transform.plain(), Arc::clone(&tallies[0]));
    Ok(Sets {
        mean,
        std,
        train: Arc::new(plain.with(transform.clone())),
        plain: Arc::new(plain),
        validation: Arc::new(Pictures::new(validation, transform.plain(), Arc::clone(&tallies[1]))),
        eval_batch_size: keys.eval_batch_size,
        threads: keys.threads.unwrap_or_else(|| default_threads(device)),
        unreadable: tallies,
    })
}

/// On a GPU all threads that the machine has, for nothing else wants them; on the CPU libtorch computes on all of them,
/// and a network takes far longer for an image than loading it does.
fn default_threads(device: Device) -> usize {
    let all = available_parallelism().map_or(1, usize::from);
    if device.is_cuda() { all.min(32) } else { all.div_ceil(4).min(8) }
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
        batch.map(|batch| to_tensors(&batch?, self.device))
    }
}

/// A GPU copies from pinned memory while it computes.
fn to_tensors(batch: &Batch, device: Device) -> Result<(Tensor, Tensor), TrainError> {
    let shape = batch.shape.map(|extent| extent as i64);
    let images = Tensor::f_from_slice(&batch.images)?.f_reshape(shape)?;
    let labels = Tensor::f_from_slice(&batch.labels)?;
    if !device.is_cuda() {
        return Ok((images, labels));
    }
    let copy = |t: &Tensor| t.f_pin_memory(device)?.f_to_device_(device, t.kind(), true, false);
    Ok((copy(&images)?, copy(&labels)?))
}
