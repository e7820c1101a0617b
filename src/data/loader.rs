//! The loader: batches in a reproducible order, prepared ahead of their use.
//!
//! Order and augmentation are pure functions of (seed, epoch, image): a run that is resumed, even in the middle of an
//! epoch, sees what it would have seen, and neither the batch size nor the number of threads changes an image's
//! augmentation.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

use super::{Batch, DataError, Samples, Stored, Stream};

/// Batches that may lie ready before they are asked for, at most.
const PREFETCH: usize = 4;
/// What those batches may take together, in bytes; one lies ready in any case.
const PREFETCH_BYTES: usize = 512 << 20;

/// How images become batches.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Images of a batch.
    pub batch_size: usize,
    /// The network's input, `[channels, height, width]`.
    pub input: [usize; 3],
    /// Whether every epoch has its own random order, rather than the data set's.
    pub shuffle: bool,
    /// Whether a last, partial batch is left out.
    pub drop_last: bool,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Threads that prepare a batch together.
    pub threads: usize,
}

/// Turns labelled images into epochs of batches.
pub struct Loader {
    samples: Arc<dyn Samples>,
    options: LoaderOptions,
    /// That of the largest batch, `[batch, channels, height, width]`.
    shape: [usize; 4],
}

impl Loader {
    /// Checks that the options make sense for the images; reads none of them yet.
    ///
    /// # Errors
    ///
    /// No images at all, or no whole batch where partial ones are dropped, and options that can't be meant: see
    /// [`DataError`].
    pub fn new(samples: Arc<dyn Samples>, options: LoaderOptions) -> Result<Self, DataError> {
        let LoaderOptions { batch_size, input, drop_last, .. } = options;
        let images = samples.len();
        if images == 0 {
            return Err(DataError::Empty);
        }
        if batch_size == 0 {
            return Err(DataError::BatchSize);
        }
        if drop_last && images < batch_size {
            return Err(DataError::NoFullBatch { images, batch_size });
        }
        // Here it is an error with a name; in the middle of an epoch it would be the end of the program.
        let largest = batch_size.min(images);
        input
            .iter()
            .try_fold(largest, |values, &length| values.checked_mul(length))
            .and_then(|values| Vec::<f32>::new().try_reserve_exact(values).ok())
            .ok_or(DataError::BatchTooLarge { batch_size: largest, input })?;
        let [channels, height, width] = input;
        Ok(Self { samples, options, shape: [largest, channels, height, width] })
    }

