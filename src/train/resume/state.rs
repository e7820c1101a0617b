//! All that the next step of a run depends on: taken down, and put back into a session of the same recipe.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

use super::disk::{Checkpoint, Tensors};
use super::exact;
use crate::compress::compressor::Compressor;
use crate::compress::midway::MidwayState;
use crate::libtorch::{LibtorchError, generator_state, set_generator_state};
use crate::report::LogMark;
use crate::train::error::TrainError;
use crate::train::objective::SearchState;
use crate::train::session::Session;

/// A run at a moment; its tensors stand beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The program that wrote it.
    pub dimbit_version: String,
    /// SHA-256 of the canonical recipe.
    pub recipe_sha256: String,
    /// SHA-256 of the model's file.
    pub model_sha256: String,
    /// What the last bits of results depend on beside the recipe.
    pub machine: Machine,
    /// Training images of the data set.
    pub train_images: usize,
    /// Validation images of the data set.
    pub validation_images: usize,
    /// The stage that goes on, or begins next; behind the last one its number is that of all stages.
    pub stage: usize,
    /// Optimizer steps since the run's start.
    pub step: u64,
    /// Training epochs begun since the run's start.
    pub epochs: u64,
    /// Images that were trained on.
    pub images: u64,
    /// Seconds that this took.
    #[serde(with = "exact")]
    pub training_seconds: f64,
    /// Seconds since the run's start, without the time between its parts.
    #[serde(with = "exact")]
    pub seconds: f64,
    /// Top-1 of the float network in percent, once the calibration has measured it.
    pub float_top1: Option<f64>,
    /// How far the files of events had come.
    pub mark: LogMark,
    /// Parameters of the network that learn.
    pub learning: Vec<String>,
    /// Leaves that have had a gradient: momentum and decay go on in those alone.
    pub with_gradient: Vec<String>,
    /// The codecs, from the calibration on.
    pub compressor: Option<MidwayState>,
    /// Where the stage stands; none at its beginning.
    pub fit: Option<FitState>,
}

/// What the last bits of results depend on beside the recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Version of libtorch.
    pub libtorch: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Threads of libtorch.
    pub threads: i32,
}

impl Machine {
    /// This one, computing on `device`.
    pub fn here(device: Device) -> Self {
        let device = match device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
        };
        Self { libtorch: crate::libtorch::version(), device, threads: tch::get_num_threads() }
    }
}

/// A stage's loop at a moment; its tensors stand beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitState {
    /// Steps of the stage that are done.
    pub done: u64,
    /// Where in the epoch that is.
    pub place: Place,
    /// Seconds since the stage's start.
    #[serde(with = "exact")]
    pub seconds: f64,
    /// The time since the last report.
    pub window: WindowState,
    /// Steps of Adam, where it is used.
    pub adam_steps: Option<i32>,
    /// What the search remembers.
    pub search: Option<SearchState>,
}

/// Counts and times since the last report.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowState {
    /// Images.
    pub images: u64,
    /// Steps.
    pub steps: u64,
    /// Seconds, without the time between the run's parts.
    #[serde(with = "exact")]
    pub seconds: f64,
    /// Those of them in which training waited for data.
    #[serde(with = "exact")]
    pub waited: f64,
}

/// Where in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Behind this many of its batches.
    Within(usize),
    /// Behind its last step; its evaluation is still to come.
    End,
}

/// A stage that goes on: what it was, and its tensors.
#[derive(Debug)]
pub struct Interrupted {
    /// Where it stood.
    pub fit: FitState,
    /// All tensors of the checkpoint.
    pub tensors: Tensors,
}

/// The name of the file that keeps the float network which distillation follows.
pub const TEACHER: &str = "teacher.safetensors";

/// The parameters and buffers of a network, or what [`capture`] adds to them, on the CPU.
///
/// # Errors
/// If libtorch fails.
pub fn on_cpu(tensor: &Tensor) -> Result<Tensor, LibtorchError> {
    Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?)
}

/// What gradients gather in, by name.
fn leaves(session: &Session<'_>) -> Result<Vec<(String, Tensor)>, LibtorchError> {
    let parameters = session.model.network.tensors()?.into_iter().filter(|named| named.is_parameter);
    let mut leaves: Vec<_> = parameters.map(|named| (format!("network.{}", named.name), named.tensor)).collect();
    if let Some(compressor) = &session.compressor {
        leaves.push(("codec.log_step".to_owned(), compressor.log_step.shallow_clone()));
        leaves.push(("codec.log_range".to_owned(), compressor.log_range.shallow_clone()));
        let bases = compressor.learned_bases().into_iter().enumerate();
        leaves.extend(bases.map(|(index, basis)| (format!("basis.{index}"), basis)));
    }
    Ok(leaves)
}

