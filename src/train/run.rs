//! A whole run: a recipe in, a finished folder out. It may be cut off anywhere and go on.

use std::path::{Path, PathBuf};

use super::about::{About, Standing, standing};
use super::checkpoint::save;
use super::error::TrainError;
use super::evaluate::Evaluation;
use super::feed::Feed;
use super::folder::{RunFolder, requires_room};
use super::reached::summarize;
use super::resume::{Cadence, Checkpoint, Keeper, Machine, Origin, restore};
use super::session::Session;
use super::stages;
use super::stop::Stop;
use super::validate::{device_of, sites_left_out, validate};
use crate::libtorch::set_deterministic;
use crate::model::Model;
use crate::recipe::{Loaded, Recipe};
use crate::report::{Event, LogMark, MetricsFile, Sink, Sinks, Status, Summary, TensorBoard};

/// How a run is carried out.
pub struct RunOptions {
    /// The run's folder; without it the first free one under `runs/`.
    pub out: Option<PathBuf>,
    /// Goes on with the run in that folder, or begins it if there is none yet.
    pub resume: bool,
    /// How often checkpoints are written, and how many are kept.
    pub cadence: Cadence,
    /// Ends the run early when it is asked to.
    pub stop: Stop,
    /// Where events go beside the folder's own files.
    pub console: Box<dyn Sink>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// What it reached.
    pub summary: Summary,
    /// Its folder.
    pub folder: PathBuf,
    /// It had ended before, and nothing was left to do.
    pub before: bool,
}

/// Carries out a recipe, or the rest of it.
///
/// # Errors
/// Everything of [`TrainError`]; wrong input is found before anything is written. Once the run has begun, its errors come
/// as [`TrainError::Stopped`], which says what is kept.
pub fn run(loaded: &Loaded, options: RunOptions) -> Result<Ended, TrainError> {
    let RunOptions { out, resume, cadence, stop, mut console } = options;
    let recipe = &loaded.recipe;
    set_deterministic(recipe.seed)?;
    let mut found = None;
    if let Some(path) = out.as_deref().filter(|path| resume && path.exists()) {
        // Nothing is written into a folder that is no run's.
        standing(&RunFolder::at(path))?;
        let folder = RunFolder::reopen(path)?;
        let about = match standing(&folder)? {
            Standing::Fresh => None,
            Standing::Begun(about) => {
                about.requires(loaded, &folder)?;
                Some(about)
            }
            Standing::Ended(about, summary) => {
                about.requires(loaded, &folder)?;
                let origin = origin(&about, Machine::here(device_of(loaded)?));
                Keeper::open(&folder.file("checkpoints"), cadence, origin)?.clear_up(summary.top1);
                return Ok(Ended { summary: *summary, folder: folder.path, before: true });
            }
        };
        found = Some((folder, about));
    }
    let (model, feed, device) = validate(loaded)?;
    let machine = Machine::here(device);
    let new = About::new(loaded, machine.clone())?;
    let place = found.as_ref().map(|(folder, _)| folder.path.as_path()).or(out.as_deref());
    requires_room(place.unwrap_or(Path::new("runs")), room_for(&model, cadence.keep))?;
    let (folder, begun) = match found {
        Some(found) => found,
        None => (RunFolder::create(out.as_deref(), &new.name)?, None),
    };
    let origin = origin(begun.as_ref().unwrap_or(&new), machine);
    let mut keeper = Keeper::open(&folder.file("checkpoints"), cadence, origin)?;
    let mut checkpoint = None;
    match &begun {
        None => new.save(&folder, loaded)?,
        Some(about) => {
            about.requires_model(&recipe.model.path)?;
            checkpoint = newest(&mut keeper, &folder, &feed, &mut *console)?;
        }
    }
    if let Some(found) = &checkpoint {
        console.event(&resumed(found, recipe, &feed))?;
    }
    let mark = checkpoint.as_ref().map_or(LogMark::default(), |found| found.state.mark);
    let mut sinks = Sinks(vec![
        console,
        Box::new(MetricsFile::open_at(&folder.file("metrics.jsonl"), mark.metrics_bytes)?),
        Box::new(TensorBoard::open_at(&folder.file("tensorboard"), &recipe.resolved_yaml(), mark.tensorboard_records)?),
    ]);
    stop.runs_in(&folder);
    let name = begun.map_or(new.name, |about| about.name);
    let mut session = Session::new(recipe, model, feed, device, &mut sinks);
    (session.stop, session.keeper) = (stop, Some(keeper));
    match work(&mut session, &name, checkpoint, &folder) {
        Ok(summary) => Ok(Ended { summary, folder: folder.path, before: false }),
        Err(error) => {
            note_divergence(&session, &error, &folder);
            Err(stopped(error, &folder, session.keeper.as_ref()))
        }
    }
}