    /// Batches of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        let (images, batch_size) = (self.samples.len(), self.options.batch_size);
        if self.options.drop_last { images / batch_size } else { images.div_ceil(batch_size) }
    }

    /// Threads that prepare a batch together.
    pub fn threads(&self) -> usize {
        self.options.threads
    }

    /// Shape of the largest batch, `[batch, channels, height, width]`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Batches that may lie ready before they are asked for.
    fn ahead(&self) -> usize {
        let batch_bytes = self.shape.iter().product::<usize>().saturating_mul(size_of::<f32>());
        (PREFETCH_BYTES / batch_bytes.max(1)).clamp(1, PREFETCH)
    }

    /// Batches whose memory is in use at once, at most, where each is let go of before the next one is asked for: those that
    /// lie ready, one that waits for room among them, one that is being filled, and one that is being looked at.
    pub fn batches_at_once(&self) -> usize {
        self.ahead() + 3
    }

    /// What `finish` makes of the batches of epoch `epoch`, without its first `skipped`, of which no image is read. All is
    /// prepared in the background, at most a few ahead; dropping the iterator ends that. The images are rendered into what
    /// `memory` gives for each batch: room for the values of the largest ([`Self::shape`]).
    pub fn epoch_with<Values: AsMut<[f32]> + Send + 'static, T: Send + 'static>(
        &self,
        epoch: u64,
        skipped: usize,
        memory: impl Fn() -> Result<Values, DataError> + Send + Sync + 'static,
        finish: impl Fn(Batch<Values>) -> T + Send + Sync + 'static,
    ) -> Epoch<T> {
        let steps = self.steps_per_epoch();
        let (sender, receiver) = sync_channel(self.ahead());
        let pass = Pass { samples: Arc::clone(&self.samples), options: self.options.clone(), epoch };
        let worker = thread::spawn(move || {
            let hand_over = |batch| sender.send(Ok(finish(batch))).is_ok();
            if let Err(error) = pass.carry_out(skipped, steps, memory, hand_over) {
                // Whoever went away needs no reason.
                let _ = sender.send(Err(error));
            }
        });
        Epoch { receiver: Some(receiver), worker: Some(worker), left: steps.saturating_sub(skipped) }
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

/// What a stream gave for an image, where there is one.
type Ahead = Option<Result<Stored, String>>;

/// An epoch in preparation.
struct Pass {
    samples: Arc<dyn Samples>,
    options: LoaderOptions,
    epoch: u64,
}

impl Pass {
    /// Prepares the batches of the epoch and hands each over, until nobody wants more (`false`).
    fn carry_out<Values: AsMut<[f32]> + Send>(
        &self,
        skipped: usize,
        steps: usize,
        memory: impl Fn() -> Result<Values, DataError> + Sync,
        hand_over: impl Fn(Batch<Values>) -> bool + Sync,
    ) -> Result<(), DataError> {
        let LoaderOptions { batch_size, shuffle, seed, threads, .. } = self.options;
        let mut rng = generator(Purpose::Order, seed, self.epoch, 0);
        let order = self.samples.order(shuffle.then_some(&mut rng));
        let pool = match threads {
            0 | 1 => None,
            _ => Some(
                ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .map_err(|e| DataError::Threads { threads, reason: e.to_string() })?,
            ),
        };
        let mut stream = self.samples.stream(&order, skipped.saturating_mul(batch_size).min(order.len()));
        let mut batches = order.chunks(batch_size).take(steps).skip(skipped);
        let mut ready = None;
        loop {
            let indices = batches.next();
            // A batch of nothing but images that can't be read is none.
            let ready_now = ready.take().filter(|batch: &Batch<Values>| !batch.labels.is_empty());
            let give = || ready_now.is_none_or(&hand_over);
            let mut take = || indices.map(|indices| self.prepare(indices, stream.as_mut(), pool.is_some(), memory()?));
            // With several threads, one hands over while the others go on.
            let (wanted, prepared) = match &pool {
                Some(pool) => pool.join(give, take),
                None => (give(), take()),
            };
            match prepared {
                Some(prepared) if wanted => ready = Some(prepared?),
                _ => return Ok(()),
            }
        }
    }

    /// The images `indices` in `memory`; `parallel` on the threads of the pool that this is called in.
    fn prepare<Values: AsMut<[f32]>>(
        &self,
        indices: &[usize],
        stream: Option<&mut Stream>,
        parallel: bool,
        mut memory: Values,
    ) -> Result<Batch<Values>, DataError> {
        let [channels, height, width] = self.options.input;
        let size = channels * height * width;
        let images = &mut memory.as_mut()[..indices.len() * size];
        let stored: Vec<Ahead> = match stream {
            Some(stream) => stream.map(Some).take(indices.len()).collect(),
            None => indices.iter().map(|_| None).collect(),
        };
        let render = |((&index, stored), out): ((&usize, Ahead), &mut [f32])| {
            let mut rng = generator(Purpose::Augmentation, self.options.seed, self.epoch, index);
            self.samples.render(index, stored, &mut rng, out)
        };
        let there: Vec<bool> = if parallel {
            let jobs = indices.par_iter().zip(stored).zip(images.par_chunks_exact_mut(size));
            jobs.with_max_len(1).map(render).collect::<Result<_, _>>()?
        } else {
            indices.iter().zip(stored).zip(images.chunks_exact_mut(size)).map(render).collect::<Result<_, _>>()?
        };
        let mut labels = Vec::with_capacity(indices.len());
        for (position, (&index, _)) in indices.iter().zip(&there).enumerate().filter(|(_, (_, there))| **there) {
            if labels.len() < position {
                images.copy_within(position * size..(position + 1) * size, labels.len() * size);
            }
            labels.push(self.samples.label(index));
        }
        Ok(Batch { images: memory, shape: [labels.len(), channels, height, width], labels })
    }
}

/// What became of the batches of one epoch, in order. After an error there are none.
pub struct Epoch<T> {
    receiver: Option<Receiver<Result<T, DataError>>>,
    worker: Option<JoinHandle<()>>,
    left: usize,
}

impl<T> Iterator for Epoch<T> {
    type Item = Result<T, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.receiver.as_ref()?.recv() {
            Ok(batch) => {
                self.left = self.left.saturating_sub(1);
                if batch.is_err() {
                    self.receiver = None;
                }
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

    /// Batches of images that can't be read at all are counted, too, until they are left out.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl<T> Drop for Epoch<T> {
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