/// What a run at a moment is made of that the session knows: counters, network, codecs, random numbers.
///
/// # Errors
/// If libtorch fails.
pub fn capture(session: &Session<'_>, tensors: &mut Vec<(String, Tensor)>) -> Result<Captured, TrainError> {
    for named in session.model.network.tensors()? {
        tensors.push((format!("network.{}", named.name), on_cpu(&named.tensor)?));
    }
    let compressor = match &session.compressor {
        Some(compressor) => {
            let (state, of_codecs) = compressor.save_midway()?;
            for (name, tensor) in of_codecs {
                tensors.push((name, on_cpu(&tensor)?));
            }
            Some(state)
        }
        None => None,
    };
    tensors.push(("generator.cpu".to_owned(), generator_state(Device::Cpu)?));
    if session.device.is_cuda() {
        tensors.push(("generator.cuda".to_owned(), generator_state(session.device)?));
    }
    let (mut learning, mut with_gradient) = (Vec::new(), Vec::new());
    for (name, leaf) in leaves(session)? {
        if leaf.f_grad()?.defined() {
            with_gradient.push(name.clone());
        }
        if leaf.requires_grad() {
            learning.push(name);
        }
    }
    Ok(Captured { learning, with_gradient, compressor })
}

/// A part of a [`State`].
#[derive(Debug)]
pub struct Captured {
    /// See [`State::learning`].
    pub learning: Vec<String>,
    /// See [`State::with_gradient`].
    pub with_gradient: Vec<String>,
    /// See [`State::compressor`].
    pub compressor: Option<MidwayState>,
}

/// Puts a session where the checkpoint was taken; a stage's loop takes the rest from [`Session::interrupted`].
///
/// # Errors
/// [`TrainError::Unfit`] if the checkpoint doesn't fit the network.
pub fn restore(session: &mut Session<'_>, checkpoint: Checkpoint) -> Result<(), TrainError> {
    let Checkpoint { state, tensors, shared, .. } = checkpoint;
    restore_tensors(session, &state, &tensors, shared.get(TEACHER))?;
    (session.step, session.epochs) = (state.step, state.epochs);
    session.trained = (state.images, state.training_seconds);
    session.float_top1 = state.float_top1;
    session.interrupted = state.fit.map(|fit| Interrupted { fit, tensors });
    Ok(())
}

fn restore_tensors(
    session: &mut Session<'_>,
    state: &State,
    tensors: &Tensors,
    teacher: Option<&Tensors>,
) -> Result<(), TrainError> {
    let device = session.device;
    copy_into(&session.model.network, tensors)?;
    if let Some(teacher) = teacher {
        session.keep_teacher()?;
        if let Some(network) = &session.teacher {
            copy_into(network, teacher)?;
        }
    }
    if let Some(codecs) = &state.compressor {
        let find = |name: &str| tensors.get(name).map(Tensor::shallow_clone);
        let restored = Compressor::restore_midway(&session.model, codecs, find, device);
        session.compressor = Some(restored.map_err(|e| TrainError::Unfit { reason: e.to_string() })?);
    }
    for (name, mut leaf) in leaves(session)? {
        if state.learning.contains(&name) != leaf.requires_grad() {
            leaf = leaf.f_set_requires_grad(state.learning.contains(&name))?;
        }
        if leaf.requires_grad() && state.with_gradient.contains(&name) {
            // A gradient of zeros, as every step leaves one.
            leaf.f_mul_scalar(0.0)?.f_sum(leaf.kind())?.f_backward()?;
        }
    }
    set_generator_state(Device::Cpu, found(tensors, "generator.cpu")?)?;
    if device.is_cuda() {
        set_generator_state(device, found(tensors, "generator.cuda")?)?;
    }
    Ok(())
}

/// Copies `network.<name>` into every parameter and buffer.
fn copy_into(network: &crate::libtorch::Network, tensors: &Tensors) -> Result<(), TrainError> {
    for mut named in network.tensors()? {
        let saved = fitting(tensors, &format!("network.{}", named.name), &named.tensor)?;
        no_grad(|| named.tensor.f_copy_(saved))?;
    }
    Ok(())
}

fn found<'a>(tensors: &'a Tensors, name: &str) -> Result<&'a Tensor, TrainError> {
    tensors.get(name).ok_or_else(|| TrainError::Unfit { reason: format!("it has no tensor `{name}`") })
}

/// The tensor of this name, if it has the shape and kind of `like`.
///
/// # Errors
/// [`TrainError::Unfit`] if there is none.
pub fn fitting<'a>(tensors: &'a Tensors, name: &str, like: &Tensor) -> Result<&'a Tensor, TrainError> {
    let tensor = found(tensors, name)?;
    if tensor.size() == like.size() && tensor.kind() == like.kind() {
        return Ok(tensor);
    }
    let (found, wanted): ((Vec<i64>, Kind), _) = ((tensor.size(), tensor.kind()), (like.size(), like.kind()));
    Err(TrainError::Unfit { reason: format!("its tensor `{name}` is {found:?}, the network's {wanted:?}") })
}
