//! Every shipped recipe can be read and explained on a machine without its model and its data.
//!
//! A file that another recipe extends is a recipe as well, unless it leaves keys to those that extend it.

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use common::{dimbit, dimbit_in, root};
use dimbit::recipe::{Recipe, SHIPPED, Uncounted, explain, keys_page, schema};

fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            found.push(path);
        }
    }
}

fn shipped() -> Vec<PathBuf> {
    let mut found = Vec::new();
    yaml_files(&root().join("recipes"), &mut found);
    found.sort();
    assert!(!found.is_empty(), "no recipe in recipes/");
    recipes(found)
}

/// Those of the files that are recipes by themselves; the others must be parts that one of these extends.
fn recipes(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut bases = HashSet::new();
    let mut parts = Vec::new();
    let mut complete = Vec::new();
    for path in files {
        match Recipe::load(&path, &[]) {
            Ok(loaded) => {
                bases.extend(loaded.source.files().iter().map(|base| std::fs::canonicalize(base).unwrap()));
                complete.push(path);
            }
            Err(error) => parts.push((path, error)),
        }
    }
    for (path, error) in parts {
        let lacking = error.findings.iter().all(|finding| finding.code == "missing-key");
        assert!(lacking && bases.contains(&path.canonicalize().unwrap()), "{error}");
    }
    complete
}

#[test]
fn every_shipped_recipe_loads_and_explains() {
    for path in shipped() {
        let loaded = Recipe::load(&path, &[]).unwrap_or_else(|findings| panic!("{findings}"));
        // With the number of images and without.
        let uncounted = Uncounted { reason: "there is no folder x".into(), help: None };
        for images in [Err(uncounted), Ok(4_000)] {
            let text = explain(&loaded.recipe, &images);
            for stage in &loaded.recipe.stages {
                assert!(text.contains(stage.kind()), "{}: {text}", path.display());
            }
        }
    }
}

#[test]
fn what_every_shipped_recipe_resolves_to_loads_again() {
    for path in shipped() {
        let recipe = Recipe::load(&path, &[]).unwrap().recipe;
        let again = Recipe::parse(&recipe.resolved_yaml(), "elsewhere/recipe.yaml", &[]).unwrap().recipe;
        assert_eq!(recipe, again, "{}", path.display());
    }
}

#[test]
fn every_shipped_recipe_points_into_the_project() {
    // Whoever clones the project elsewhere finds the same files.
    for path in shipped() {
        let recipe = Recipe::load(&path, &[]).unwrap().recipe;
        for file in [Some(recipe.model.path.as_path()), recipe.data.path()].into_iter().flatten() {
            let mut folder = PathBuf::new();
            for part in file.components() {
                match part {
                    std::path::Component::ParentDir => {
                        folder.pop();
                    }
                    part => folder.push(part),
                }
            }
            assert!(folder.starts_with(root()), "{}: {}", path.display(), file.display());
        }
    }
}

#[test]
fn explain_names_the_files_of_a_recipe_and_validate_the_file_of_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let whole = "version: 1\nmodel: {path: m.pt, input: 1x28x28}\ndata: {kind: idx, path: d}\nstages:\n  - {stage: train, length: 1ep}\n";
    std::fs::write(at("whole.yaml"), whole).unwrap();
    std::fs::write(at("part.yaml"), "version: 1\nmodel: {path: m.pt, input: 1x28x28}\n").unwrap();
    std::fs::write(at("of-whole.yaml"), "extends: whole.yaml\nseed: 5\n").unwrap();
    let rest = "extends: part.yaml\ndata: {kind: idx, path: d}\nstages: [{stage: train, length: 1ep}]\n";
    std::fs::write(at("of-part.yaml"), rest).unwrap();
    let (own, base) = (at("of-whole.yaml"), at("whole.yaml"));
    let own = own.to_str().unwrap();
    let text = dimbit(&["explain", own]).fine();
    assert!(text.contains(&format!("extends: {own} -> {}\n", base.display())), "{text}");
    assert!(text.contains("seed: 5\n"), "{text}");
    assert!(!dimbit(&["explain", base.to_str().unwrap()]).fine().contains("extends"));
    let mut files = Vec::new();
    yaml_files(folder.path(), &mut files);
    let mut complete = recipes(files);
    complete.sort();
    assert_eq!(complete, ["of-part.yaml", "of-whole.yaml", "whole.yaml"].map(at));

    std::fs::write(&base, whole.replace("1ep", "0ep")).unwrap();
    let place = format!("--> {}:5:28", base.display());
    dimbit(&["validate", own]).refused(1, &["error[out-of-range]", &place]);
}

#[test]
fn what_is_made_from_the_code_is_current() {
    for (file, text, how) in [
        ("recipes/recipe.schema.json", format!("{:#}", schema()), "dimbit schema > recipes/recipe.schema.json"),
        ("docs/recipe-keys.md", keys_page(), "dimbit schema --markdown > docs/recipe-keys.md"),
    ] {
        let committed = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        assert_eq!(committed.trim_end(), text.trim_end(), "{file} is out of date: {how}");
    }
}

#[test]
fn the_program_carries_every_recipe_of_the_checkout() {
    let mut files = Vec::new();
    yaml_files(&root().join("recipes"), &mut files);
    files.sort();
    let mut carried: Vec<PathBuf> = SHIPPED.iter().map(|recipe| root().join("recipes").join(recipe.name)).collect();
    carried.sort();
    assert_eq!(files, carried, "src/recipe/shipped.rs lists them");
}

#[test]
fn a_copied_recipe_is_complete_and_an_edited_one_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let list = dimbit(&["recipes", "ls"]).fine();
    assert_eq!(list.lines().count(), SHIPPED.len());
    assert!(list.contains("fashion-mnist/modes/mp.yaml"), "{list}");
    let text = std::fs::read_to_string(root().join("recipes/fashion-mnist/modes/mp.yaml")).unwrap();
    assert_eq!(dimbit(&["recipes", "cat", "modes/mp"]).fine(), text);
    let copy = || dimbit_in(folder.path(), &["recipes", "cp", "modes/mp", "mine"]);
    let told = copy().fine();
    for file in ["mine/fashion-mnist/modes/mp.yaml", "mine/fashion-mnist/modes/base.yaml", "mine/recipe.schema.json"] {
        assert!(told.contains(file) && folder.path().join(file).is_file(), "{told}");
    }
    // Beside `mine`, as the recipes of the checkout look beside `recipes`.
    assert!(told.contains("\nand the images in data/fashion-mnist\n"), "{told}");
    let own = "mine/fashion-mnist/modes/mp.yaml";
    assert!(dimbit_in(folder.path(), &["explain", own]).fine().contains("mode mp"));
    // Twice is once; what was edited since is not written over.
    copy().fine();
    std::fs::write(folder.path().join(own), text.clone() + "seed: 5\n").unwrap();
    copy().refused(1, &["mp.yaml is there already", "help:"]);
    assert!(std::fs::read_to_string(folder.path().join(own)).unwrap().ends_with("seed: 5\n"));
    dimbit(&["recipes", "cat", "modes/mq"]).refused(1, &["no shipped recipe `modes/mq`", "recipes ls"]);
}

#[test]
fn the_file_that_editors_are_pointed_to_is_there() {
    for recipe in SHIPPED {
        let path = root().join("recipes").join(recipe.name);
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().next().unwrap();
        let schema = line.strip_prefix("# yaml-language-server: $schema=").unwrap_or_else(|| panic!("{line}"));
        assert!(path.parent().unwrap().join(schema).is_file(), "{}", recipe.name);
    }
}
