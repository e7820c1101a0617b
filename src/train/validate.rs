//! The second pass over a recipe: does it fit its model and its data?

use tch::Device;

use super::error::TrainError;
use super::feed::Feed;
use crate::model::Model;
use crate::recipe::{Diagnostics, Finding, Loaded, Stage};

/// Loads model and data and ties everything that does not fit to its place in the recipe, all findings at once.
///
/// # Errors
/// [`TrainError::Recipe`] with the findings.
pub fn validate(loaded: &Loaded, device: Device) -> Result<(Model, Feed), TrainError> {
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
            findings.push(source.finding(code, path, message, help));
            None
        }
    };
    if let Some(model) = &model {
        let names: Vec<&str> = model.sites.iter().map(|s| s.name.as_str()).collect();
        for idle in recipe.sites.unmatched(&names) {
            let message = format!("the pattern `{}` matches none of the network's {} sites", idle.pattern, names.len());
            let help = format!("the sites are {}", listed(&names));
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
    let feed = match Feed::open(recipe, classes, device) {
        Ok(feed) => Some(feed),
        Err(error) => {
            let text = error.to_string();
            let (message, help) = split_help(&text);
            findings.push(source.finding("bad-data", recipe.data.path_key(), message, help));
            None
        }
    };
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
