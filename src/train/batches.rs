//! Batches as tensors on the device that computes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tch::{Device, TchError, Tensor};

use super::error::TrainError;
use crate::data::{Batch, DataError, Epoch, Loader};
use crate::libtorch::Unshared;

/// A batch's images `[batch, channels, height, width]` and labels `[batch]`.
type Pair = (Tensor, Tensor);

/// Memory for the images of a loader's batches. It is used again once whoever was given a batch holds it no longer: the
/// system would clear new pages for each batch, which takes longer than to fill them.
#[derive(Clone)]
pub struct Memory {
    /// That of the largest batch.
    shape: [i64; 4],
    /// What batches were given, the latest last.
    given: Arc<Mutex<VecDeque<Tensor>>>,
    /// Of how many it is remembered.
    most: usize,
}

impl Memory {
    /// None yet, for batches of `loader`.
    pub fn of(loader: &Loader) -> Self {
        let shape = loader.shape().map(|extent| extent as i64);
        Self { shape, given: Arc::default(), most: loader.batches_at_once() }
    }

    /// What nobody holds any longer, or new memory.
    fn take(&self) -> Result<Unshared, DataError> {
        let free = self.given(|given| {
            for at in 0..given.len() {
                match Unshared::new(given.remove(at)?) {
                    Ok(memory) => return Some(memory),
                    Err(held) => given.insert(at, held),
                }
            }
            None
        });
        let new = || Unshared::zeros(&self.shape).map_err(|error| DataError::Memory { reason: error.to_string() });
        // Whoever had it may have made something else of it.
        free.filter(|memory| memory.size() == self.shape).map_or_else(new, Ok)
    }

    /// Remembers what a batch was given. What is held for long is forgotten in the end and goes when its holder does.
    fn remember(&self, tensor: Tensor) {
        self.given(|given| {
            given.push_back(tensor);
            if given.len() > self.most {
                given.pop_front();
            }
        });
    }