fn origin(about: &About, machine: Machine) -> Origin {
    let (recipe_sha256, model_sha256) = (about.recipe_sha256.clone(), about.model_sha256.clone());
    Origin { recipe_sha256, model_sha256, machine }
}

/// Bytes that a run writes, about: weights and velocities of each kept checkpoint, of the best, and of the one that is
/// being written; the teacher, the float network and the result; a megabyte for the rest.
fn room_for(model: &Model, keep: usize) -> u64 {
    let weights = 4 * model.parameters;
    weights * (2 * (keep as u64 + 2) + 3) + 1_000_000
}

/// The checkpoint to go on from; none before the first one.
fn newest(
    keeper: &mut Keeper,
    folder: &RunFolder,
    feed: &Feed,
    console: &mut dyn Sink,
) -> Result<Option<Checkpoint>, TrainError> {
    let mut warnings = Vec::new();
    let found = keeper.newest(&mut |message| warnings.push(message));
    let Some(found) = found else {
        return match warnings.first() {
            None => Ok(None),
            Some(first) => Err(TrainError::Folder {
                path: folder.file("checkpoints"),
                reason: format!("no checkpoint can be read: {first}"),
                help: "put them back, or remove the folder `checkpoints` to begin this run again",
            }),
        };
    };
    let state = &found.state;
    let images = (feed.train_images, feed.validation_images);
    if (state.train_images, state.validation_images) != images {
        return Err(TrainError::Folder {
            path: folder.path.clone(),
            reason: format!(
                "the run was begun with {} training and {} validation images, now there are {} and {}",
                state.train_images, state.validation_images, images.0, images.1
            ),
            help: "put the data back as it was, or begin a new run in another folder",
        });
    }
    let here = &keeper.origin().machine;
    if state.machine != *here {
        let words = |machine: &Machine| {
            format!("libtorch {} on {} with {} threads", machine.libtorch, machine.device, machine.threads)
        };
        warnings.push(format!(
            "the run was begun with {}, and goes on with {}: the last digits of its result may differ",
            words(&state.machine),
            words(here)
        ));
    }
    for message in warnings {
        console.event(&Event::Warning { message })?;
    }
    Ok(Some(found))
}

fn resumed(found: &Checkpoint, recipe: &Recipe, feed: &Feed) -> Event {
    let state = &found.state;
    let stage = recipe.stages.get(state.stage);
    let steps = stage.and_then(|stage| stage.length()).map_or(0, |length| length.steps(feed.steps_per_epoch()).max(1));
    Event::Resumed {
        stage: stage.map(|stage| stage.kind().to_owned()),
        index: state.stage,
        stages: recipe.stages.len(),
        stage_step: state.fit.as_ref().map_or(0, |fit| fit.done),
        stage_steps: steps,
        step: state.step,
    }
}

/// All stages, or what is left of them, and the result.
fn work(
    session: &mut Session<'_>,
    name: &str,
    checkpoint: Option<Checkpoint>,
    folder: &RunFolder,
) -> Result<Summary, TrainError> {
    let recipe = session.recipe;
    // A diverged run leaves one.
    let _ = std::fs::remove_file(folder.file("summary.json"));
    let first = match checkpoint {
        Some(checkpoint) => {
            let stage = checkpoint.state.stage;
            restore(session, checkpoint)?;
            stage
        }
        None => {
            announce(session, name)?;
            0
        }
    };
    for (index, stage) in recipe.stages.iter().enumerate().skip(first) {
        let top1 = stages::carry_out(session, stage, index, folder)?;
        session.save(index + 1, None, Vec::new())?;
        if let Some(top1) = top1 {
            session.consider(top1)?;
        }
        session.may_go_on(stage.kind())?;
    }
    let result = session.evaluate("result", true)?;
    session.consider(result.top1)?;
    save(folder, &session.model.network, session.compressor.as_ref())?;
    let summary = reached(session, &result)?;
    session.sink.event(&Event::Finished { summary: Box::new(summary.clone()) })?;
    session.sink.finish()?;
    summary.save(&folder.file("summary.json"))?;
    if let Some(keeper) = &mut session.keeper {
        keeper.clear_up(summary.top1);
    }
    Ok(summary)
}

