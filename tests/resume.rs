//! Runs that die anywhere and go on: the same bits as if nothing had been, and nothing told twice or lost.
//!
//! A death is a sink that fails, which ends a run behind any event without a checkpoint of that moment; `tests/signals.rs`
//! has the real ones.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard};

use common::logs::{assert_same, copy, values};
use common::{fixture, images, read_json, write_recipe};
use dimbit::recipe::{Length, Recipe};
use dimbit::report::{Event, ReportError, Sink};
use dimbit::train::{Cadence, Ended, RunOptions, Stop, TrainError, run};
use tempfile::tempdir;

/// Runs of one process share libtorch's random numbers: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    tch::set_num_threads(1);
    guard
}

/// Four steps an epoch, on random images.
fn recipe(stages: &str) -> String {
    format!(
        "version: 1\nname: tiny\nseed: 3\ndevice: cpu\nmodel: {{path: {}, input: 3x32x32}}\ndata: {{kind: synthetic, images: 64, batch_size: 16, eval_batch_size: 32}}\nstages:\n{stages}",
        fixture("tiny-scripted.pt").display()
    )
}

/// All stages, bases that learn apart, dropped groups that come back, statistics that are estimated anew.
fn joint() -> String {
    recipe(
        "  - {stage: train, length: 6st}\n  - {stage: calibrate, images: 48, sensitivity_images: 32, transform: pca, basis: apart}\n  - {stage: search, length: 18st, start_bits: 3, target_bits: 2, batch_norm: reestimated}\n  - {stage: finetune, length: 6st, batch_norm: reestimated}\n",
    )
}

/// Counts events, notes warnings, and fails at one event.
#[derive(Clone, Default)]
struct Witness {
    seen: Rc<Cell<usize>>,
    dies_at: Option<usize>,
    warnings: Rc<RefCell<Vec<String>>>,
    /// Where the run went on.
    resumed: Rc<RefCell<Vec<Event>>>,
}

impl Sink for Witness {
    fn event(&mut self, event: &Event) -> Result<(), ReportError> {
        match event {
            Event::Warning { message } => self.warnings.borrow_mut().push(message.clone()),
            Event::Resumed { .. } => self.resumed.borrow_mut().push(event.clone()),
            _ => {}
        }
        let seen = self.seen.replace(self.seen.get() + 1);
        if Some(seen) == self.dies_at {
            let source = std::io::Error::other("as if it had been killed");
            return Err(ReportError::Write { path: PathBuf::from("witness"), source });
        }
        Ok(())
    }
}

/// A run, or the rest of one, in `folder/run`.
fn go(folder: &Path, every: Length, resume: bool, witness: &Witness) -> Result<Ended, TrainError> {
    let loaded = Recipe::load(&folder.join("recipe.yaml"), &[])?;
    let options = RunOptions {
        out: Some(folder.join("run")),
        resume,
        cadence: Cadence { every, keep: 2 },
        stop: Stop::default(),
        console: Box::new(witness.clone()),
    };
    run(&loaded, options)
}

fn dying_at(event: usize) -> Witness {
    Witness { dies_at: Some(event), ..Witness::default() }
}

const EVERY_STEP: Length = Length::Steps(1);

/// The whole run, and how many events it has.
fn whole(text: &str) -> (tempfile::TempDir, usize) {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), text);
    let witness = Witness::default();
    go(folder.path(), Length::Epochs(1.0), false, &witness).unwrap();
    (folder, witness.seen.get())
}

#[test]
fn a_death_behind_any_event_changes_nothing() {
    let _alone = alone();
    let (reference, events) = whole(&joint());
    assert!(events > 50, "{events}");
    let mut stages = BTreeSet::new();
    // Every fourth event; the checkpoints between them lie now behind each step, now behind each epoch.
    for event in (0..events).step_by(4) {
        let folder = tempdir().unwrap();
        write_recipe(folder.path(), &joint());
        let every = if event % 8 == 0 { EVERY_STEP } else { Length::Epochs(1.0) };
        go(folder.path(), every, false, &dying_at(event)).unwrap_err();
        let witness = Witness::default();
        go(folder.path(), every, true, &witness).unwrap();
        assert_same(&reference.path().join("run"), &folder.path().join("run"));
        for event in witness.resumed.borrow().iter() {
            if let Event::Resumed { stage, .. } = event {
                stages.insert(stage.clone());
            }
        }
    }
    let all = ["calibrate", "finetune", "search", "train"].map(|stage| Some(stage.to_owned()));
    assert!(all.iter().all(|stage| stages.contains(stage)), "{stages:?}");
}

