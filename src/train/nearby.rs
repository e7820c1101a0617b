//! What a path may have meant where nothing lies, and where finished runs lie.

use std::path::{Path, PathBuf};

use super::error::TrainError;
use crate::recipe::{self, nearest_word, nearest_words};

/// The most that a help text lists.
const MOST_LISTED: usize = 5;

/// Help for a path where nothing is: what lies beside it under a similar name, or how far the path goes and what is there.
/// `in_recipe`: whether a recipe says the path, rather than the command line. None if something is there.
pub fn meant(path: &Path, in_recipe: bool) -> Option<String> {
    if path.exists() {
        return None;
    }
    let there = path.ancestors().skip(1).find(|folder| folder.is_dir())?;
    let wanted = path.strip_prefix(there).ok()?.iter().next()?.to_str()?;
    let names = shown_in(there);
    if let Some(near) = nearest_word(wanted, names.iter().map(String::as_str)) {
        return Some(format!("did you mean {}?", there.join(near).display()));
    }
    let near: Vec<String> = nearest_words(wanted, names.iter().map(String::as_str), MOST_LISTED)
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect();
    let has = match (near.len(), names.len()) {
        (0, _) => "the folder is empty".to_owned(),
        (listed, all) if listed < all => format!("it has {} and {} more", near.join(", "), all - listed),
        _ => format!("it has {}", near.join(", ")),
    };
    let start = match in_recipe {
        true => "a relative path in a recipe starts at the recipe's folder",
        false => "a relative path on the command line starts at the current folder",
    };
    Some(format!("{} has no `{wanted}`: {has}; {start}", there.display()))
}

/// That a folder is none of a run, what such a one looks like, and which ones are near.
pub fn not_a_run(path: &Path) -> TrainError {
    let reason = match (path.is_dir(), path.exists()) {
        (true, _) => "is no run's folder",
        (false, true) => "is a file, and no run's folder",
        (false, false) => "does not exist",
    };
    TrainError::NotARun { path: path.to_path_buf(), reason: reason.into(), help: runs_are(path) }
}

/// That there is no run in a folder to go on with.
pub fn nothing_to_resume(path: &Path) -> TrainError {
    let begin = format!("`dimbit run RECIPE --resume --out {}` begins one", path.display());
    let help = format!("{begin}; {}", runs_are(path));
    TrainError::NotARun { path: path.to_path_buf(), reason: "holds no run to resume".into(), help }
}

/// What a run's folder looks like, and which ones are near.
fn runs_are(path: &Path) -> String {
    let near: Vec<String> = runs_near(path).iter().map(|run| run.display().to_string()).collect();
    let near = match near.as_slice() {
        [] => "there is none nearby; `dimbit run RECIPE --out DIR` makes one".to_owned(),
        near => format!("nearby: {}", near.join(", ")),
    };
    format!("a run's folder holds run.json, recipe.resolved.yaml, checkpoints/ and, at its end, summary.json; {near}")
}

/// The runs nearest to a folder that is none: in it, beside it, or in the current folder's `runs`, by likeness of their
/// names.
pub fn runs_near(path: &Path) -> Vec<PathBuf> {
    let beside = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in [Some(path), beside, Some(Path::new("runs"))].into_iter().flatten() {
        let runs = shown_in(folder).into_iter().map(|name| match folder {
            folder if folder == Path::new(".") => PathBuf::from(name),
            folder => folder.join(name),
        });
        for run in runs.filter(|run| run.join("run.json").is_file()) {
            if !found.contains(&run) {
                found.push(run);
            }
        }
    }
    let wanted = path.to_string_lossy();
    let names: Vec<String> = found.iter().map(|run| run.to_string_lossy().into_owned()).collect();
    let near = nearest_words(&wanted, names.iter().map(String::as_str), MOST_LISTED);
    near.into_iter().map(PathBuf::from).collect()
}

/// The names in a folder, sorted; hidden ones are passed over.
fn shown_in(folder: &Path) -> Vec<String> {
    recipe::names_in(folder).into_iter().filter(|name| !name.starts_with('.')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_a_path_may_have_meant() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let shown = folder.path().display();
        assert_eq!(
            meant(&at("models/x.pt"), true).unwrap(),
            format!(
                "{shown} has no `models`: the folder is empty; a relative path in a recipe starts at the recipe's folder"
            )
        );
        for name in ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", ".hidden"] {
            fs::create_dir(at(name)).unwrap();
        }
        assert_eq!(meant(&at("alpha"), true), None);
        assert_eq!(meant(&at("gama/x.pt"), true).unwrap(), format!("did you mean {shown}/gamma?"));
        let help = meant(&at("nothing/like/it"), false).unwrap();
        assert!(help.contains("has no `nothing`: it has ") && help.contains(" and 1 more; "), "{help}");
        assert!(help.ends_with("on the command line starts at the current folder"), "{help}");
    }

    #[test]
    fn runs_lie_in_a_folder_or_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["first", "second", "none"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["first", "second"] {
            fs::write(at(name).join("run.json"), "{}").unwrap();
        }
        assert_eq!(runs_near(&at("secnd"))[0], at("second"));
        // Whatever runs there are in the current folder.
        let here = |path: &Path| runs_near(path).iter().filter(|run| run.starts_with(folder.path())).count();
        assert_eq!((here(folder.path()), here(&at("first").join("below"))), (2, 0));
    }
}