/// The first events of a run.
fn announce(session: &mut Session<'_>, name: &str) -> Result<(), TrainError> {
    session.sink.event(&Event::RunStarted {
        name: name.to_owned(),
        mode: session.recipe.mode().to_string(),
        device: Machine::here(session.device).device,
        seed: session.recipe.seed,
        model: session.recipe.model.path.display().to_string(),
        sites: session.model.sites.len(),
        left_out: sites_left_out(session.recipe, &session.model).count(),
        values: session.model.values() as u64,
        parameters: session.model.parameters,
        macs: session.model.macs,
    })?;
    if session.model.baked_evaluation {
        let message = "the network was traced in evaluation: its batch normalisation stays frozen in every stage";
        session.sink.event(&Event::Warning { message: message.to_owned() })?;
    }
    Ok(())
}

fn reached(session: &Session<'_>, result: &Evaluation) -> Result<Summary, TrainError> {
    match &session.keeper {
        Some(keeper) => summarize(session, result, keeper.origin(), keeper.seconds()),
        None => Err(TrainError::Unfit { reason: "a session without checkpoints is no run".into() }),
    }
}

/// Writes the summary of a run that has diverged. The first error counts, whatever becomes of its summary.
fn note_divergence(session: &Session<'_>, error: &TrainError, folder: &RunFolder) {
    let nothing = Evaluation { top1: f64::NAN, loss: f64::NAN, images: 0, entropy: None, codes: Vec::new() };
    if error.is_divergence()
        && let Ok(mut summary) = reached(session, &nothing)
    {
        summary.status = Status::Diverged;
        let _ = summary.save(&folder.file("summary.json"));
    }
}

/// What is kept of a run that was told to stop after `step`, when the last checkpoint holds `kept` steps.
fn saved(stage: &str, step: u64, kept: Option<u64>) -> String {
    match (stage, kept) {
        ("calibrate", Some(kept)) if kept == step => {
            "all before the calibration, which is not saved in between: resuming begins it again".to_owned()
        }
        (_, Some(kept)) if kept == step => format!("all up to step {step}: resuming goes on there"),
        (_, Some(kept)) => format!("all up to step {kept}: resuming goes on from there"),
        (_, None) => "nothing yet: resuming begins the run again".to_owned(),
    }
}

/// An error of a run that had begun: what is kept of it, and how it goes on.
fn stopped(error: TrainError, folder: &RunFolder, keeper: Option<&Keeper>) -> TrainError {
    let latest = keeper.and_then(Keeper::latest);
    let command = folder.resume_command();
    let kept = match (&error, latest) {
        (error, Some(latest)) if error.is_divergence() => format!(
            "kept: the last state before is {}; a changed recipe begins a run of its own in another folder",
            latest.display()
        ),
        (error, None) if error.is_divergence() => "kept: nothing, it was before the first checkpoint".to_owned(),
        (TrainError::Interrupted { stage, step }, _) => {
            let saved = saved(stage, *step, keeper.and_then(Keeper::latest_step));
            format!("saved: {saved}\n  resume: {command}")
        }
        (_, Some(latest)) => {
            format!("kept: all up to {}; when the cause is mended, resume: {command}", latest.display())
        }
        (_, None) => format!("kept: nothing yet; when the cause is mended, begin again: {command}"),
    };
    let mut what = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(found) = cause {
        let text = found.to_string();
        if !what.contains(&text) {
            what = format!("{what}: {text}");
        }
        cause = found.source();
    }
    TrainError::Stopped { source: Box::new(error), what, kept }
}

#[cfg(test)]
mod tests {
    use super::saved;

    #[test]
    fn what_is_saved_is_said_of_steps_and_of_passes_without_any() {
        for (stage, step, kept, said) in [
            ("search", 40, Some(40), "all up to step 40: resuming goes on there"),
            (
                "calibrate",
                12,
                Some(12),
                "all before the calibration, which is not saved in between: resuming begins it again",
            ),
            ("search", 40, Some(31), "all up to step 31: resuming goes on from there"),
            ("calibrate", 0, None, "nothing yet: resuming begins the run again"),
        ] {
            assert_eq!(saved(stage, step, kept), said);
        }
    }
}
