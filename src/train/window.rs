//! Sums since the last report, kept on the device so that a step waits for nothing.

use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor, no_grad};

use super::error::TrainError;
use super::loss::Loss;
use super::resume::{FitState, Tensors, WindowState, fitting, on_cpu};

/// Sums over the steps since the last report.
pub struct Window {
    /// Of the loss's terms: the task, the distillation, the code length; `[3]`, float64.
    losses: Tensor,
    /// Images that were classified rightly: `[1]`, float64.
    correct: Tensor,
    images: u64,
    steps: u64,
    /// Seconds in which training waited for data.
    waited: f64,
    since: Instant,
    /// Seconds before a checkpoint that the run went on from.
    before: f64,
}

/// Means over a window.
pub struct Means {
    /// Of the loss's terms: the task, the distillation, the code length.
    pub losses: [f64; 3],
    /// Top-1 in percent.
    pub top1: f64,
    /// Images per second.
    pub images_per_second: f64,
    /// Share of the time in which training waited for data, from 0 to 1.
    pub waiting: f64,
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
        Ok(Self {
            losses: zeros(3)?,
            correct: zeros(1)?,
            images: 0,
            steps: 0,
            waited: 0.0,
            since: Instant::now(),
            before: 0.0,
        })
    }

    /// Adds a step: its loss, its logits `[batch, classes]`, the labels `y`, and how long its batch was waited for.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn add(&mut self, loss: &Loss, logits: &Tensor, y: &Tensor, waited: Duration) -> Result<(), TrainError> {
        no_grad(|| {
            let correct = logits.f_argmax(1, false)?.f_eq_tensor(y)?.f_sum(Kind::Double)?;
            let _ = self.correct.f_add_(&correct)?;
            let zero = loss.task.f_zeros_like()?;
            let or_zero = |term: &Option<Tensor>| term.as_ref().unwrap_or(&zero).shallow_clone();
            let terms = [loss.task.shallow_clone(), or_zero(&loss.distillation), or_zero(&loss.rate)];
            let _ = self.losses.f_add_(&Tensor::f_stack(&terms, 0)?.f_to_kind(Kind::Double)?)?;
            self.images += y.size()[0] as u64;
            self.steps += 1;
            self.waited += waited.as_secs_f64();
            Ok(())
        })
    }

    fn seconds(&self) -> f64 {
        self.before + self.since.elapsed().as_secs_f64()
    }

    /// The means, fetched from the device.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn means(&self) -> Result<Means, TrainError> {
        let losses = Vec::<f64>::try_from(self.losses.f_to_device(Device::Cpu)?)?;
        let (count, seconds) = (self.steps as f64, self.seconds());
        Ok(Means {
            losses: [losses[0] / count, losses[1] / count, losses[2] / count],
            top1: 100.0 * self.correct.f_double_value(&[0])? / self.images as f64,
            images_per_second: self.images as f64 / seconds,
            waiting: (self.waited / seconds).min(1.0),
        })
    }

    /// Counts and times; the sums come among `tensors`.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn save(&self, tensors: &mut Vec<(String, Tensor)>) -> Result<WindowState, TrainError> {
        tensors.push((LOSSES.to_owned(), on_cpu(&self.losses)?));
        tensors.push((CORRECT.to_owned(), on_cpu(&self.correct)?));
        let (images, steps, seconds, waited) = (self.images, self.steps, self.seconds(), self.waited);
        Ok(WindowState { images, steps, seconds, waited })
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
        let WindowState { images, steps, seconds, waited } = fit.window;
        (self.images, self.steps, self.before, self.waited) = (images, steps, seconds, waited);
        self.since = Instant::now();
        Ok(())
    }
}
