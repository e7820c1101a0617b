//! Sums since the last report, kept on the device so that a step waits for nothing.

use std::time::Instant;

use tch::{Device, Kind, Tensor, no_grad};

use super::error::TrainError;
use super::loss::Loss;
use super::resume::{FitState, Tensors, fitting, on_cpu};

/// Sums over the steps since the last report.
pub struct Window {
    /// Of the loss's terms: the task, the distillation, the code length; `[3]`, float64.
    losses: Tensor,
    /// Images that were classified rightly: `[1]`, float64.
    correct: Tensor,
    images: u64,
    steps: u64,
    since: Instant,
}

/// Means over a window.
pub struct Means {
    /// Of the loss's terms: the task, the distillation, the code length.
    pub losses: [f64; 3],
    /// Top-1 in percent.
    pub top1: f64,
    /// Images per second.
    pub images_per_second: f64,
}

const LOSSES: &str = "window.losses";
const CORRECT: &str = "window.correct";

impl Window {
    /// Nothing yet.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn new(device: Device) -> Result<Self, TrainError> {
        let zeros = |n: i64| Tensor::f_zeros([n], (Kind::Double, device));
        Ok(Self { losses: zeros(3)?, correct: zeros(1)?, images: 0, steps: 0, since: Instant::now() })
    }

    /// Adds a step: its loss, its logits `[batch, classes]`, the labels `y`.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn add(&mut self, loss: &Loss, logits: &Tensor, y: &Tensor) -> Result<(), TrainError> {
        no_grad(|| {
            let correct = logits.f_argmax(1, false)?.f_eq_tensor(y)?.f_sum(Kind::Double)?;
            let _ = self.correct.f_add_(&correct)?;
            let zero = loss.task.f_zeros_like()?;
            let or_zero = |term: &Option<Tensor>| term.as_ref().unwrap_or(&zero).shallow_clone();
            let terms = [loss.task.shallow_clone(), or_zero(&loss.distillation), or_zero(&loss.rate)];
            let _ = self.losses.f_add_(&Tensor::f_stack(&terms, 0)?.f_to_kind(Kind::Double)?)?;
            self.images += y.size()[0] as u64;
            self.steps += 1;
            Ok(())
        })
    }

    /// The means, fetched from the device.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn means(&self) -> Result<Means, TrainError> {
        let losses = Vec::<f64>::try_from(self.losses.f_to_device(Device::Cpu)?)?;
        let count = self.steps as f64;
        Ok(Means {
            losses: [losses[0] / count, losses[1] / count, losses[2] / count],
            top1: 100.0 * self.correct.f_double_value(&[0])? / self.images as f64,
            images_per_second: self.images as f64 / self.since.elapsed().as_secs_f64(),
        })
    }

    /// Images and steps, and the sums among `tensors`.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn save(&self, tensors: &mut Vec<(String, Tensor)>) -> Result<(u64, u64), TrainError> {
        tensors.push((LOSSES.to_owned(), on_cpu(&self.losses)?));
        tensors.push((CORRECT.to_owned(), on_cpu(&self.correct)?));
        Ok((self.images, self.steps))
    }

    /// Goes on with the sums of a checkpoint.
    ///
    /// # Errors
    /// If they are not there.
    pub fn restore(&mut self, fit: &FitState, tensors: &Tensors) -> Result<(), TrainError> {
        for (name, sums) in [(LOSSES, &mut self.losses), (CORRECT, &mut self.correct)] {
            let saved = fitting(tensors, name, sums)?;
            no_grad(|| sums.f_copy_(saved))?;
        }
        (self.images, self.steps) = fit.window;
        Ok(())
    }
}
