//! Behaviour of recipes that extend others; wrong ones are in `corpus`.

use std::fs;
use std::path::PathBuf;

use super::tests::{SMALL, VALID, overrides, texts};
use super::*;

/// Files of recipes in a folder of their own.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let all = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            fs::create_dir_all(all.at(name).parent().unwrap()).unwrap();
            fs::write(all.at(name), text).unwrap();
        }
        all
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `text` as the file `x.yaml`, which isn't written.
    pub(super) fn parse(&self, text: &str, set: &[&str]) -> Result<Loaded, Diagnostics> {
        Recipe::parse(text, self.at("x.yaml").to_str().unwrap(), &overrides(set))
    }

    #[track_caller]
    fn loaded(&self, text: &str) -> Loaded {
        self.parse(text, &[]).unwrap_or_else(|error| panic!("{error}"))
    }
}

#[test]
fn a_recipe_that_adds_nothing_is_its_base() {
    let files = Files::new(&[("base.yaml", VALID)]);
    let loaded = files.loaded("extends: base.yaml\n");
    let base = Recipe::load(&files.at("base.yaml"), &[]).unwrap();
    assert_eq!((&loaded.recipe, &loaded.canonical), (&base.recipe, &base.canonical));
    assert!(!loaded.canonical.contains("extends"), "{}", loaded.canonical);
    let (own, base) = (files.at("x.yaml"), files.at("base.yaml"));
    assert_eq!(loaded.source.files(), [own.to_str().unwrap(), base.to_str().unwrap()]);
    assert_eq!(loaded.source.text(), "extends: base.yaml\n");
}

#[test]
fn mappings_merge_values_replace_and_null_takes_away() {
    let files = Files::new(&[("base.yaml", &VALID.replace("exclude: []", "exclude: [head, stem]"))]);
    let recipe = files
        .loaded("seed: 8\nextends: base.yaml\nname:\ndata: {batch_size: 32, mean: null}\nsites: {exclude: [tail]}\n")
        .recipe;
    let Data::Idx(data) = &recipe.data else { panic!("not idx data") };
    assert_eq!((recipe.seed, &recipe.name), (8, &None));
    // Changed, gone back to the default, and untouched.
    assert_eq!((data.batch_size, data.mean, data.crop_padding), (32, 0.286, 2));
    assert_eq!((texts(&recipe.sites.include), texts(&recipe.sites.exclude)), (vec!["*"], vec!["tail"]));
    assert_eq!(recipe.stages.len(), 4);
    // The whole of a mapping, and of a base's key that stands in no mapping.
    let recipe = files.loaded("extends: base.yaml\nsites: ~\n").recipe;
    assert!(recipe.sites.exclude.is_empty());
}

#[test]
fn a_list_of_stages_replaces_and_a_mapping_patches_by_kind_or_index() {
    let files = Files::new(&[("base.yaml", VALID)]);
    let recipe = files.loaded("extends: base.yaml\nstages: [{stage: train, length: 2ep}]\n").recipe;
    assert_eq!(recipe.stages.len(), 1);
    let recipe = files
        .loaded("extends: base.yaml\nstages:\n  search: {target_bits: 1.08, start_bits: null}\n  calibrate:\n    transform: none\n  finetune: null\n  0: {length: 2ep}\n")
        .recipe;
    let kinds: Vec<_> = recipe.stages.iter().map(Stage::kind).collect();
    assert_eq!(kinds, ["train", "calibrate", "search"]);
    let (search, calibrate) = (recipe.search().unwrap(), recipe.calibrate().unwrap());
    assert_eq!((search.target_bits, search.start_bits, search.anneal), (1.08, None, Anneal::Cosine));
    assert_eq!((calibrate.transform, calibrate.images), (Transform::None, 2048));
    assert_eq!(recipe.stages[0].length(), Some(Length::Epochs(2.0)));
    // Indices are the base's, whatever else is removed.
    let recipe = files.loaded("extends: base.yaml\nstages: {train: , 3: {length: 9st}}\n").recipe;
    assert_eq!((recipe.stages.len(), recipe.finetune().unwrap().length), (3, Length::Steps(9)));
}

