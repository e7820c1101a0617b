//! What a training step costs: its time beside the float step's, and the memory that it takes at most.
//!
//! Rows take their steps in turn, round after round, so that whatever the machine does meanwhile falls on all of them
//! alike. Every step is the training loop's own ([`Trainer`](super::fit::Trainer)), on one batch of synthetic images that
//! lies ready; what data and evaluation cost is left out. Peaks of memory add up over a process, so that each is measured
//! in one of its own: [`bench()`] keeps the calibrated rows in files, [`peak_of_row`] goes on from there.

mod loading;
mod row;
mod subject;

use std::path::{Path, PathBuf};
use std::time::Instant;

use tch::Device;

use super::error::TrainError;
use crate::libtorch::{peak_memory, set_deterministic};
use crate::recipe::{self, BasisLearning, InputShape, Placement, SaveActivations, Transform};
use crate::report::{BenchReport, BenchRow, Sinks};
pub use loading::{Loading, bench_loading};
pub use row::{Row, UnknownRow};
use subject::Subject;

/// Rounds before the first that counts: memory is taken from the system, kernels are chosen.
pub const WARM_UP: usize = 3;

/// Steps of a turn on CUDA, between two waits for the device: a wait after every step would hide that training has none.
const CUDA_STEPS: usize = 8;

/// Steps after which a row's memory has reached its peak: from the second on nothing new is kept.
const PEAK_STEPS: usize = 5;

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// TorchScript file.
    pub model: PathBuf,
    /// Shape of an image.
    pub input: InputShape,
    /// Images of a batch.
    pub batch: usize,
    /// Rounds that count.
    pub steps: usize,
    /// Where to compute.
    pub device: recipe::Device,
    /// Threads of libtorch; its own choice without.
    pub threads: Option<usize>,
    /// The rows; the float row is measured in any case.
    pub rows: Vec<Row>,
    /// The transform of the row joint.
    pub transform: Transform,
    /// Whether the bases of the joint rows learn.
    pub basis: BasisLearning,
    /// Most extra multiply-accumulates of `transform: auto`, in percent of the network's own.
    pub max_mac_overhead: f64,
    /// Bits per value that `joint-target` stands at.
    pub target_bits: f64,
    /// The compressed rows follow a float network, as a search does by default: its forward pass is a part of the step.
    pub distillation: bool,
    /// What the compressed rows keep of their activations.
    pub save_activations: SaveActivations,
    /// On which side of the activation functions transforms stand.
    pub placement: Placement,
    /// Batch normalisation uses its running statistics, in every row, and layers in front of codecs may carry out transforms.
    pub freeze_batch_norm: bool,
}

/// How far a bench is.
#[derive(Debug, Clone, Copy)]
pub enum Moment<'a> {
    /// A further row is loaded and calibrated.
    Prepared {
        /// Rows that are ready.
        ready: usize,
        /// Number of rows.
        rows: usize,
    },
    /// A round is about to begin.
    RoundBegins,
    /// A round has ended.
    RoundEnded {
        /// Its place, from 0; the first [`WARM_UP`] don't count.
        round: usize,
        /// Number of rounds.
        rounds: usize,
        /// What a step took, in milliseconds.
        milliseconds: &'a [(Row, f64)],
    },
}