/// Dies again and again, each time a few events further.
#[track_caller]
fn dies_all_the_way(text: &str, events: usize) {
    let (reference, _) = whole(text);
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), text);
    let mut deaths = 0;
    // A slow machine tells more of its progress.
    while go(folder.path(), EVERY_STEP, deaths > 0, &dying_at(events + deaths / 4)).is_err() {
        deaths += 1;
        assert!(deaths < 60, "it doesn't get on");
    }
    assert!(deaths > 0);
    assert_same(&reference.path().join("run"), &folder.path().join("run"));
}

#[test]
fn a_run_of_many_deaths_changes_nothing() {
    let _alone = alone();
    dies_all_the_way(&joint(), 11);
}

#[test]
fn every_kind_of_recipe_goes_on() {
    let _alone = alone();
    for stages in [
        // Dimension reduction first, then widths; the entropy term; no teacher.
        "  - {stage: calibrate, images: 48, sensitivity_images: 32, transform: pca, kept: 0.6}\n  - {stage: search, length: 9st, target_bits: 2.5, entropy_weight: 0.2, anneal: linear, distillation: 0}\n  - {stage: finetune, length: 3st, distillation: 0, batch_norm: frozen}\n",
        // Blocks whose one basis learns.
        "  - {stage: calibrate, images: 48, sensitivity_images: 32, transform: block, block_channels: 4, basis: tied, placement: after}\n  - {stage: search, length: 9st, target_bits: 1.5}\n  - {stage: finetune, length: 3st}\n",
        // Fixed widths without a search.
        "  - {stage: train, length: 5st, warmup: 2st, label_smoothing: 0.1}\n  - {stage: calibrate, images: 48, sensitivity_images: 32, transform: none, max_groups: 1, bits: 3}\n  - {stage: finetune, length: 6st}\n",
        // The float network alone.
        "  - {stage: train, length: 5st}\n  - {stage: train, length: 6st}\n",
    ] {
        dies_all_the_way(&recipe(stages), 13);
    }
}

#[test]
fn every_tag_has_the_steps_of_an_undisturbed_run() {
    let _alone = alone();
    let (reference, events) = whole(&joint());
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &joint());
    go(folder.path(), Length::Epochs(1.0), false, &dying_at(events / 2)).unwrap_err();
    let before = fs::read_dir(folder.path().join("run/tensorboard")).unwrap().count();
    go(folder.path(), Length::Epochs(1.0), true, &Witness::default()).unwrap();
    let files = fs::read_dir(folder.path().join("run/tensorboard")).unwrap().count();
    assert_eq!((before, files), (1, 2), "a file for each part of the run");
    let steps = |folder: &Path, start: &str| -> Vec<(u64, String)> {
        let all = values(&folder.join("run/tensorboard")).into_iter().map(|(step, v)| (step, v.get_tag().to_owned()));
        all.filter(|(_, tag)| tag.starts_with(start)).collect()
    };
    let resumed = steps(folder.path(), "");
    assert_eq!(resumed, steps(reference.path(), ""));
    let losses = steps(folder.path(), "loss/");
    assert_eq!(losses.len(), losses.iter().collect::<BTreeSet<_>>().len(), "no step twice");
    // What is told at the start is not told again when the run goes on.
    for tag in ["run/recipe", "custom_scalars__config__", "_hparams_/session_start_info", "_hparams_/session_end_info"]
    {
        assert_eq!(steps(folder.path(), tag).len(), 1, "{tag}");
    }
}

/// A folder whose run died in the search.
fn died_in_search(text: &str, folder: &Path) {
    write_recipe(folder, text);
    let (_, events) = whole(text);
    go(folder, EVERY_STEP, false, &dying_at(events * 3 / 5)).unwrap_err();
}

fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("run/checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("state-")).collect();
    found.sort();
    found
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let _alone = alone();
    let (reference, _) = whole(&joint());
    let original = tempdir().unwrap();
    died_in_search(&joint(), original.path());
    assert!((2..=3).contains(&checkpoints(original.path()).len()), "two, and the best one");
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("state.safetensors", |bytes| bytes.truncate(bytes.len() / 2)),
        ("state.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("state.json", |bytes| bytes[40] ^= 4),
        ("manifest.json", Vec::clear),
    ];
    for (file, damage) in damages {
        let folder = tempdir().unwrap();
        copy(original.path(), folder.path());
        let newest = checkpoints(folder.path()).pop().unwrap();
        let mut bytes = fs::read(newest.join(file)).unwrap();
        damage(&mut bytes);
        fs::write(newest.join(file), bytes).unwrap();
        let witness = Witness::default();
        go(folder.path(), EVERY_STEP, true, &witness).unwrap();
        let warnings = witness.warnings.borrow();
        assert!(warnings.len() == 1 && warnings[0].contains(newest.to_str().unwrap()), "{warnings:?}");
        assert!(warnings[0].contains(file), "{warnings:?}");
        assert_same(&reference.path().join("run"), &folder.path().join("run"));
    }
    // With none left, nothing is begun again behind the user's back.
    for checkpoint in checkpoints(original.path()) {
        fs::write(checkpoint.join("state.json"), "{}").unwrap();
    }
    let metrics = fs::read(original.path().join("run/metrics.jsonl")).unwrap();
    let error = go(original.path(), EVERY_STEP, true, &Witness::default()).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("no checkpoint can be read"), "{error}");
    assert_eq!(fs::read(original.path().join("run/metrics.jsonl")).unwrap(), metrics);
}

#[test]
fn a_finished_run_keeps_what_it_needs() {
    let _alone = alone();
    let (folder, _) = whole(&joint());
    let names: BTreeSet<String> = fs::read_dir(folder.path().join("run/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in ["final.json", "final.safetensors", "float.pt"] {
        assert!(names.contains(name), "{names:?}");
    }
    let result = read_json(&folder.path().join("run/summary.json"));
    match names.contains("best.json") {
        // A checkpoint that was better than the result, within the budget.
        true => {
            let best = read_json(&folder.path().join("run/checkpoints/best.json"));
            assert!(names.contains(best["checkpoint"].as_str().unwrap()));
            assert!(best["top1"].as_f64() > result["top1"].as_f64() && best["bits_per_value"].as_f64() <= Some(2.0));
        }
        false => assert_eq!(names.len(), 3, "{names:?}"),
    }
    let ended = go(folder.path(), EVERY_STEP, true, &Witness::default()).unwrap();
    assert!(ended.before);
    assert_eq!(read_json(&folder.path().join("run/summary.json")), result);
}

#[test]
fn a_run_without_a_checkpoint_begins_again() {
    let _alone = alone();
    let (reference, _) = whole(&joint());
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &joint());
    go(folder.path(), Length::Epochs(1.0), false, &dying_at(2)).unwrap_err();
    assert!(checkpoints(folder.path()).is_empty());
    // What a kill leaves that came in the middle of a checkpoint.
    fs::create_dir(folder.path().join("run/checkpoints/.state-000000.tmp")).unwrap();
    let witness = Witness::default();
    go(folder.path(), Length::Epochs(1.0), true, &witness).unwrap();
    assert!(witness.resumed.borrow().is_empty());
    assert_same(&reference.path().join("run"), &folder.path().join("run"));
    assert!(!folder.path().join("run/checkpoints/.state-000000.tmp").exists());
}

#[test]
fn a_killed_beginning_begins_again() {
    let _alone = alone();
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &recipe("  - {stage: train, length: 2st}\n"));
    for left in ["run/.recipe.yaml.7-0.tmp", "run/recipe.yaml", "run/recipe.resolved.yaml", "run/.lock"] {
        fs::create_dir_all(folder.path().join("run/checkpoints")).unwrap();
        fs::write(folder.path().join(left), "cut o").unwrap();
    }
    go(folder.path(), EVERY_STEP, true, &Witness::default()).unwrap();
}

