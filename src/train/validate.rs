//! The second pass over a recipe: does it fit its model and its data?

use std::path::Path;

use tch::Device;

use super::error::TrainError;
use super::feed::{Feed, SplitFeed};
use super::nearby::meant;
use super::session::resolve_device;
use crate::data::Split;
use crate::libtorch::LibtorchError;
use crate::model::{Model, ModelError, Site};
use crate::recipe::{
    CalibrateStage, Finding, InputShape, Loaded, Portion, Recipe, Stage, TrainStage, UnmatchedPattern, nearest_word,
    nearest_words, split_help,
};

/// How many sites the help about a wrong name lists.
const MOST_SITES: usize = 5;

/// Loads model and data and ties everything that does not fit to its place in the recipe, all findings at once.
///
/// # Errors
/// [`TrainError::Recipe`] with the findings.
pub fn validate(loaded: &Loaded) -> Result<(Model, Feed, Device), TrainError> {
    check(loaded, Feed::open, |feed| {
        let mut findings = long_warmups(loaded, feed.steps_per_epoch());
        findings.extend(few_images(loaded, feed.train_images));
        findings
    })
}

/// Like [`validate`], of one split alone: the other one need not be there.
///
/// # Errors
/// [`TrainError::Recipe`] with the findings.
pub(super) fn validate_split(loaded: &Loaded, split: Split) -> Result<(Model, SplitFeed, Device), TrainError> {
    check(loaded, of_split(split), |_| Vec::new())
}

fn of_split(split: Split) -> impl FnOnce(&Recipe, usize, Device) -> Result<SplitFeed, TrainError> {
    move |recipe, classes, device| SplitFeed::open(recipe, classes, device, split)
}

fn check<F>(
    loaded: &Loaded,
    open: impl FnOnce(&Recipe, usize, Device) -> Result<F, TrainError>,
    look: impl FnOnce(&F) -> Vec<Finding>,
) -> Result<(Model, F, Device), TrainError> {
    let mut findings: Vec<Finding> = Vec::new();
    let device = device_or_finding(loaded, &mut findings);
    let model = model_or_finding(loaded, device, &mut findings);
    if let Some(model) = &model {
        findings.extend(wrong_sites(loaded, model));
        findings.extend(baked_evaluation(loaded, model));
    }
    let feed = feed_or_finding(loaded, model.as_ref(), device, open, &mut findings);
    if let Some(feed) = &feed {
        findings.extend(look(feed));
    }
    all_or_findings(model.zip(feed), findings).map(|(model, feed)| (model, feed, device))
}

/// Loads a network that the command line names.
///
/// # Errors
/// [`TrainError::Model`]; where there is no such file, it says what may be meant.
pub fn load_model(path: &Path, input: InputShape, device: Device) -> Result<Model, TrainError> {
    Model::load(path, input.extents(), device).map_err(|error| {
        let help = std::path::absolute(path).ok().and_then(|path| meant(&path, false));
        TrainError::Model { source: error, help: help.map_or(String::new(), |help| format!("\n  help: {help}")) }
    })
}

/// The network at `path`, with the data of a recipe that is another one's: what that says of its model, sites and stages is
/// no concern of it.
///
/// # Errors
/// [`TrainError::Model`] if the network can't be used, [`TrainError::Recipe`] with the findings about device, input and
/// data.
pub fn data_for(loaded: &Loaded, path: &Path, split: Split) -> Result<(Model, SplitFeed), TrainError> {
    let mut findings = Vec::new();
    let device = device_or_finding(loaded, &mut findings);
    let model = match load_model(path, loaded.recipe.model.input, device) {
        Ok(model) => Some(model),
        Err(TrainError::Model { source, .. }) if is_about_input(&source) => {
            findings.push(about_model(loaded, &source));
            None
        }
        Err(error) => return Err(error),
    };
    let feed = feed_or_finding(loaded, model.as_ref(), device, of_split(split), &mut findings);
    all_or_findings(model.zip(feed), findings)
}

/// The device that a recipe means.
///
/// # Errors
/// [`TrainError::Recipe`] if this machine doesn't have it.
pub fn device_of(loaded: &Loaded) -> Result<Device, TrainError> {
    let mut findings = Vec::new();
    let device = device_or_finding(loaded, &mut findings);
    all_or_findings(Some(device), findings)
}

