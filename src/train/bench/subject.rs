//! A row ready to be measured: a session of its own, its optimizers, and the batch that it steps on.

use std::path::Path;

use tch::{Device, Tensor};

use super::BenchOptions;
use super::row::{Plan, Row};
use crate::compress::budget::Budget;
use crate::compress::compressor::Compressor;
use crate::compress::midway::MidwayState;
use crate::recipe::{BatchNorm, SearchStage};
use crate::report::{BenchRow, Sink, SiteRow};
use crate::train::error::TrainError;
use crate::train::feed::Feed;
use crate::train::fit::Phase;
use crate::train::norm::reestimate;
use crate::train::objective::{FallingBudget, Objective, TaskAlone};
use crate::train::resume::on_cpu;
use crate::train::session::{Session, resolve_device};
use crate::train::stages::calibrate;
use crate::train::trainer::Trainer;
use crate::train::validate::load_model;

/// A row that trains.
pub(super) struct Subject<'a> {
    pub(super) row: Row,
    session: Session<'a>,
    phase: Phase,
    trainer: Trainer,
    objective: Box<dyn Objective>,
    /// Images `[batch, channels, height, width]` and labels `[batch]`, on the device.
    batch: (Tensor, Tensor),
}

const STATE: &str = "state.json";
const TENSORS: &str = "state.safetensors";

impl<'a> Subject<'a> {
    /// Loads the network and calibrates it as the plan says, or takes the calibration that [`Self::save`] left in `saved`.
    ///
    /// # Errors
    /// If the network, the device or the saved calibration fail.
    pub(super) fn new(
        row: Row,
        plan: &'a Plan,
        options: &BenchOptions,
        sink: &'a mut dyn Sink,
        saved: Option<&Path>,
    ) -> Result<Self, TrainError> {
        let device = resolve_device(options.device)?;
        let model = load_model(&options.model, options.input, device)?;
        let feed = Feed::open(&plan.recipe, model.classes, device)?;
        let mut session = Session::new(&plan.recipe, model, feed, device, sink);
        let mut phase = Phase::retraining("search", 1, &plan.search.retraining(), false);
        if phase.distillation > 0.0 {
            session.keep_teacher()?;
        }
        let objective: Box<dyn Objective> = match row {
            Row::Float => {
                phase.quantizers = None;
                Box::new(TaskAlone)
            }
            _ => {
                match saved {
                    Some(folder) => session.compressor = Some(restored(&session, folder)?),
                    None => {
                        // Statistics of other images or of fresh weights would let the ranges be chosen for activations of
                        // another size than those of the steps, which batch normalisation computes from the batch.
                        reestimate(&mut session)?;
                        calibrate(&mut session, &plan.calibrate)?;
                    }
                }
                let SearchStage { target_bits: target, anneal, .. } = plan.search;
                let start = plan.search.first_bits();
                // A few times in a whole search a probe looks for groups to take back: no part of a step.
                Box::new(FallingBudget::new(Budget { start, target, anneal }, None))
            }
        };
        let trainer = Trainer::new(&session, &phase)?;
        let batch = session.feed.train_epoch(0, 0).next().ok_or_else(|| TrainError::Bench {
            what: format!("the row `{row}` has no batch"),
            reason: "the synthetic data gave none".into(),
            help: "give a smaller --batch",
        })??;
        session.model.network.set_train(true, phase.batch_norm == BatchNorm::Frozen)?;
        Ok(Self { row, session, phase, trainer, objective, batch })
    }

    /// One training step, as a stage takes it.
    pub(super) fn step(&mut self) -> Result<(), TrainError> {
        let (x, y) = &self.batch;
        self.trainer.step(&mut self.session, &self.phase, &mut *self.objective, (x, y))?;
        Ok(())
    }

    pub(super) fn device(&self) -> Device {
        self.session.device
    }

    /// Keeps the calibration in `folder`, for a process that measures this row by itself.
    pub(super) fn save(&self, folder: &Path) -> Result<(), TrainError> {
        let Some(compressor) = &self.session.compressor else { return Ok(()) };
        let (state, tensors) = compressor.save_midway()?;
        let fetched = |(name, t): (String, Tensor)| Ok((name, on_cpu(&t)?));
        let tensors = tensors.into_iter().map(fetched).collect::<Result<Vec<_>, TrainError>>()?;
        Tensor::write_safetensors(&tensors, folder.join(TENSORS))?;
        let error = |reason: String| unusable(&folder.join(STATE), reason);
        let json = serde_json::to_vec(&state).map_err(|e| error(e.to_string()))?;
        std::fs::write(folder.join(STATE), json).map_err(|e| error(e.to_string()))
    }

    /// What the codecs store and compute as they stand; times and memory are still to be filled in.
    pub(super) fn describe(&self) -> Result<BenchRow, TrainError> {
        let (model, compressor) = (&self.session.model, self.session.compressor.as_ref());
        let dropped: f64 = self.session.site_rows()?.iter().map(SiteRow::dropped_values).sum();
        Ok(BenchRow {
            name: self.row.to_string(),
            bits_per_value: compressor.map(Compressor::bits_per_value).transpose()?.unwrap_or(32.0),
            // The sum of nothing is a negative zero.
            dropped_fraction: dropped.abs() / model.values() as f64,
            extra_macs_percent: compressor.map_or(0.0, |c| 100.0 * c.extra_macs(false) / model.macs as f64),
            ..BenchRow::default()
        })
    }
}

fn restored(session: &Session<'_>, folder: &Path) -> Result<Compressor, TrainError> {
    let (state_path, tensors_path) = (folder.join(STATE), folder.join(TENSORS));
    let bytes = std::fs::read(&state_path).map_err(|e| unusable(&state_path, e.to_string()))?;
    let state: MidwayState = serde_json::from_slice(&bytes).map_err(|e| unusable(&state_path, e.to_string()))?;
    let tensors = Tensor::read_safetensors(&tensors_path).map_err(|e| unusable(&tensors_path, e.to_string()))?;
    let find = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t.shallow_clone());
    Compressor::restore_midway(&session.model, &state, find, session.device)
        .map_err(|source| TrainError::Restore { path: state_path, source })
}

fn unusable(path: &Path, reason: String) -> TrainError {
    TrainError::Folder {
        path: path.to_path_buf(),
        reason,
        help: "a bench keeps its rows there while it runs: check the folder for temporary files",
    }
}
