//! Batches as tensors on the device that computes.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tch::{Device, Kind, TchError, Tensor};

use super::error::TrainError;
use crate::data::{Batch, Epoch, Loader};

/// A batch's images `[batch, channels, height, width]` and labels `[batch]`.
type Pair = (Tensor, Tensor);

/// The batches of an epoch on the device.
pub struct Batches {
    epoch: Epoch<Result<Pair, TchError>>,
    device: Device,
    waited: Duration,
    /// Memory for batches to come. The thread that trains frees what it has trained on, and gets no other memory than that;
    /// for the loader's threads the system would clear new pages for each batch, which takes longer than to fill them.
    blank: Sender<Tensor>,
}

impl Batches {
    /// The batches of epoch `epoch` without the first `skipped`; they become tensors on the loader's threads.
    pub fn new(loader: &Loader, epoch: u64, skipped: usize, device: Device) -> Self {
        let (blank, blanks) = channel();
        let blanks = Mutex::new(blanks);
        let take = move || blanks.lock().ok()?.try_recv().ok();
        let epoch = loader.epoch_with(epoch, skipped, move |batch| in_memory(batch, take(), device));
        Self { epoch, device, waited: Duration::ZERO, blank }
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
        let make_ready = |(images, labels): Pair| {
            if images.device() == self.device {
                // After the epoch's end nobody takes it.
                let _ = self.blank.send(images.f_empty_like()?);
            }
            on_device((images, labels), self.device)
        };
        batch.map(|batch| Ok(make_ready(batch??)?))
    }
}

/// Whether batches for a device are put into pinned memory, which alone a GPU copies from while it computes.
fn pins(device: Device) -> bool {
    device.is_cuda()
}

/// Values that libtorch copies on the thread that asks for it. For more it would begin a team of threads, one for each of
/// the loader's, beside the team that computes; those wait by spinning.
const PART: usize = 1 << 14;

/// A batch as tensors in the computer's memory: in `blank`, if it has the batch's size.
fn in_memory(batch: &Batch, blank: Option<Tensor>, device: Device) -> Result<Pair, TchError> {
    let shape = batch.shape.map(|extent| extent as i64);
    let images = match blank.filter(|blank| blank.size() == shape) {
        Some(blank) => blank,
        None => Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?,
    };
    let parts = images.f_flatten(0, -1)?.f_split(PART as i64, 0)?;
    for (mut part, values) in parts.into_iter().zip(batch.images.chunks(PART)) {
        part.f_copy_(&Tensor::f_from_slice(values)?)?;
    }
    let labels = Tensor::f_from_slice(&batch.labels)?;
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
    use super::*;

    #[test]
    fn only_a_gpu_gets_pinned_memory() {
        assert!(!pins(Device::Cpu) && pins(Device::Cuda(0)) && pins(Device::Cuda(3)));
        let batch = Batch { images: (0..24).map(|n| n as f32).collect(), shape: [2, 3, 2, 2], labels: vec![5, 7] };
        let (images, labels) = in_memory(&batch, None, Device::Cpu).unwrap();
        assert_eq!((images.size(), labels.size()), (vec![2, 3, 2, 2], vec![2]));
        assert_eq!(Vec::<f32>::try_from(images.flatten(0, -1)).unwrap(), batch.images);
        assert_eq!(Vec::<i64>::try_from(&labels).unwrap(), batch.labels);
        // What is there already is not copied again.
        let there = images.data_ptr();
        let (images, _) = on_device((images, labels), Device::Cpu).unwrap();
        assert_eq!(images.data_ptr(), there);
    }

    #[test]
    fn batches_fill_memory_of_their_size() {
        let count = 3 * (PART + 5);
        let batch =
            Batch { images: (0..count).map(|n| n as f32).collect(), shape: [3, 1, 1, PART + 5], labels: vec![0; 3] };
        let blank = |count: i64| Tensor::zeros([count, 1, 1, PART as i64 + 5], (Kind::Float, Device::Cpu));
        for (blank, taken) in [(blank(3), true), (blank(2), false)] {
            let there = blank.data_ptr();
            let (images, _) = in_memory(&batch, Some(blank), Device::Cpu).unwrap();
            assert_eq!(images.data_ptr() == there, taken);
            assert_eq!(images.size(), [3, 1, 1, PART as i64 + 5]);
            assert_eq!(Vec::<f32>::try_from(images.flatten(0, -1)).unwrap(), batch.images);
        }
    }
}