/// The data of a recipe for any network that takes its input.
///
/// # Errors
/// [`TrainError::Recipe`] with what is wrong with them.
pub fn feed_of(loaded: &Loaded, device: Device) -> Result<Feed, TrainError> {
    let mut findings = Vec::new();
    let feed = feed_or_finding(loaded, None, device, Feed::open, &mut findings);
    all_or_findings(feed, findings)
}

/// The number of training images of a recipe; else in words why it can't be told, and what to do.
///
/// # Errors
/// If the data can't be opened.
pub fn training_images(loaded: &Loaded) -> Result<usize, (String, Option<String>)> {
    Feed::training_images(&loaded.recipe).map_err(|error| {
        let Finding { message, help, .. } = about_data(loaded, &error.into());
        (message, help)
    })
}

fn all_or_findings<T>(all: Option<T>, mut findings: Vec<Finding>) -> Result<T, TrainError> {
    match all {
        Some(all) if findings.is_empty() => Ok(all),
        _ => {
            findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            Err(TrainError::Recipe(findings.into()))
        }
    }
}

/// The recipe's device or, with a finding, the CPU, on which the rest can be checked.
fn device_or_finding(loaded: &Loaded, findings: &mut Vec<Finding>) -> Device {
    resolve_device(loaded.recipe.device).unwrap_or_else(|error| {
        let (message, help) = split_help(&error.to_string());
        findings.push(loaded.source.finding("no-device", "device", message, help));
        Device::Cpu
    })
}

fn model_or_finding(loaded: &Loaded, device: Device, findings: &mut Vec<Finding>) -> Option<Model> {
    let model = Model::load(&loaded.recipe.model.path, loaded.recipe.model.input.extents(), device);
    model.map_err(|error| findings.push(about_model(loaded, &error))).ok()
}

/// Whether a network is sound, but not made for the input.
fn is_about_input(error: &ModelError) -> bool {
    matches!(error, ModelError::Libtorch(LibtorchError::Forward { .. }))
}

fn about_model(loaded: &Loaded, error: &ModelError) -> Finding {
    let (code, key) = if is_about_input(error) { ("bad-input", "model.input") } else { ("bad-model", "model.path") };
    let (message, help) = split_help(&error.to_string());
    let help = help.or_else(|| meant(&loaded.recipe.model.path, loaded.source.locate(key).is_some()));
    loaded.source.finding(code, key, message, help)
}

fn feed_or_finding<F>(
    loaded: &Loaded,
    model: Option<&Model>,
    device: Device,
    open: impl FnOnce(&Recipe, usize, Device) -> Result<F, TrainError>,
    findings: &mut Vec<Finding>,
) -> Option<F> {
    // Without a network, the labels can still be read; only their range is not known.
    let classes = model.map_or(usize::MAX, |m| m.classes);
    open(&loaded.recipe, classes, device).map_err(|error| findings.push(about_data(loaded, &error))).ok()
}

fn about_data(loaded: &Loaded, error: &TrainError) -> Finding {
    let Loaded { recipe, source, .. } = loaded;
    let key = recipe.data.path_key();
    let (message, help) = split_help(&error.to_string());
    let help = help.or_else(|| meant(recipe.data.path()?, source.locate(key).is_some()));
    source.finding("bad-data", key, message, help)
}

/// Patterns that match nothing, no site at all, or too few for the target.
fn wrong_sites(loaded: &Loaded, model: &Model) -> Vec<Finding> {
    let Loaded { recipe, source, .. } = loaded;
    let names: Vec<&str> = model.sites.iter().map(|s| s.name.as_str()).collect();
    let idle = recipe.sites.unmatched(&names);
    let about = |idle: &UnmatchedPattern<'_>| {
        let message = format!("the pattern `{}` matches none of the network's {} sites", idle.pattern, names.len());
        source.finding("no-such-site", &idle.path, message, Some(near_sites(idle.pattern, &names, loaded)))
    };
    let mut findings: Vec<Finding> = idle.iter().map(about).collect();
    if recipe.calibrate().is_some() && !names.iter().any(|name| recipe.sites.selects(name)) {
        let help = "widen `sites.include` or narrow `sites.exclude`".to_owned();
        findings.push(source.finding("no-site", "sites", "no site is selected", Some(help)));
    } else {
        findings.extend(unreachable_target(loaded, model));
    }
    findings
}