#[test]
fn a_base_may_extend_another_and_overrides_come_last() {
    let files = Files::new(&[
        ("base.yaml", VALID),
        ("middle.yaml", "extends: base.yaml\nseed: 1\nstages: {search: {target_bits: 3}, finetune: }\n"),
    ]);
    let text = "extends: middle.yaml\nstages: {search: {length: 5ep}}\n";
    let recipe = files.parse(text, &["stages.search.start_bits=4", "seed=2"]).unwrap().recipe;
    let search = recipe.search().unwrap();
    assert_eq!((search.target_bits, search.start_bits, search.length), (3.0, Some(4.0), Length::Epochs(5.0)));
    assert_eq!((recipe.seed, recipe.stages.len()), (2, 3));
    for set in ["extends=base.yaml", "extends="] {
        let error = files.parse(text, &[set]).unwrap_err();
        let finding = &error.findings[0];
        assert_eq!((finding.code, error.findings.len()), ("bad-override", 1), "{error}");
        assert!(finding.message.contains("cannot be set from the command line"), "{error}");
    }
}

#[test]
fn findings_about_a_base_show_the_base() {
    let base = VALID.replace("target_bits: 2.16", "target_bits: 40").replace("seed: 7", "sed: 7");
    let files = Files::new(&[("deep/base.yaml", &base), ("middle.yaml", "extends: deep/base.yaml\nname: 5\n")]);
    let text = "extends: middle.yaml\ndevice: gpu\ndata: {batch_size: 0}\n";
    let error = files.parse(text, &["stages.train.length=0ep"]).unwrap_err();
    let folder = files.at("");
    let folder = folder.to_str().unwrap();
    let found: Vec<_> = error
        .findings
        .iter()
        .map(|f| (f.code, f.file.strip_prefix(folder).unwrap_or(&f.file), f.line.unwrap_or(0), f.column.unwrap_or(0)))
        .collect();
    assert_eq!(
        found,
        [
            ("bad-device", "x.yaml", 2, 9),
            ("out-of-range", "x.yaml", 3, 20),
            ("wrong-type", "middle.yaml", 2, 7),
            ("unknown-key", "deep/base.yaml", 3, 1),
            ("out-of-range", "deep/base.yaml", 37, 18),
            ("out-of-range", "--set stages.train.length=0ep", 0, 0),
        ],
        "{error}"
    );
    let shown = error.to_string();
    let about_base =
        format!("--> {folder}deep/base.yaml:37:18\n   |\n37 |     target_bits: 40\n   |                  ^^\n");
    assert!(shown.contains(&about_base), "{shown}");
}

#[test]
fn later_passes_find_the_file_of_every_value() {
    let files = Files::new(&[("base.yaml", VALID)]);
    let source = files.loaded("extends: base.yaml\nstages:\n  search:\n    target_bits: 3\n").source;
    let (own, base) = (files.at("x.yaml"), files.at("base.yaml"));
    let (own, base) = (own.to_str().unwrap(), base.to_str().unwrap());
    assert_eq!(source.locate("stages[2].target_bits"), Some((own, 4, 18)));
    assert_eq!(source.locate("stages[2].length"), Some((base, 36, 13)));
    assert_eq!(source.locate("model.path"), Some((base, 6, 9)));
    // What a merged stage leaves out is missing where it was changed last.
    assert_eq!(source.locate("stages[2].momentum"), Some((own, 3, 3)));
    let finding = source.finding("no-file", "model.path", "no such file", None);
    assert_eq!((&*finding.file, finding.line), (base, Some(6)));
    assert_eq!(finding.source_line.as_deref(), Some("  path: ../../models/resnet18-32px.pt"));
}

#[test]
fn paths_start_at_the_folder_of_the_file_that_says_them() {
    let files = Files::new(&[("sub/base.yaml", SMALL)]);
    let loaded = files.loaded("extends: sub/base.yaml\ndata: {path: e}\n");
    let Data::Idx(data) = &loaded.recipe.data else { panic!("not idx data") };
    assert_eq!((&loaded.recipe.model.path, &data.path), (&files.at("sub/m.pt"), &files.at("e")));
    let typed = files.parse("extends: sub/base.yaml\n", &["model.path=o.pt"]).unwrap().recipe;
    assert_eq!(typed.model.path, std::env::current_dir().unwrap().join("o.pt"));
}

