//! `run.json`: what a run was begun with, and whether a recipe is that run's.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::error::TrainError;
use super::folder::{RunFolder, sha256, sha256_of_file};
use super::nearby::nothing_to_resume;
use super::resume::Machine;
use crate::recipe::{Loaded, Recipe};
use crate::report::{ReportError, Status, Summary, write_atomically};

const ABOUT: &str = "run.json";
const RESOLVED: &str = "recipe.resolved.yaml";

/// `run.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// The run's name.
    pub name: String,
    dimbit_version: String,
    git_commit: Option<String>,
    /// What it was begun on.
    #[serde(flatten)]
    pub machine: Machine,
    seed: u64,
    /// SHA-256 of the canonical recipe.
    pub recipe_sha256: String,
    /// SHA-256 of the resolved recipe, with the absolute paths of then.
    recipe_resolved_sha256: String,
    model: PathBuf,
    /// SHA-256 of the model's file.
    pub model_sha256: String,
}

/// What a run's folder holds.
#[derive(Debug)]
pub enum Standing {
    /// Nothing of a run yet.
    Fresh,
    /// A run that has not ended.
    Begun(About),
    /// A run that has.
    Ended(About, Box<Summary>),
}

impl About {
    /// A run that begins.
    ///
    /// # Errors
    /// If the model's file can't be read.
    pub fn new(loaded: &Loaded, machine: Machine) -> Result<Self, TrainError> {
        let recipe = &loaded.recipe;
        let file = Path::new(loaded.source.file());
        let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned());
        Ok(Self {
            name: recipe.name.clone().or(stem).unwrap_or_else(|| "run".to_owned()),
            dimbit_version: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: git_commit(file),
            machine,
            seed: recipe.seed,
            recipe_sha256: sha256(loaded.canonical.as_bytes()),
            recipe_resolved_sha256: sha256(recipe.resolved_yaml().as_bytes()),
            model: recipe.model.path.clone(),
            model_sha256: sha256_of_file(&recipe.model.path)?,
        })
    }

    /// Writes it down, with the recipe as it was given and as it was resolved.
    ///
    /// # Errors
    /// If that can't be written.
    pub fn save(&self, folder: &RunFolder, loaded: &Loaded) -> Result<(), TrainError> {
        write_atomically(&folder.file("recipe.yaml"), loaded.source.text().as_bytes())?;
        write_atomically(&folder.file(RESOLVED), loaded.recipe.resolved_yaml().as_bytes())?;
        let path = folder.file(ABOUT);
        let mut json =
            serde_json::to_vec_pretty(self).map_err(|e| ReportError::Write { path: path.clone(), source: e.into() })?;
        json.push(b'\n');
        write_atomically(&path, &json)?;
        Ok(())
    }

    /// Requires that a recipe is the run's: the same canonical text, or, as the resolved one that lies in its folder, the
    /// same values.
    ///
    /// # Errors
    /// [`TrainError::OtherRecipe`].
    pub fn requires(&self, loaded: &Loaded, folder: &RunFolder) -> Result<(), TrainError> {
        let resolved = loaded.recipe.resolved_yaml();
        let canonical = sha256(loaded.canonical.as_bytes());
        let resolutions = [&canonical, &sha256(resolved.as_bytes())];
        if canonical == self.recipe_sha256 || resolutions.contains(&&self.recipe_resolved_sha256) {
            return Ok(());
        }
        let value = |text: &str| serde_yaml::from_str::<Json>(text).ok();
        let theirs = std::fs::read_to_string(folder.file(RESOLVED)).ok();
        let mut differences = Vec::new();
        if let (Some(theirs), Some(given)) = (theirs.as_deref().and_then(value), value(&resolved)) {
            compare(&theirs, &given, "", &mut differences);
        }
        let difference = if differences.is_empty() {
            format!("SHA-256 {} there, {canonical} here", self.recipe_sha256)
        } else {
            differences.join(", ")
        };
        let command = folder.resume_command();
        Err(TrainError::OtherRecipe { path: folder.path.clone(), difference, command })
    }

    /// Requires that the model's file is the one that the run was begun with.
    ///
    /// # Errors
    /// [`TrainError::Folder`] if it isn't.
    pub fn requires_model(&self, path: &Path) -> Result<(), TrainError> {
        if sha256_of_file(path)? == self.model_sha256 {
            return Ok(());
        }
        Err(TrainError::Folder {
            path: path.to_path_buf(),
            reason: "the model file is not the one that the run was begun with (another SHA-256)".into(),
            help: "put that file back, or begin a new run in another folder",
        })
    }
}

