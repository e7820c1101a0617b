//! Every shipped recipe can be read and explained on a machine without its model and its data.

mod common;

use std::path::{Path, PathBuf};

use common::root;
use dimbit::recipe::{Data, Recipe, explain};

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
    found
}

#[test]
fn every_shipped_recipe_loads_and_explains() {
    for path in shipped() {
        let loaded = Recipe::load(&path, &[]).unwrap_or_else(|findings| panic!("{findings}"));
        // With the number of images and without.
        for images in [None, Some(4_000)] {
            let text = explain(&loaded.recipe, images);
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
        let Data::Idx(data) = &recipe.data;
        for file in [&recipe.model.path, &data.path] {
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
