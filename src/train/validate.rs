//! The second pass over a recipe: does it fit its model and its data?

use std::path::Path;

use tch::Device;

use super::error::TrainError;
use super::feed::{Feed, SplitFeed};
use crate::data::Split;
use crate::model::Model;
use crate::recipe::{Diagnostics, Finding, Loaded, Portion, Recipe, Stage, TrainStage, nearest_word};

/// The most files of a folder that are looked through for one that was meant.
const MOST_NAMES: usize = 1000;

/// Loads model and data and ties everything that does not fit to its place in the recipe, all findings at once.
///
/// # Errors
/// [`TrainError::Recipe`] with the findings.
pub fn validate(loaded: &Loaded, device: Device) -> Result<(Model, Feed), TrainError> {
    check(loaded, device, Feed::open, |feed| long_warmups(loaded, feed.steps_per_epoch()))
}

/// Like [`validate`], of one split alone: the other one need not be there.
///
/// # Errors
/// [`TrainError::Recipe`] with the findings.
pub(super) fn validate_split(loaded: &Loaded, device: Device, split: Split) -> Result<(Model, SplitFeed), TrainError> {
    let open = |recipe: &Recipe, classes, device| SplitFeed::open(recipe, classes, device, split);
    check(loaded, device, open, |_| Vec::new())
}

fn check<F>(
    loaded: &Loaded,
    device: Device,
    open: impl FnOnce(&Recipe, usize, Device) -> Result<F, TrainError>,
    look: impl FnOnce(&F) -> Vec<Finding>,
) -> Result<(Model, F), TrainError> {
    let Loaded { recipe, source, .. } = loaded;
    let mut findings: Vec<Finding> = Vec::new();
    let shape = recipe.model.input;
    let input = [shape.channels as i64, shape.height as i64, shape.width as i64];
    let model = match Model::load(&recipe.model.path, input, device) {
        Ok(model) => Some(model),
        Err(error) => {
            let text = error.to_string();
            let (message, help) = split_help(&text);
            let forward =
                matches!(error, crate::model::ModelError::Libtorch(crate::libtorch::LibtorchError::Forward { .. }));
            let (code, path) = if forward { ("bad-input", "model.input") } else { ("bad-model", "model.path") };
            let help = help.or_else(|| meant(&recipe.model.path));
            findings.push(source.finding(code, path, message, help));
            None
        }
    };
    if let Some(model) = &model {
        let names: Vec<&str> = model.sites.iter().map(|s| s.name.as_str()).collect();
        for idle in recipe.sites.unmatched(&names) {
            let message = format!("the pattern `{}` matches none of the network's {} sites", idle.pattern, names.len());
            let near = nearest_word(idle.pattern, names.iter().copied());
            let near = near.map_or(String::new(), |near| format!("did you mean `{near}`? "));
            let help = format!("{near}the sites are {}", listed(&names));
            findings.push(source.finding("no-such-site", &idle.path, message, Some(help)));
        }
        if recipe.calibrate().is_some() && !names.iter().any(|name| recipe.sites.selects(name)) {
            let help = "widen `sites.include` or narrow `sites.exclude`".to_owned();
            findings.push(source.finding("no-site", "sites", "no site is selected", Some(help)));
        } else if let Some(finding) = unreachable_target(loaded, model) {
            findings.push(finding);
        }
        let trains = recipe.stages.iter().position(|stage| matches!(stage, Stage::Train(_)));
        if let (true, Some(index)) = (model.baked_evaluation, trains) {
            let message = "this network was traced in evaluation: its batch normalisation can't be trained";
            let help = "export it with torch.jit.script, or leave the stage `train` out".to_owned();
            findings.push(source.finding("baked-evaluation", &format!("stages[{index}]"), message, Some(help)));
        }
    }
    // Without a network, the labels can still be read; only their range is not known.
    let classes = model.as_ref().map_or(usize::MAX, |m| m.classes);
    let feed = match open(recipe, classes, device) {
        Ok(feed) => Some(feed),
        Err(error) => {
            let text = error.to_string();
            let (message, help) = split_help(&text);
            let help = help.or_else(|| recipe.data.path().and_then(meant));
            findings.push(source.finding("bad-data", recipe.data.path_key(), message, help));
            None
        }
    };
    if let Some(feed) = &feed {
        findings.extend(look(feed));
    }
    match (model, feed) {
        (Some(model), Some(feed)) if findings.is_empty() => Ok((model, feed)),
        _ => {
            findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            Err(TrainError::Recipe(Diagnostics { findings, omitted: 0 }))
        }
    }
}

/// Sites that the recipe leaves out keep 32 bits: they alone may take more than the target.
fn unreachable_target(loaded: &Loaded, model: &Model) -> Option<Finding> {
    let target = loaded.recipe.target_bits()?;
    let has_target = |stage: &Stage| match stage {
        Stage::Search(_) => true,
        Stage::Calibrate(calibrate) => calibrate.target_bits.is_some(),
        Stage::Train(_) | Stage::Finetune(_) => false,
    };
    let index = loaded.recipe.stages.iter().position(has_target)?;
    let left_out: usize =
        model.sites.iter().filter(|s| !loaded.recipe.sites.selects(&s.name)).map(crate::model::Site::values).sum();
    let bits = 32.0 * left_out as f64 / model.values() as f64;
    if bits < target {
        return None;
    }
    let message = format!(
        "the sites that are left out take {bits:.2} bits per value by themselves, so {target} can't be reached"
    );
    let help = "select more sites, or raise the target".to_owned();
    let path = format!("stages[{index}].target_bits");
    Some(loaded.source.finding("unreachable-target", &path, message, Some(help)))
}

/// Help for a path where nothing is: what lies beside it under a similar name, or how far the path goes.
fn meant(path: &Path) -> Option<String> {
    if path.exists() {
        return None;
    }
    let there = path.ancestors().skip(1).find(|folder| folder.is_dir())?;
    let wanted = path.strip_prefix(there).ok()?.iter().next()?.to_str()?;
    let names: Vec<String> = std::fs::read_dir(there)
        .ok()?
        .take(MOST_NAMES)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    Some(match nearest_word(wanted, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {}?", there.join(near).display()),
        None => format!("{} has no `{wanted}`; a relative path starts at the folder of its recipe", there.display()),
    })
}

/// Warm-ups in another unit than their stage: only the number of images tells that they are too long.
fn long_warmups(loaded: &Loaded, steps_per_epoch: usize) -> Vec<Finding> {
    let stages = loaded.recipe.stages.iter().enumerate();
    let too_long = stages.filter_map(|(index, stage)| {
        let Stage::Train(TrainStage { length, warmup: Portion::Length(warmup), .. }) = stage else { return None };
        let (steps, warmup) = (length.steps(steps_per_epoch), warmup.steps(steps_per_epoch));
        if warmup < steps || warmup == 0 {
            return None;
        }
        let message = format!("`warmup` takes {warmup} steps, the whole stage {steps}");
        let help = format!(
            "an epoch of these data has {steps_per_epoch} steps; a share of the stage, such as `5%`, always fits"
        );
        Some(loaded.source.finding("warmup-too-long", &format!("stages[{index}].warmup"), message, Some(help)))
    });
    too_long.collect()
}

/// Errors carry their help as a last line; a finding has a place of its own for it.
fn split_help(text: &str) -> (String, Option<String>) {
    match text.split_once("\n  help: ") {
        Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
        None => (text.to_owned(), None),
    }
}

fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 20;
    let mut text = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more (`dimbit inspect` lists them)", names.len() - SHOWN);
    }
    text
}