#[test]
fn the_canonical_text_does_not_tell_how_a_recipe_is_put_together() {
    let base = SMALL.replace("m.pt", "../models/m.pt").replace("path: d", "path: .");
    let files = Files::new(&[("sub/base.yaml", &base), ("other/y.yaml", SMALL)]);
    let whole = base.replace("../models/m.pt", "models/m.pt").replace("path: .", "path: sub");
    let whole = files.loaded(&whole).canonical;
    assert_eq!(files.loaded("extends: sub/base.yaml\n").canonical, whole);
    assert_eq!(files.loaded("extends: ./sub/../sub/base.yaml\n").canonical, whole);
    // From a folder beside it, too; and paths above the recipe stay there.
    let beside = files.at("other/x.yaml");
    let beside = Recipe::parse("extends: ../sub/base.yaml\n", beside.to_str().unwrap(), &[]).unwrap().canonical;
    assert!(beside.contains("path: ../models/m.pt\n") && beside.contains("path: ../sub\n"), "{beside}");
}

#[test]
fn a_chain_of_eight_files_is_the_longest() {
    let names: Vec<String> = (0..8).map(|n| format!("{n}.yaml")).collect();
    let texts: Vec<String> =
        (0..8).map(|n| if n == 0 { SMALL.into() } else { format!("extends: {}.yaml", n - 1) }).collect();
    let files: Vec<(&str, &str)> = names.iter().zip(&texts).map(|(name, text)| (&**name, &**text)).collect();
    let files = Files::new(&files);
    assert_eq!(Recipe::load(&files.at("7.yaml"), &[]).unwrap().source.files().len(), 8);
    let error = files.parse("extends: 7.yaml", &[]).unwrap_err();
    let finding = &error.findings[0];
    assert_eq!((finding.code, error.findings.len()), ("too-deep", 1), "{error}");
    assert!(finding.file.ends_with("1.yaml"), "{error}");
}

#[test]
fn a_circle_is_told_by_its_files_however_they_are_written() {
    let files = Files::new(&[("a.yaml", "extends: sub/b.yaml"), ("sub/b.yaml", "extends: ../sub/../a.yaml")]);
    for start in ["a.yaml", "sub/b.yaml"] {
        let error = Recipe::load(&files.at(start), &[]).unwrap_err();
        let finding = &error.findings[0];
        assert_eq!((finding.code, finding.line, finding.column), ("circle", Some(1), Some(10)), "{error}");
        assert_eq!(finding.message.matches(".yaml -> ").count(), 2, "{error}");
    }
    let itself = Files::new(&[("a.yaml", "extends: a.yaml")]);
    assert_eq!(Recipe::load(&itself.at("a.yaml"), &[]).unwrap_err().findings[0].code, "circle");
}

#[test]
fn bases_that_are_no_text_are_findings_at_extends() {
    let files = Files::new(&[("folder/base.yaml", SMALL), ("large.yaml", &" ".repeat(300_000))]);
    fs::write(files.at("latin.yaml"), b"version: 1\nname: caf\xe9\n").unwrap();
    for (base, code, says) in [
        ("folder", "unreadable", "it is no file"),
        ("large.yaml", "too-large", "is larger than 262144 bytes"),
        ("latin.yaml", "not-utf8", "is not UTF-8 text (line 2, column 10)"),
    ] {
        let error = files.parse(&format!("seed: 1\nextends: {base}\n"), &[]).unwrap_err();
        let finding = &error.findings[0];
        assert_eq!((finding.code, finding.line, finding.column), (code, Some(2), Some(10)), "{error}");
        assert!(finding.message.contains(says) && finding.help.is_some(), "{error}");
    }
}

#[test]
fn editors_are_told_what_a_file_that_extends_another_may_leave_out() {
    let schema = schema();
    let (then, otherwise) = (&schema["then"], &schema["else"]);
    assert_eq!(schema["if"]["required"][0], "extends");
    assert!(otherwise["required"].as_array().unwrap().contains(&"stages".into()));
    assert_eq!(otherwise["properties"]["stages"]["type"], "array");
    assert!(then.get("required").is_none() && then["properties"]["extends"]["type"] == "string", "{then:#}");
    let data = &then["properties"]["data"]["anyOf"][0]["anyOf"][0];
    assert!(data.get("required").is_none() && data["properties"]["path"]["anyOf"][1]["type"] == "null", "{data:#}");
    let stages = &then["properties"]["stages"]["anyOf"];
    assert_eq!(stages[0]["type"], "array");
    let search = &stages[1]["properties"]["search"]["anyOf"];
    assert!(search[0].get("required").is_none() && search[1]["type"] == "null", "{search:#}");
}