/// What the folder holds.
///
/// # Errors
/// If it holds something else than a run.
pub fn standing(folder: &RunFolder) -> Result<Standing, TrainError> {
    let path = folder.file(ABOUT);
    let Ok(bytes) = std::fs::read(&path) else {
        return match folder.is_fresh()? {
            true => Ok(Standing::Fresh),
            false => Err(TrainError::Folder {
                path: folder.path.clone(),
                reason: "the folder holds files, but no run (there is no run.json)".into(),
                help: "give the folder of a run, or an empty one, with --out",
            }),
        };
    };
    let about: About = serde_json::from_slice(&bytes).map_err(|e| TrainError::Folder {
        path,
        reason: format!("not the run.json of a run that this program can resume: {e}"),
        help: "begin a new run in another folder with --out",
    })?;
    // Of what a run leaves, the summary is written last.
    let ended = Summary::load(&folder.file("summary.json")).ok().filter(|summary| summary.status != Status::Diverged);
    Ok(match ended {
        Some(summary) => Standing::Ended(about, Box::new(summary)),
        None => Standing::Begun(about),
    })
}

/// The recipe of the run in a folder, with absolute paths.
///
/// # Errors
/// If there is none.
pub fn recipe_of_run(folder: &Path) -> Result<Loaded, TrainError> {
    if !folder.join(RESOLVED).is_file() {
        return Err(nothing_to_resume(folder));
    }
    Ok(Recipe::load(&folder.join(RESOLVED), &[])?)
}

/// Keys whose values differ, the first few.
fn compare(theirs: &Json, given: &Json, path: &str, found: &mut Vec<String>) {
    const SHOWN: usize = 5;
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (theirs, given) {
        (Json::Object(a), Json::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).collect();
            keys.dedup();
            for key in keys {
                let (theirs, given) = (a.get(key).unwrap_or(&Json::Null), b.get(key).unwrap_or(&Json::Null));
                compare(theirs, given, &below(key), found);
            }
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            for (index, (theirs, given)) in a.iter().zip(b).enumerate() {
                compare(theirs, given, &format!("{path}[{index}]"), found);
            }
        }
        _ if theirs == given || found.len() > SHOWN => {}
        _ if found.len() == SHOWN => found.push("and more".to_owned()),
        _ => found.push(format!("`{path}` is {} there and {} here", shown(theirs), shown(given))),
    }
}

fn shown(value: &Json) -> String {
    match value {
        Json::Null => "not set".to_owned(),
        Json::Array(items) => format!("a list of {}", items.len()),
        Json::Object(_) => "a mapping".to_owned(),
        plain => plain.to_string(),
    }
}

/// The commit of the repository that the recipe lies in, if it lies in one.
fn git_commit(recipe: &Path) -> Option<String> {
    let folder = recipe.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let output = std::process::Command::new("git").arg("-C").arg(folder).args(["rev-parse", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_is_known_by_its_resolved_recipe_also_as_earlier_versions_wrote_its_paths() {
        let folder = tempfile::tempdir().unwrap();
        let text = "version: 1\nmodel: {path: /a/b/../m.pt, input: 1x2x2}\ndata: {kind: synthetic}\nstages: [{stage: train, length: 1ep}]\n";
        let loaded = Recipe::parse(text, "/r/x.yaml", &[]).unwrap();
        let resolved = loaded.canonical.clone();
        assert!(resolved.contains("/a/b/../m.pt") && !loaded.recipe.resolved_yaml().contains(".."));
        let model = folder.path().join("m.pt");
        std::fs::write(&model, "").unwrap();
        let mut there = loaded.clone();
        there.recipe.model.path = model;
        let about = About::new(&there, Machine::here(tch::Device::Cpu)).unwrap();
        let about = About {
            recipe_sha256: "of relative paths".into(),
            recipe_resolved_sha256: sha256(resolved.as_bytes()),
            ..about
        };
        let again = Recipe::parse(&resolved, "/run/recipe.resolved.yaml", &[]).unwrap();
        about.requires(&again, &RunFolder::at(folder.path())).unwrap();
        let other = Recipe::parse(&resolved.replace("m.pt", "n.pt"), "/run/recipe.resolved.yaml", &[]).unwrap();
        assert!(about.requires(&other, &RunFolder::at(folder.path())).is_err());
    }

    #[test]
    fn recipes_are_told_apart_by_their_keys() {
        let mut found = Vec::new();
        let theirs = json!({"seed": 1, "stages": [{"target_bits": 2.5, "length": "1ep"}], "data": {"path": "a"}});
        let given =
            json!({"seed": 1, "stages": [{"target_bits": 3, "length": "1ep"}], "data": {"path": "b"}, "name": "x"});
        compare(&theirs, &given, "", &mut found);
        assert_eq!(
            found,
            [
                "`stages[0].target_bits` is 2.5 there and 3 here",
                "`data.path` is \"a\" there and \"b\" here",
                "`name` is not set there and \"x\" here"
            ]
        );
        let many = |value: i32| Json::Array((0..20).map(|_| json!(value)).collect());
        found.clear();
        compare(&many(1), &many(2), "", &mut found);
        assert!(found.len() == 6 && found[5] == "and more", "{found:?}");
        found.clear();
        compare(&json!([1]), &json!([1, 2]), "stages", &mut found);
        assert_eq!(found, ["`stages` is a list of 1 there and a list of 2 here"]);
    }
}
