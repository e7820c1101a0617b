//! Which checkpoints there are: when the next is due, the last few, and the best one that meets the budget.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::disk::{self, Checkpoint};
use super::state::{Machine, State, TEACHER};
use crate::recipe::Length;
use crate::report::write_atomically;
use crate::train::error::TrainError;

/// However long an interval is, no more than this is lost.
const LONGEST: Duration = Duration::from_secs(300);

const BEST: &str = "best.json";
const PREFIX: &str = "state-";

/// How often checkpoints are written, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cadence {
    /// Steps or epochs between two of them within a stage. Every five minutes, at the end of a stage, and when a run is
    /// stopped there is one in any case.
    pub every: Length,
    /// How many are kept, from 1; beside them the best one that meets the budget.
    pub keep: usize,
}

impl Default for Cadence {
    fn default() -> Self {
        Self { every: Length::Epochs(1.0), keep: 2 }
    }
}

/// What a run's checkpoints have in common.
#[derive(Debug, Clone)]
pub struct Origin {
    /// SHA-256 of the canonical recipe.
    pub recipe_sha256: String,
    /// SHA-256 of the model's file.
    pub model_sha256: String,
    /// Where the run computes.
    pub machine: Machine,
}

/// `best.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Best {
    /// The checkpoint's folder.
    checkpoint: String,
    /// Optimizer steps since the run's start.
    step: u64,
    /// Top-1 on the validation split in percent.
    top1: f64,
    /// Fixed-length bits per value.
    bits_per_value: f64,
}

/// Keeps a run's checkpoints in its folder `checkpoints`.
#[derive(Debug)]
pub struct Keeper {
    folder: PathBuf,
    cadence: Cadence,
    origin: Origin,
    /// Numbers of those that can be believed, rising.
    numbers: Vec<u64>,
    /// Number of the next one.
    next: u64,
    /// Optimizer steps since the run's start, at the last checkpoint.
    step: Option<u64>,
    /// SHA-256 of the files that all of them share.
    shared: BTreeMap<String, String>,
    best: Option<Best>,
    last: Instant,
    /// This part of the run began.
    began: Instant,
    /// Seconds of the parts before.
    before: f64,
}

fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:06}")
}

