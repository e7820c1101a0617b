//! Recipes: YAML in, a typed and validated [`Recipe`] out, or every finding at once with its place.
//!
//! A recipe is read in four passes, and the findings of all of them come together:
//!
//! 1. the text becomes a tree that knows the place of everything; [`Override`]s are set in it;
//! 2. the tree is checked against the JSON [`schema`] that is made from the types: keys, types, words, ranges;
//! 3. the order of the stages and the relations between values are checked;
//! 4. without findings, serde makes the [`Recipe`].
//!
//! What needs the model or the data is checked elsewhere and tied to the text by [`Source::finding`].

mod anneal;
#[cfg(test)]
mod corpus;
mod document;
mod explain;
mod findings;
mod form;
mod language;
mod overrides;
#[cfg(test)]
mod properties;
mod questions;
mod rules;
mod sites;
mod stage;
#[cfg(test)]
mod tests;
mod values;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use anneal::Anneal;
use document::{Node, Place};
pub use explain::explain;
use findings::Problem;
pub use findings::{Diagnostics, Finding, Source};
pub use language::{Data, IdxData, Mode, Model, Recipe, schema};
pub use overrides::{Override, OverrideError};
pub use sites::{SitePatterns, UnmatchedPattern};
pub use stage::{
    BatchNorm, CalibrateStage, FinetuneStage, Placement, Retraining, SearchStage, Stage, TrainStage, Transform,
};
pub use values::{Device, InputShape, Length, ValueError};

/// The largest recipe file in bytes.
const LARGEST_FILE: u64 = 256 * 1024;

/// A recipe and where everything in it stands.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The recipe, with absolute paths.
    pub recipe: Recipe,
    /// Its text and places, for later findings.
    pub source: Source,
    /// Every key explicit, overrides applied, paths as they are written: the same text wherever the recipe lies, so that
    /// its hash tells recipes apart.
    pub canonical: String,
}

impl Recipe {
    /// Reads and checks a recipe file; relative paths in it start at the file's folder, those in `overrides` at the current one.
    ///
    /// # Errors
    /// All findings at once: about the file (unreadable, too large, not UTF-8), or about what is in it.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Loaded, Diagnostics> {
        let text = read(path)?;
        parse_at(&text, path, &path.display().to_string(), overrides)
    }

    /// Checks the text of a recipe as if it were the file `file_name`, which need not exist.
    ///
    /// # Errors
    /// All findings at once.
    pub fn parse(text: &str, file_name: &str, overrides: &[Override]) -> Result<Loaded, Diagnostics> {
        parse_at(text, Path::new(file_name), file_name, overrides)
    }
}

fn read(path: &Path) -> Result<String, Diagnostics> {
    let file = path.display().to_string();
    let about = |code, message: String, help: &str| Finding::about_file(code, &file, message, Some(help.into()));
    let unreadable = |error: std::io::Error| {
        let message = format!("cannot read the recipe: {error}");
        vec![about("unreadable", message, "check the path and its permissions")]
    };
    let mut bytes = Vec::new();
    let reader = File::open(path).map_err(unreadable)?;
    let mut reader = reader.take(LARGEST_FILE + 1);
    reader.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let message = format!("the file is larger than {LARGEST_FILE} bytes");
        return Err(vec![about("too-large", message, "is this a recipe?")].into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]);
        let line = before.split('\n').count();
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        let mut finding = about("not-utf8", "the recipe is not UTF-8 text".into(), "save the file in UTF-8");
        (finding.line, finding.column) = (Some(line), Some(column));
        vec![finding].into()
    })
}

fn parse_at(text: &str, path: &Path, file: &str, overrides: &[Override]) -> Result<Loaded, Diagnostics> {
    // A byte order mark is no part of the first key, and would shift the columns of the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (root, mut problems) = document::read(text);
    let shown = overrides.iter().map(ToString::to_string).collect();
    let whole = root.is_some();
    let root = root.unwrap_or_else(|| Node::null(Place::START));
    let mut source = Source::new(file, text, shown, root);
    if whole {
        problems.extend(overrides::apply(&mut source.root, overrides));
        let form = form::check(&source.root);
        problems.extend(rules::check(&source.root, &form));
        problems.extend(form);
    }
    if !problems.is_empty() {
        return Err(source.diagnostics(problems));
    }
    match typed(&source.root, path) {
        Ok((recipe, canonical)) => Ok(Loaded { recipe, source, canonical }),
        Err(message) => Err(source.diagnostics(vec![Problem {
            place: Place::START,
            code: "invalid",
            path: String::new(),
            message,
            help: None,
        }])),
    }
}

/// The recipe with absolute paths, and its canonical text.
fn typed(root: &Node, path: &Path) -> Result<(Recipe, String), String> {
    let mut recipe: Recipe = serde_json::from_value(root.to_json()).map_err(|error| error.to_string())?;
    let path = std::path::absolute(path).map_err(|error| format!("the recipe's folder cannot be told: {error}"))?;
    let folder = path.parent().unwrap_or(&path);
    if folder.to_str().is_none() {
        return Err("the name of the recipe's folder is not UTF-8".into());
    }
    let here = std::env::current_dir();
    let here = here.map_err(|error| format!("the current folder cannot be told: {error}"))?;
    let canonical = recipe.resolved_yaml();
    // What is typed on the command line is meant from where it is typed.
    recipe.resolve_paths(|key| match root.nearest(key).place {
        Place::Override(_) => here.clone(),
        Place::Text { .. } => folder.to_path_buf(),
    });
    Ok((recipe, canonical))
}