    fn given<T>(&self, look: impl FnOnce(&mut VecDeque<Tensor>) -> T) -> T {
        look(&mut self.given.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The batches of an epoch on the device.
pub struct Batches {
    epoch: Epoch<Result<Pair, TchError>>,
    device: Device,
    waited: Duration,
}

impl Batches {
    /// The batches of epoch `epoch` without the first `skipped`; they become tensors on the loader's threads, in `memory`.
    pub fn new(loader: &Loader, memory: &Memory, epoch: u64, skipped: usize, device: Device) -> Self {
        let (from, to) = (memory.clone(), memory.clone());
        let epoch = loader.epoch_with(epoch, skipped, move || from.take(), move |batch| in_memory(batch, &to, device));
        Self { epoch, device, waited: Duration::ZERO }
    }

    /// How long batches were waited for since this was asked last.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl Iterator for Batches {
    type Item = Result<Pair, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let asked = Instant::now();
        let batch = self.epoch.next();
        self.waited += asked.elapsed();
        batch.map(|batch| Ok(on_device(batch??, self.device)?))
    }
}

/// Whether batches for a device are put into pinned memory, which alone a GPU copies from while it computes.
fn pins(device: Device) -> bool {
    device.is_cuda()
}

/// A batch as tensors in the computer's memory. Pinned memory is always new, as nobody tells here when the GPU has read it;
/// what it was copied from is free at once.
fn in_memory(batch: Batch<Unshared>, memory: &Memory, device: Device) -> Result<Pair, TchError> {
    let labels = Tensor::f_from_slice(&batch.labels)?;
    let (all, count) = (batch.images.into_tensor(), batch.shape[0] as i64);
    let images = if count == memory.shape[0] { all.shallow_clone() } else { all.f_narrow(0, 0, count)? };
    memory.remember(all);
    if !pins(device) {
        return Ok((images, labels));
    }
    Ok((images.f_pin_memory(device)?, labels.f_pin_memory(device)?))
}

/// Begins the copy and doesn't wait for it, where the memory is pinned.
fn on_device((images, labels): Pair, device: Device) -> Result<Pair, TchError> {
    if images.device() == device {
        return Ok((images, labels));
    }
    let copy = |tensor: Tensor| tensor.f_to_device_(device, tensor.kind(), pins(device), false);
    Ok((copy(images)?, copy(labels)?))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::data::{LoaderOptions, Samples, Stored};

    /// Images of 3x1x2 that are filled with their index, their label; `lost` can't be read.
    struct Numbered {
        count: usize,
        lost: &'static [usize],
    }

    impl Samples for Numbered {
        fn len(&self) -> usize {
            self.count
        }
        fn label(&self, index: usize) -> i64 {
            index as i64
        }
        fn render(
            &self,
            index: usize,
            _stored: Option<Result<Stored, String>>,
            _rng: &mut ChaCha8Rng,
            out: &mut [f32],
        ) -> Result<bool, DataError> {
            out.fill(index as f32);
            Ok(!self.lost.contains(&index))
        }
    }

    fn loader(count: usize, lost: &'static [usize], threads: usize) -> Loader {
        let input = [3, 1, 2];
        let options = LoaderOptions { batch_size: 4, input, shuffle: false, drop_last: false, seed: 0, threads };
        Loader::new(Arc::new(Numbered { count, lost }), options).unwrap()
    }

    /// That every image is what its label says.
    #[track_caller]
    fn assert_batch((images, labels): &Pair, wanted: &[i64]) {
        assert_eq!(Vec::<i64>::try_from(labels).unwrap(), wanted);
        assert_eq!(images.size(), [wanted.len() as i64, 3, 1, 2]);
        let values: Vec<f32> = wanted.iter().flat_map(|&label| [label as f32; 6]).collect();
        assert_eq!(Vec::<f32>::try_from(images.flatten(0, -1)).unwrap(), values);
    }

    #[test]
    fn only_a_gpu_gets_pinned_memory() {
        assert!(!pins(Device::Cpu) && pins(Device::Cuda(0)) && pins(Device::Cuda(3)));
        let (images, labels) = (Tensor::from_slice(&[1.0_f32]), Tensor::from_slice(&[5_i64]));
        // What is there already is not copied again.
        let there = images.data_ptr();
        let (images, _) = on_device((images, labels), Device::Cpu).unwrap();
        assert_eq!(images.data_ptr(), there);
    }

    #[test]
    fn memory_comes_back_when_nobody_holds_it() {
        let memory = Memory::of(&loader(40, &[], 1));
        let taken = memory.take().unwrap().into_tensor();
        let (there, held) = (taken.data_ptr(), taken.narrow(0, 1, 2));
        memory.remember(taken);
        let other = memory.take().unwrap().into_tensor();
        assert_ne!(other.data_ptr(), there);
        drop(held);
        assert_eq!(memory.take().unwrap().into_tensor().data_ptr(), there);
        // Something else was made of it, to the end.
        let mut changed = other.shallow_clone();
        memory.remember(other);
        let _ = changed.resize_([2, 3, 1, 2]);
        drop(changed);
        assert_eq!(memory.take().unwrap().size(), [4, 3, 1, 2]);
        assert!(memory.given(|given| given.is_empty()));
    }

    #[test]
    fn no_more_is_remembered_than_is_in_use_at_once() {
        let memory = Memory::of(&loader(40, &[], 1));
        let held: Vec<Tensor> = (0..100).map(|_| memory.take().unwrap().into_tensor()).collect();
        held.iter().for_each(|tensor| memory.remember(tensor.shallow_clone()));
        assert_eq!(memory.given(|given| given.len()), memory.most);
        let places: HashSet<_> = held.iter().map(Tensor::data_ptr).collect();
        assert_eq!(places.len(), held.len());
    }

    #[test]
    fn epochs_go_on_in_the_same_memory_and_leave_what_is_held() {
        for threads in [1, 3] {
            let loader = loader(400, &[], threads);
            let memory = Memory::of(&loader);
            let epoch = |number| Batches::new(&loader, &memory, number, 0, Device::Cpu);
            let mut held = Vec::new();
            let mut places = HashSet::new();
            for (number, batch) in (0..).zip(epoch(0)) {
                let (first, batch) = (4 * number, batch.unwrap());
                assert_batch(&batch, &[first, first + 1, first + 2, first + 3]);
                places.insert(batch.0.data_ptr());
                if number % 40 == 1 {
                    held.push((first, batch));
                }
            }
            // An epoch that is left in its middle gives back what lay ready.
            places.extend(epoch(1).take(5).map(|batch| batch.unwrap().0.data_ptr()));
            places.extend(epoch(2).map(|batch| batch.unwrap().0.data_ptr()));
            assert!(places.len() <= 2 * memory.most, "{} of {}", places.len(), memory.most);
            assert_eq!(held.len(), 3);
            for (first, batch) in held {
                assert_batch(&batch, &[first, first + 1, first + 2, first + 3]);
            }
        }
    }

    #[test]
    fn partial_batches_are_the_beginning_of_their_memory() {
        for threads in [1, 2] {
            let loader = loader(10, &[1, 4, 5, 6], threads);
            let memory = Memory::of(&loader);
            for _ in 0..5 {
                let batches: Vec<Pair> =
                    Batches::new(&loader, &memory, 0, 0, Device::Cpu).map(Result::unwrap).collect();
                assert_batch(&batches[0], &[0, 2, 3]);
                assert_batch(&batches[1], &[7]);
                assert_batch(&batches[2], &[8, 9]);
                assert_eq!(batches.len(), 3);
            }
            assert!(memory.given(|given| given.len()) <= memory.most);
        }
    }
}
