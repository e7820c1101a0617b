//! The loader: batches in a reproducible order, prepared ahead of their use.
//!
//! Order and augmentation are pure functions of (seed, epoch, image): a run that is resumed at an epoch
//! sees what it would have seen, and the batch size does not change an image's augmentation.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::augment::{Placement, Renderer};
use super::{Batch, DataError, Dataset};

/// Batches that may lie ready before they are asked for.
const PREFETCH: usize = 4;

/// How images become batches.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Images of a batch.
    pub batch_size: usize,
    /// The network's input, `[channels, height, width]`: smaller images are centred in it on black,
    /// images of one channel are repeated over all.
    pub input: [usize; 3],
    /// Mean of pixels in 0 to 1: one value, or one a channel of the input.
    pub mean: Vec<f32>,
    /// Standard deviation of pixels in 0 to 1: one value, or one a channel of the input.
    pub std: Vec<f32>,
    /// Largest random shift in each direction, in pixels; what is uncovered is black. 0 for none.
    pub crop_padding: usize,
    /// Whether images are mirrored left to right with probability ½.
    pub horizontal_flip: bool,
    /// Whether every epoch has its own random order, rather than the data set's.
    pub shuffle: bool,
    /// Whether a last, partial batch is left out.
    pub drop_last: bool,
    /// Seed of order and augmentation.
    pub seed: u64,
}

/// Turns a data set into epochs of batches.
pub struct Loader {
    dataset: Arc<dyn Dataset>,
    renderer: Arc<Renderer>,
    options: LoaderOptions,
}

impl Loader {
    /// Checks that the options make sense for the data set; reads nothing of it yet.
    ///
    /// # Errors
    ///
    /// A data set without images or without one whole batch where partial ones are dropped, images that
    /// do not fit the input, and options that can't be meant: see [`DataError`].
    pub fn new(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self, DataError> {
        let LoaderOptions { batch_size, input, crop_padding: padding, drop_last, .. } = options;
        let images = dataset.len();
        let image = dataset.image_shape();
        if images == 0 {
            return Err(DataError::Empty);
        }
        if batch_size == 0 {
            return Err(DataError::BatchSize);
        }
        if drop_last && images < batch_size {
            return Err(DataError::NoFullBatch { images, batch_size });
        }
        let renderer = Renderer::new(image, input, &options.mean, &options.std)?;
        let side = image[1].min(image[2]);
        if padding > 0 && padding >= side {
            return Err(DataError::CropPadding { padding, side });
        }
        // Here it is an error with a name; in the middle of an epoch it would be the end of the program.
        let largest = batch_size.min(images);
        input
            .iter()
            .try_fold(largest, |values, &length| values.checked_mul(length))
            .and_then(|values| Vec::<f32>::new().try_reserve_exact(values).ok())
            .ok_or(DataError::BatchTooLarge { batch_size: largest, input })?;
        Ok(Self { dataset, renderer: Arc::new(renderer), options })
    }

    /// Batches of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        let (images, batch_size) = (self.dataset.len(), self.options.batch_size);
        if self.options.drop_last { images / batch_size } else { images.div_ceil(batch_size) }
    }

    /// The batches of epoch `epoch`, prepared by a thread of their own, at most a few ahead. Dropping
    /// the iterator ends the thread.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        self.epoch_from(epoch, 0)
    }

    /// Like [`Self::epoch`], without its first `skipped` batches, which are not prepared.
    pub fn epoch_from(&self, epoch: u64, skipped: usize) -> Epoch {
        let order = self.order(epoch);
        let steps = self.steps_per_epoch();
        let (dataset, renderer) = (Arc::clone(&self.dataset), Arc::clone(&self.renderer));
        let options = self.options.clone();
        let (sender, receiver) = sync_channel(PREFETCH);
        let worker = thread::spawn(move || {
            for indices in order.chunks(options.batch_size).take(steps).skip(skipped) {
                let batch = prepare(&*dataset, &renderer, &options, epoch, indices);
                if sender.send(batch).is_err() {
                    break; // nobody asks for more
                }
            }
        });
        Epoch { receiver: Some(receiver), worker: Some(worker), left: steps.saturating_sub(skipped) }
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.dataset.len()).collect();
        if self.options.shuffle {
            order.shuffle(&mut generator(Purpose::Order, self.options.seed, epoch, 0));
        }
        order
    }
}

/// What random numbers are for: each purpose has its own stream.
#[derive(Clone, Copy)]
enum Purpose {
    Order = 0,
    Augmentation = 1,
}

/// A generator that no other (purpose, seed, epoch, image) shares: they are its key, unhashed.
fn generator(purpose: Purpose, seed: u64, epoch: u64, image: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, epoch, image as u64, purpose as u64]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

fn prepare(
    dataset: &dyn Dataset,
    renderer: &Renderer,
    options: &LoaderOptions,
    epoch: u64,
    indices: &[usize],
) -> Batch {
    let [channels, height, width] = options.input;
    let size = channels * height * width;
    let mut images = vec![0.0; indices.len() * size];
    for (&index, out) in indices.iter().zip(images.chunks_exact_mut(size)) {
        let mut rng = generator(Purpose::Augmentation, options.seed, epoch, index);
        let placement = Placement::random(options.crop_padding, options.horizontal_flip, &mut rng);
        renderer.render(&dataset.image(index), placement, out);
    }
    let labels = indices.iter().map(|&index| dataset.label(index)).collect();
    Batch { images, shape: [indices.len(), channels, height, width], labels }
}

/// The batches of one epoch, in order.
pub struct Epoch {
    receiver: Option<Receiver<Batch>>,
    worker: Option<JoinHandle<()>>,
    left: usize,
}

impl Iterator for Epoch {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        match self.receiver.as_ref()?.recv() {
            Ok(batch) => {
                self.left -= 1;
                Some(batch)
            }
            Err(_) => {
                self.receiver = None;
                // A data set's panic must not pass for the end of the epoch.
                if let Some(Err(panic)) = self.worker.take().map(JoinHandle::join) {
                    std::panic::resume_unwind(panic);
                }
                None
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Epoch {}

impl Drop for Epoch {
    fn drop(&mut self) {
        // The thread notices a closed channel at its next batch; with the receiver alive it might wait
        // for ever. Whether it panicked no longer matters to anyone.
        self.receiver = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests;
