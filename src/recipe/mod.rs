//! Recipes: YAML in, a typed and validated [`Recipe`] out, or every finding at once with its place.
//!
//! A recipe is read in six passes, and the findings of all of them come together:
//!
//! 1. the text becomes a tree that knows the place of everything, and so do those of the files that it `extends`;
//! 2. each is laid over its base, and [`Override`]s are set in the whole, or take away what they set to nothing;
//! 3. variables (`vars`) are put where `${name}` stands;
//! 4. the tree is checked against the JSON Schema that is made from the types: keys, types, words, ranges;
//! 5. the order of the stages and the relations between values are checked;
//! 6. without findings, serde makes the [`Recipe`].
//!
//! What needs the model or the data is checked elsewhere and tied to the text by [`Source::finding`].

mod anneal;
#[cfg(test)]
mod corpus;
mod document;
mod explain;
mod extends;
#[cfg(test)]
mod extends_tests;
mod file;
mod findings;
mod form;
mod keys;
mod language;
mod merge;
mod overrides;
mod photographs;
#[cfg(test)]
mod properties;
mod questions;
mod rules;
mod schema;
mod shipped;
mod sites;
mod stage;
#[cfg(test)]
mod tests;
mod values;
mod vars;

use std::path::{Component, Path, PathBuf};

pub use anneal::{Anneal, FALL};
use document::{Node, Place};
pub use explain::{Uncounted, explain};
use extends::{Chain, Origin};
use file::FileError;
pub(crate) use file::names_in;
use findings::Problem;
pub use findings::{Diagnostics, Finding, Source};
pub(crate) use findings::{nearest_word, nearest_words, split_help};
pub use keys::keys_page;
pub use language::{Data, IdxData, Mode, Model, Recipe, SyntheticData};
pub use overrides::{Override, OverrideError};
pub use photographs::{FolderData, Interpolation, Photographs, ShardData};
pub use schema::schema;
pub use shipped::{NotShipped, SCHEMA_FILE, SHIPPED, Shipped};
pub use sites::{SitePattern, SitePatterns, UnmatchedPattern};
pub use stage::{
    BasisLearning, BatchNorm, CalibrateStage, ComponentCodes, FinetuneStage, InitialRanges, PartitionRule, Placement,
    Retraining, SaveActivations, SearchStage, Stage, TrainStage, Transform,
};
pub use values::{Device, InputShape, Length, Portion, ValueError};

/// A recipe and where everything in it stands.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The recipe, with absolute paths.
    pub recipe: Recipe,
    /// Its texts and places, for later findings; its [`Source::files`] are the recipe's file and those that it extends.
    pub source: Source,
    /// Every key explicit, bases and overrides applied, paths as they are written, or as the recipe itself would write
    /// those of a base: the same text wherever the recipe lies and however it is put together, so that its hash tells
    /// recipes apart.
    pub canonical: String,
}

impl Recipe {
    /// Reads and checks a recipe file and those that it extends; relative paths start at the folder of the file in
    /// which they are written, those in `overrides` at the current one.
    ///
    /// # Errors
    /// All findings at once: about the files (unreadable, too large, not UTF-8), or about what is in them.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Loaded, Diagnostics> {
        let text = file::read(path).map_err(|error| {
            let (file, help) = (path.display().to_string(), Some(error.help_for(path)));
            let mut finding = Finding::about_file(error.code(), &file, format!("the recipe {error}"), help);
            if let FileError::NotUtf8 { line, column } = error {
                (finding.line, finding.column) = (Some(line), Some(column));
            }
            vec![finding]
        })?;
        parse_at(text, path, overrides)
    }

    /// Checks the text of a recipe as if it were the file `file_name`, which need not exist; files that it extends are
    /// read.
    ///
    /// # Errors
    /// All findings at once.
    pub fn parse(text: &str, file_name: &str, overrides: &[Override]) -> Result<Loaded, Diagnostics> {
        parse_at(text.into(), Path::new(file_name), overrides)
    }
}

fn parse_at(text: String, path: &Path, overrides: &[Override]) -> Result<Loaded, Diagnostics> {
    let Chain { files, origins, root, mut problems } = extends::read(text, path);
    let shown = overrides.iter().map(ToString::to_string).collect();
    let whole = root.is_some();
    let root = root.unwrap_or_else(|| Node::null(Place::start(0)));
    let mut source = Source::new(files, shown, root);
    if whole {
        let variables = vars::names(&source.root);
        problems.extend(overrides::apply(&mut source.root, overrides));
        let substituted = vars::substitute(&mut source.root, &variables);
        source.put = substituted.put;
        source.root.drop_items();
        let mut form = substituted.problems;
        form.extend(form::check(&source.root));
        source.root.drop_keys();
        problems.extend(rules::check(&source.root, &form));
        problems.extend(form);
    }
    if !problems.is_empty() {
        return Err(source.diagnostics(problems));
    }
    match typed(&source.root, &origins) {
        Ok((recipe, canonical)) => Ok(Loaded { recipe, source, canonical }),
        Err(message) => Err(source.diagnostics(vec![Problem {
            place: Place::start(0),
            code: "invalid",
            path: String::new(),
            message,
            help: None,
        }])),
    }
}

/// The recipe with absolute paths, and its canonical text.
fn typed(root: &Node, origins: &[Origin]) -> Result<(Recipe, String), String> {
    let mut recipe: Recipe = serde_json::from_value(root.to_json()).map_err(|error| error.to_string())?;
    let folders = origins.iter().map(Origin::folder).collect::<Result<Vec<_>, _>>()?;
    let here = std::env::current_dir();
    let here = here.map_err(|error| format!("the current folder cannot be told: {error}"))?;
    let place = |key: &str| root.nearest(key).place;
    let mut written = recipe.clone();
    written.resolve_paths(|key, path| match place(key) {
        Place::Override(_) => path.to_path_buf(),
        Place::Text { file, .. } => origins[file].seen_from_recipe(path),
    });
    // What is typed on the command line is meant from where it is typed.
    recipe.resolve_paths(|key, path| match place(key) {
        Place::Override(_) => plain(&here.join(path)),
        Place::Text { file, .. } => plain(&folders[file].join(path)),
    });
    Ok((recipe, written.resolved_yaml()))
}

/// An absolute path without `.` and `..`, where that is the same place: behind a link, `..` isn't the folder that holds
/// the link.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match (part, plain.components().next_back()) {
            (Component::CurDir, _) | (Component::ParentDir, Some(Component::RootDir)) => {}
            (Component::ParentDir, Some(Component::Normal(_))) if !plain.is_symlink() => {
                plain.pop();
            }
            _ => plain.push(part),
        }
    }
    plain
}