/// Measures the step times. `states`: where calibrated rows are kept for [`peak_of_row`], each in a folder of its name.
/// `observe` is told of every moment, and ends the bench by an error. Peaks of memory are left open.
///
/// # Errors
/// If the network, the device or a file fail, or what `observe` fails with.
pub fn bench<E: From<TrainError>>(
    options: &BenchOptions,
    states: Option<&Path>,
    observe: &mut dyn FnMut(Moment<'_>) -> Result<(), E>,
) -> Result<BenchReport, E> {
    set_up(options)?;
    let mut rows = options.rows.clone();
    rows.push(Row::Float);
    rows.sort_unstable();
    rows.dedup();
    let plans: Vec<_> = rows.iter().map(|row| row.plan(options)).collect();
    let mut sinks: Vec<Sinks> = rows.iter().map(|_| Sinks::default()).collect();
    let mut subjects = Vec::with_capacity(rows.len());
    let mut found = Vec::with_capacity(rows.len());
    for ((&row, plan), sink) in rows.iter().zip(&plans).zip(&mut sinks) {
        let subject = Subject::new(row, plan, options, sink, None)?;
        if let Some(folder) = states {
            let folder = folder.join(row.name());
            std::fs::create_dir_all(&folder).map_err(|e| TrainError::Folder {
                path: folder.clone(),
                reason: e.to_string(),
                help: "the folder for temporary files must be writable; TMPDIR names another",
            })?;
            subject.save(&folder)?;
        }
        found.push(subject.describe()?);
        subjects.push(subject);
        observe(Moment::Prepared { ready: subjects.len(), rows: rows.len() })?;
    }
    let device = subjects.first().map_or(Device::Cpu, Subject::device);
    let mut times: Vec<Vec<f64>> = vec![Vec::with_capacity(options.steps); subjects.len()];
    let rounds = WARM_UP + options.steps;
    for round in 0..rounds {
        observe(Moment::RoundBegins)?;
        let mut milliseconds = Vec::with_capacity(subjects.len());
        for (subject, times) in subjects.iter_mut().zip(&mut times) {
            let time = turn(subject)?;
            milliseconds.push((subject.row, time));
            if round >= WARM_UP {
                times.push(time);
            }
        }
        observe(Moment::RoundEnded { round, rounds, milliseconds: &milliseconds })?;
    }
    for (row, times) in found.iter_mut().zip(times) {
        fill_in(row, times);
    }
    let float = found.iter().find(|row| row.name == Row::Float.name()).map_or(f64::NAN, |row| row.median_ms);
    for row in &mut found {
        row.ratio_to_float = row.median_ms / float;
    }
    Ok(BenchReport {
        network: options.model.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
        input: options.input.to_string(),
        batch: options.batch,
        device: match device {
            Device::Cuda(index) => format!("cuda:{index}"),
            _ => "cpu".to_owned(),
        },
        threads: usize::try_from(tch::get_num_threads()).unwrap_or(1),
        steps: options.steps,
        distillation: options.distillation,
        rows: found,
    })
}

/// The most memory that steps of one row take, by themselves in this process: see [`peak_memory`]. `state`: the row's
/// folder, as [`bench()`] left it.
///
/// # Errors
/// If the network, the device or a file fail.
pub fn peak_of_row(options: &BenchOptions, row: Row, state: &Path) -> Result<Option<u64>, TrainError> {
    set_up(options)?;
    let plan = row.plan(options);
    let mut sink = Sinks::default();
    let mut subject = Subject::new(row, &plan, options, &mut sink, Some(state))?;
    for _ in 0..PEAK_STEPS {
        subject.step()?;
    }
    synchronize(subject.device());
    Ok(peak_memory(subject.device())?)
}

fn set_up(options: &BenchOptions) -> Result<(), TrainError> {
    set_deterministic(0)?;
    if let Some(threads) = options.threads.and_then(|threads| i32::try_from(threads).ok()) {
        tch::set_num_threads(threads);
    }
    Ok(())
}

/// Milliseconds of a step.
fn turn(subject: &mut Subject<'_>) -> Result<f64, TrainError> {
    let device = subject.device();
    let steps = if device.is_cuda() { CUDA_STEPS } else { 1 };
    synchronize(device);
    let began = Instant::now();
    for _ in 0..steps {
        subject.step()?;
    }
    synchronize(device);
    Ok(began.elapsed().as_secs_f64() * 1e3 / steps as f64)
}

fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// Median and quartiles.
fn fill_in(row: &mut BenchRow, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    row.median_ms = quantile(&times, 0.5);
    row.quartiles_ms = [quantile(&times, 0.25), quantile(&times, 0.75)];
}

/// The value below which the part `q` of rising `values` lies, by linear interpolation; NaN of none.
fn quantile(values: &[f64], q: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    values[below] + (at - below as f64) * (values[above] - values[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_textbook() {
        let mut row = BenchRow::default();
        fill_in(&mut row, vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((row.median_ms, row.quartiles_ms), (2.5, [1.75, 3.25]));
        fill_in(&mut row, vec![7.0]);
        assert_eq!((row.median_ms, row.quartiles_ms), (7.0, [7.0, 7.0]));
    }
}