impl Keeper {
    /// Looks at what lies in `folder`, and removes what a kill left half written.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn open(folder: &Path, cadence: Cadence, origin: Origin) -> Result<Self, TrainError> {
        let failed = |e: std::io::Error| TrainError::Folder {
            path: folder.to_path_buf(),
            reason: e.to_string(),
            help: "check the folder's permissions",
        };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!(".{PREFIX}")) {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
            numbers.extend(name.strip_prefix(PREFIX).and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let best = fs::read(folder.join(BEST)).ok().and_then(|bytes| serde_json::from_slice::<Best>(&bytes).ok());
        Ok(Self {
            best: best.filter(|best| folder.join(&best.checkpoint).is_dir()),
            next: numbers.last().map_or(0, |last| last + 1),
            numbers,
            step: None,
            folder: folder.to_path_buf(),
            cadence,
            origin,
            shared: BTreeMap::new(),
            last: Instant::now(),
            began: Instant::now(),
            before: 0.0,
        })
    }

    /// The newest checkpoint that is whole and of this recipe; `warn` is told of those that aren't. None if there is none.
    pub fn newest(&mut self, warn: &mut dyn FnMut(String)) -> Option<Checkpoint> {
        while let Some(&number) = self.numbers.last() {
            let path = self.path(number);
            let read =
                disk::read(&path).and_then(|found| match found.state.recipe_sha256 == self.origin.recipe_sha256 {
                    true => Ok(found),
                    false => Err("is of another recipe".to_owned()),
                });
            match read {
                Ok(found) => {
                    self.shared.clone_from(&found.shared_sha256);
                    self.before = found.state.seconds;
                    self.step = Some(found.state.step);
                    return Some(found);
                }
                Err(reason) => {
                    warn(format!("the checkpoint {} is passed over: {reason}", path.display()));
                    self.numbers.pop();
                }
            }
        }
        None
    }

    /// Where the last checkpoint that can be believed lies.
    pub fn latest(&self) -> Option<PathBuf> {
        self.numbers.last().map(|&number| self.path(number))
    }

    /// Optimizer steps since the run's start that the last checkpoint holds; none before the first one.
    pub fn latest_step(&self) -> Option<u64> {
        self.step
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(name_of(number))
    }

    /// What a run's checkpoints have in common.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Seconds since the run's start, without the time between its parts.
    pub fn seconds(&self) -> f64 {
        self.before + self.began.elapsed().as_secs_f64()
    }

    /// Whether a checkpoint is due behind this step of a stage, by steps or by time.
    pub fn is_due(&self, done: u64, per_epoch: usize) -> bool {
        done.is_multiple_of(self.cadence.every.steps(per_epoch).max(1)) || self.last.elapsed() >= LONGEST
    }

    /// Keeps the float network that distillation follows, for all checkpoints to come.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`].
    pub fn keep_teacher(&mut self, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
        let path = self.folder.join(TEACHER);
        let digest = disk::write_shared(&path, tensors).map_err(|reason| TrainError::Checkpoint { path, reason })?;
        self.shared.insert(TEACHER.to_owned(), digest);
        Ok(())
    }

    /// Writes a checkpoint, and removes those that are not to be kept any more.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`]; those before it are kept then.
    pub fn write(&mut self, state: &State, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
        let path = self.path(self.next);
        disk::write(&path, state, tensors, &self.shared).map_err(|reason| TrainError::Checkpoint { path, reason })?;
        self.numbers.push(self.next);
        self.step = Some(state.step);
        self.next += 1;
        self.last = Instant::now();
        let surplus = self.numbers.len().saturating_sub(self.cadence.keep.max(1));
        self.numbers.drain(..surplus);
        self.remove_others();
        Ok(())
    }

    /// Takes the last checkpoint for the best one if it is: `top1` and `bits` are those of the network in it.
    ///
    /// # Errors
    /// If that can't be written down.
    pub fn consider(&mut self, step: u64, top1: f64, bits: f64, target: Option<f64>) -> Result<(), TrainError> {
        let feasible = target.is_none_or(|target| bits <= target);
        let Some(&number) = self.numbers.last().filter(|_| feasible) else { return Ok(()) };
        if self.best.as_ref().is_some_and(|best| best.top1 >= top1) {
            return Ok(());
        }
        let best = Best { checkpoint: name_of(number), step, top1, bits_per_value: bits };
        let path = self.folder.join(BEST);
        let json = serde_json::to_vec_pretty(&best)
            .map_err(|e| TrainError::Checkpoint { path: path.clone(), reason: e.to_string() })?;
        write_atomically(&path, &json)?;
        self.best = Some(best);
        self.remove_others();
        Ok(())
    }

    /// Removes what served to go on, once the run has ended: everything but the best checkpoint, and that as well if the
    /// result is as good.
    pub fn clear_up(&mut self, result_top1: f64) {
        self.numbers.clear();
        if self.best.as_ref().is_some_and(|best| result_top1 >= best.top1) {
            self.best = None;
            let _ = fs::remove_file(self.folder.join(BEST));
        }
        if self.best.is_none() {
            let _ = fs::remove_file(self.folder.join(TEACHER));
        }
        self.remove_others();
    }

    /// Removes all checkpoints but the kept ones and the best. One that can't be removed does no harm.
    fn remove_others(&self) {
        let kept: Vec<String> = self.numbers.iter().map(|&number| name_of(number)).collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let best = self.best.as_ref().is_some_and(|best| best.checkpoint == name);
            if name.starts_with(PREFIX) && !kept.contains(&name) && !best {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::samples;
    use super::*;

    fn keeper(folder: &Path, keep: usize) -> Keeper {
        let origin =
            Origin { recipe_sha256: "ab".into(), model_sha256: "cd".into(), machine: samples::state(0).machine };
        Keeper::open(folder, Cadence { every: Length::Steps(10), keep }, origin).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.filter(|name| name.starts_with(PREFIX)).collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_few_and_the_best_within_the_budget_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = keeper(folder.path(), 2);
        for (step, top1, bits) in
            [(0, 90.0, 3.0), (1, 70.0, 2.0), (2, 80.0, 2.0), (3, 80.0, 1.0), (4, 60.0, 2.0), (5, 50.0, 2.0)]
        {
            keeper.write(&samples::state(step), &samples::tensors()).unwrap();
            keeper.consider(step, top1, bits, Some(2.0)).unwrap();
        }
        assert_eq!(names(folder.path()), ["state-000002", "state-000004", "state-000005"]);
        let best: Best = serde_json::from_slice(&fs::read(folder.path().join(BEST)).unwrap()).unwrap();
        assert_eq!((best.step, best.top1), (2, 80.0));
        keeper.clear_up(79.0);
        assert_eq!(names(folder.path()), ["state-000002"]);
        keeper.clear_up(80.0);
        assert!(names(folder.path()).is_empty() && !folder.path().join(BEST).exists());
    }

    #[test]
    fn those_that_cannot_be_believed_are_passed_over_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = keeper(folder.path(), 3);
        for step in 0..3 {
            first.write(&samples::state(step), &samples::tensors()).unwrap();
        }
        fs::write(folder.path().join("state-000002/state.json"), "{}").unwrap();
        fs::create_dir(folder.path().join(".state-000003.tmp")).unwrap();
        let mut second = keeper(folder.path(), 2);
        let mut warnings = Vec::new();
        let found = second.newest(&mut |message| warnings.push(message)).unwrap();
        assert_eq!(found.state.step, 1);
        assert!(warnings.len() == 1 && warnings[0].contains("state-000002"), "{warnings:?}");
        second.write(&samples::state(2), &samples::tensors()).unwrap();
        assert_eq!(names(folder.path()), ["state-000001", "state-000003"]);
        assert!(!folder.path().join(".state-000003.tmp").exists());
        let mut other = keeper(folder.path(), 2);
        other.origin.recipe_sha256 = "another".into();
        assert!(other.newest(&mut |message| warnings.push(message)).is_none());
        assert!(warnings[1].contains("another recipe"), "{warnings:?}");
    }

    #[test]
    fn a_checkpoint_is_due_by_steps() {
        let folder = tempfile::tempdir().unwrap();
        let due = |keeper: &Keeper| (1..=40).filter(|&done| keeper.is_due(done, 16)).collect::<Vec<_>>();
        let mut keeper = keeper(folder.path(), 2);
        assert_eq!(due(&keeper), [10, 20, 30, 40]);
        keeper.cadence.every = Length::Epochs(0.5);
        assert_eq!(due(&keeper), [8, 16, 24, 32, 40]);
    }
}