/// The sites that a pattern may have meant, and how to see all of them.
fn near_sites(pattern: &str, names: &[&str], loaded: &Loaded) -> String {
    let model = &loaded.recipe.model;
    let inspect = format!("dimbit inspect {} --input {}", model.path.display(), model.input);
    let letters = pattern.trim_matches(['/', '*', '^', '$']);
    let listed = |names: &[&str]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let start = nearest_word(letters, names.iter().copied());
    let start = start.map_or(String::new(), |near| format!("did you mean `{near}`? "));
    if names.len() <= MOST_SITES {
        return format!("{start}the sites are {}", listed(names));
    }
    let near = nearest_words(letters, names.iter().copied(), MOST_SITES);
    format!("{start}the names nearest to it are {}; `{inspect}` lists all", listed(&near))
}

/// A stage that trains what can't be trained.
fn baked_evaluation(loaded: &Loaded, model: &Model) -> Option<Finding> {
    let index = loaded.recipe.stages.iter().position(|stage| matches!(stage, Stage::Train(_)))?;
    model.baked_evaluation.then(|| {
        let message = "this network was traced in evaluation: its batch normalisation can't be trained";
        let help = "export it with torch.jit.script, or leave the stage `train` out".to_owned();
        loaded.source.finding("baked-evaluation", &format!("stages[{index}]"), message, Some(help))
    })
}

/// The sites of a network that a recipe leaves out.
pub fn sites_left_out<'a>(recipe: &'a Recipe, model: &'a Model) -> impl Iterator<Item = &'a Site> {
    model.sites.iter().filter(|site| !recipe.sites.selects(&site.name))
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
    let left_out: usize = sites_left_out(&loaded.recipe, model).map(Site::values).sum();
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

/// Calibrations that ask for more images than there are. The defaults mean as many of them as there are.
fn few_images(loaded: &Loaded, there: usize) -> Vec<Finding> {
    let default = CalibrateStage::default();
    let mut findings = Vec::new();
    for (index, stage) in loaded.recipe.stages.iter().enumerate() {
        let Stage::Calibrate(stage) = stage else { continue };
        for (key, asked, default) in [
            ("images", stage.images, default.images),
            ("sensitivity_images", stage.sensitivity_images, default.sensitivity_images),
        ] {
            if asked > there && asked != default {
                let message = format!("`{key}` asks for {asked} training images, but there are {there}");
                let help = format!(
                    "ask for at most {there}, or leave the key out: its default is {default}, or all there are"
                );
                let path = format!("stages[{index}].{key}");
                findings.push(loaded.source.finding("too-few-images", &path, message, Some(help)));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn a_wrong_name_of_a_site_is_answered_by_the_nearest_few() {
        let recipe = "version: 1\nmodel: {path: m.pt, input: 3x32x32}\ndata: {kind: synthetic}\nstages: [{stage: train, length: 1ep}]\n";
        let loaded = Recipe::parse(recipe, "/r/x.yaml", &[]).unwrap();
        let names: Vec<String> = (0..65).map(|n| format!("trunk.block{}.{}.relu", n / 10, n % 10)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(
            near_sites("trunk.block3.1.rleu", &names, &loaded),
            "did you mean `trunk.block3.1.relu`? the names nearest to it are `trunk.block3.1.relu`, `trunk.block0.1.relu`, \
             `trunk.block1.1.relu`, `trunk.block2.1.relu`, `trunk.block3.0.relu`; `dimbit inspect /r/m.pt --input 3x32x32` \
             lists all"
        );
        // A pattern in pieces that are no names is answered as shortly.
        let far = near_sites("/^stem/", &names, &loaded);
        assert!(!far.contains("did you mean") && far.matches("trunk.").count() == 5, "{far}");
        assert_eq!(near_sites("x", &names[..2], &loaded), format!("the sites are `{}`, `{}`", names[0], names[1]));
    }
}