#[test]
fn a_changed_data_set_is_refused() {
    let _alone = alone();
    let folder = tempdir().unwrap();
    let text = |data: &str| recipe("  - {stage: train, length: 30st}\n").replace("kind: synthetic, images: 64", data);
    copy(&images(), &folder.path().join("data"));
    write_recipe(folder.path(), &text("kind: idx, path: data"));
    go(folder.path(), EVERY_STEP, false, &dying_at(3)).unwrap_err();
    fs::rename(folder.path().join("data"), folder.path().join("elsewhere")).unwrap();
    let before = fs::read(folder.path().join("run/metrics.jsonl")).unwrap();
    let error = go(folder.path(), EVERY_STEP, true, &Witness::default()).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("bad-data"), "{error}");
    assert_eq!(fs::read(folder.path().join("run/metrics.jsonl")).unwrap(), before);
    fs::rename(folder.path().join("elsewhere"), folder.path().join("data")).unwrap();
    go(folder.path(), EVERY_STEP, true, &Witness::default()).unwrap();
}

#[test]
fn a_divergence_leaves_the_last_good_state() {
    let _alone = alone();
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &joint().replace("length: 18st", "length: 18st, learning_rate: 1.0e+39"));
    let error = go(folder.path(), Length::Epochs(1.0), false, &Witness::default()).unwrap_err();
    let text = error.to_string();
    assert!(!error.is_input() && !error.is_interruption(), "{text}");
    for part in ["the loss is", "stage `search`", "parameter `", "site `", "learning_rate", "kept: the last state"] {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
    let newest = checkpoints(folder.path()).pop().unwrap();
    assert!(text.contains(newest.to_str().unwrap()), "{text}");
    for (name, tensor) in tch::Tensor::read_safetensors(newest.join("state.safetensors")).unwrap() {
        if name.starts_with("network.") {
            assert!(tensor.isfinite().all().int64_value(&[]) == 1, "{name}");
        }
    }
    assert_eq!(read_json(&folder.path().join("run/summary.json"))["status"], "diverged");
    // It is no run that has ended: from the same state the same happens.
    let again = go(folder.path(), Length::Epochs(1.0), true, &Witness::default()).unwrap_err().to_string();
    assert!(again.contains("the loss is"), "{again}");
    // A checkpoint looks at the parameters before the next step does.
    let again = go(folder.path(), EVERY_STEP, true, &Witness::default()).unwrap_err();
    let text = again.to_string();
    assert!(!again.is_input() && text.contains("has no finite value after step 1 of the stage `search`"), "{text}");
    assert_eq!(read_json(&folder.path().join("run/summary.json"))["status"], "diverged");
}

#[test]
fn a_wish_to_stop_is_granted_behind_the_step() {
    let _alone = alone();
    /// Wishes to stop at an event.
    struct Impatient(Stop, usize);
    impl Sink for Impatient {
        fn event(&mut self, event: &Event) -> Result<(), ReportError> {
            if !matches!(event, Event::Resumed { .. }) {
                self.1 = self.1.saturating_sub(1);
            }
            if self.1 == 0 {
                self.0.ask();
            }
            Ok(())
        }
    }
    let (reference, events) = whole(&joint());
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &joint());
    let loaded = Recipe::load(&folder.path().join("recipe.yaml"), &[]).unwrap();
    let mut stops = 0;
    loop {
        let stop = Stop::default();
        let options = RunOptions {
            out: Some(folder.path().join("run")),
            resume: stops > 0,
            // Checkpoints come from the stops and the ends of stages alone.
            cadence: Cadence { every: Length::Epochs(100.0), keep: 1 },
            stop: stop.clone(),
            console: Box::new(Impatient(stop, events / 5)),
        };
        match run(&loaded, options) {
            Ok(_) => break,
            Err(error) => {
                assert!(error.is_interruption(), "{error}");
                assert!(error.to_string().contains("resume: dimbit run --resume --out "), "{error}");
                stops += 1;
                assert!(stops < 20);
            }
        }
    }
    assert!(stops > 2, "{stops}");
    assert_same(&reference.path().join("run"), &folder.path().join("run"));
}
