//! Behaviour of whole recipes; wrong ones are in `corpus`, properties of any text in `properties`.

use std::path::PathBuf;

use super::*;

/// A recipe with nearly every key.
pub(super) const VALID: &str = r#"version: 1
name: fashion-mnist-mini/resnet18-joint
seed: 7
device: auto
model:
  path: ../../models/resnet18-32px.pt
  input: 3x32x32
data:
  kind: idx
  path: ../../data/fashion-mnist-mini
  batch_size: 64
  eval_batch_size: 250
  crop_padding: 2
  horizontal_flip: true
  mean: 0.2860
  std: 0.3530
sites:
  include: ["*"]
  exclude: []
stages:
  - stage: train
    length: 8ep
    learning_rate: 0.1
    warmup: 1ep
    momentum: 0.9
    weight_decay: 0.0005
    label_smoothing: 0.0
  - stage: calibrate
    images: 2048
    sensitivity_images: 1024
    transform: auto
    placement: before
    max_mac_overhead: 30
    max_groups: 8
  - stage: search
    length: 6ep
    target_bits: 2.16
    start_bits: 8
    anneal: cosine
    learning_rate: 0.01
    quantizer_learning_rate: 0.02
    batch_norm: train
    distillation: 0.5
  - stage: finetune
    length: 3ep
"#;

/// The smallest recipe.
pub(super) const SMALL: &str = "version: 1\nmodel: {path: m.pt, input: 1x28x28}\ndata: {kind: idx, path: d}\nstages: [{stage: train, length: 1ep}]\n";

pub(super) fn load(text: &str) -> Recipe {
    match Recipe::parse(text, "recipes/x.yaml", &[]) {
        Ok(loaded) => loaded.recipe,
        Err(error) => panic!("{error}"),
    }
}

/// Patterns as a recipe writes them.
pub(super) fn texts(patterns: &[SitePattern]) -> Vec<&str> {
    patterns.iter().map(SitePattern::text).collect()
}

pub(super) fn overrides(texts: &[&str]) -> Vec<Override> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn photographs_need_nothing_but_their_place() {
    let recipe = load(
        "version: 1\nmodel: {path: m.pt, input: 3x224x224}\ndata: {kind: folder, path: d}\nstages: [{stage: train, length: 1ep}]\n",
    );
    let photographs = recipe.data.photographs().unwrap();
    assert_eq!((photographs.resize, photographs.interpolation), (256, Interpolation::Bilinear));
    assert_eq!((photographs.scale, photographs.ratio), ([0.08, 1.0], [3.0 / 4.0, 4.0 / 3.0]));
    assert_eq!((photographs.mean, photographs.std), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]));
    assert_eq!((photographs.horizontal_flip, photographs.max_unreadable, photographs.threads), (true, 0, None));
    assert_eq!(load(&recipe.resolved_yaml()), recipe);
    let text = "version: 1\nmodel: {path: m.pt, input: 3x224x224}\ndata: {kind: shards, train: \"t-{0..3}.tar\", val: v.tar}\nstages: [{stage: train, length: 1ep}]\n";
    let Data::Shards(data) = &load(text).data else { panic!("no shards") };
    assert!(data.train.ends_with("recipes/t-{0..3}.tar") && data.val.is_absolute(), "{data:?}");
}

#[test]
fn synthetic_data_needs_nothing_but_its_kind() {
    let recipe = load(&SMALL.replace("{kind: idx, path: d}", "{kind: synthetic}"));
    let Data::Synthetic(data) = &recipe.data else { panic!("not synthetic data") };
    assert_eq!((data.images, data.batch_size, data.eval_batch_size), (1024, 128, 250));
    assert_eq!((recipe.data.path(), recipe.steps_per_epoch(data.images)), (None, 8));
    assert_eq!(load(&recipe.resolved_yaml()), recipe);
    assert!(explain(&recipe, &Ok(1024)).contains("data   synthetic, batch 128, 1024 images, 8 steps an epoch"));
    let error = Recipe::parse(&SMALL.replace("idx", "synthetic"), "x.yaml", &[]).unwrap_err().to_string();
    assert!(error.contains("unknown key `path`") && error.contains("`images`"), "{error}");
}

#[test]
fn left_out_keys_have_their_defaults() {
    let recipe = load(SMALL);
    let Data::Idx(data) = &recipe.data else { panic!("not idx data") };
    assert_eq!((recipe.seed, recipe.device, &recipe.name), (0, Device::Auto, &None));
    assert_eq!((data.batch_size, data.eval_batch_size, data.crop_padding), (128, 250, 0));
    assert_eq!((data.mean, data.std, data.horizontal_flip), (0.286, 0.353, false));
    assert!(recipe.sites.selects("any.site"));
    let Stage::Train(train) = &recipe.stages[0] else { panic!("not a train stage") };
    assert_eq!((train.learning_rate, train.momentum, train.weight_decay), (0.05, 0.9, 5e-4));
    assert!(train.warmup.is_zero());

    let recipe = load(
        &SMALL
            .replace("{stage: train, length: 1ep}", "{stage: calibrate}, {stage: search, length: 5st, target_bits: 3}"),
    );
    let (calibrate, search) = (recipe.calibrate().unwrap(), recipe.search().unwrap());
    assert_eq!(calibrate, &CalibrateStage::default());
    assert_eq!(search, &SearchStage::new(Length::Steps(5), 3.0));
    assert_eq!((search.first_bits(), search.anneal), (3.0, Anneal::Exponential));
    assert_eq!((search.learning_rate, search.quantizer_learning_rate), (0.01, 0.02));
    assert_eq!((search.distillation, search.batch_norm), (0.5, BatchNorm::Train));
}

#[test]
fn paths_start_at_the_recipes_folder() {
    let loaded = Recipe::parse(VALID, "/somewhere/recipes/x.yaml", &[]).unwrap();
    assert_eq!(loaded.recipe.model.path, PathBuf::from("/models/resnet18-32px.pt"));
    let absolute = SMALL.replace("m.pt", "/models/m.pt");
    assert_eq!(load(&absolute).model.path, PathBuf::from("/models/m.pt"));
    let elsewhere = Recipe::parse(VALID, "/elsewhere/y.yaml", &[]).unwrap();
    assert_eq!(elsewhere.canonical, Recipe::parse(VALID, "/somewhere/recipes/x.yaml", &[]).unwrap().canonical);
    let typed: Override = "model.path=other.pt".parse().unwrap();
    let loaded = Recipe::parse(VALID, "/somewhere/recipes/x.yaml", &[typed]).unwrap();
    assert_eq!(loaded.recipe.model.path, std::env::current_dir().unwrap().join("other.pt"));
}

#[test]
fn a_folder_above_a_link_is_that_of_what_it_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("far/away")).unwrap();
    std::fs::create_dir(at("recipes")).unwrap();
    std::os::unix::fs::symlink(at("far/away"), at("recipes/link")).unwrap();
    let recipe = |path: &str| {
        let text = SMALL.replace("m.pt", path);
        Recipe::parse(&text, at("recipes/x.yaml").to_str().unwrap(), &[]).unwrap().recipe.model.path
    };
    // `link/..` is `far`: taking both away would lead elsewhere.
    assert_eq!(recipe("link/../m.pt"), at("recipes/link/../m.pt"));
    assert_eq!(recipe("./none/.././../m.pt"), at("m.pt"));
}

#[test]
fn null_on_the_command_line_takes_away() {
    let text = VALID.replace("crop_padding: 2", "crop_padding: 2 # pixels");
    let set = |sets: &[&str]| Recipe::parse(&text, "x.yaml", &overrides(sets));
    let Data::Idx(data) = set(&["data.crop_padding=null"]).unwrap().recipe.data else { panic!("not idx data") };
    assert_eq!(data.crop_padding, 0);
    // A stage goes as in a recipe that extends this one; indices are those of the recipe as it is written.
    let recipe = set(&["stages.0=null", "stages.2.length=9st", "stages.finetune="]).unwrap().recipe;
    assert_eq!(recipe.stages.iter().map(Stage::kind).collect::<Vec<_>>(), ["calibrate", "search"]);
    assert_eq!(recipe.search().unwrap().length, Length::Steps(9));
    // A key can be taken away and made anew.
    let again = set(&["sites=null", "sites.exclude=[a]"]).unwrap().recipe.sites;
    assert!(again.selects("b") && !again.selects("a"));
    for (given, code) in
        [("stages=null", "wrong-type"), ("data.kind=null", "wrong-type"), ("nothing=null", "unknown-key")]
    {
        let error = set(&[given]).unwrap_err();
        assert_eq!((error.findings[0].code, &*error.findings[0].file), (code, &*format!("--set {given}")), "{error}");
    }
}

#[test]
fn a_resolved_recipe_is_explicit_and_loads_again_to_an_equal_one() {
    for text in [VALID, SMALL] {
        let recipe = load(text);
        let resolved = recipe.resolved_yaml();
        let again = Recipe::parse(&resolved, "/elsewhere/y.yaml", &[]).unwrap();
        assert_eq!(again.recipe, recipe);
        assert_eq!(again.recipe.resolved_yaml(), resolved);
        assert!(resolved.contains("eval_batch_size: 250"), "{resolved}");
    }
}

#[test]
fn the_mode_follows_from_the_stages() {
    let search = "{stage: search, length: 1ep, target_bits: 2}";
    for (stages, mode) in [
        ("{stage: train, length: 1ep}".to_string(), "float"),
        (format!("{{stage: calibrate, transform: none, max_groups: 1}}, {search}"), "mp"),
        (format!("{{stage: calibrate, transform: none}}, {search}"), "mp_grouped"),
        (format!("{{stage: calibrate, transform: pca, max_groups: 1}}, {search}"), "joint"),
        (format!("{{stage: calibrate}}, {search}"), "joint"),
        ("{stage: calibrate, transform: none, max_groups: 1, bits: 4}".to_string(), "uniform"),
        ("{stage: calibrate, bits: 8, target_bits: 2}, {stage: finetune, length: 1ep}".to_string(), "dr_only"),
        (format!("{{stage: calibrate, kept: 0.5}}, {search}"), "dr_then_mp"),
    ] {
        let recipe = load(&SMALL.replace("{stage: train, length: 1ep}", &stages));
        assert_eq!(recipe.mode().to_string(), mode, "{stages}");
    }
}

#[test]
fn calibrations_that_contradict_themselves_are_found() {
    let search = ", {stage: search, length: 1ep, target_bits: 1}";
    for (calibrate, search, code, key) in [
        ("target_bits: 2", search, "bits-missing", "target_bits"),
        ("bits: 4, target_bits: 5", "", "bits-order", "target_bits"),
        ("bits: 8, kept: 0.5", "", "contradiction", "kept"),
        ("bits: 8, target_bits: 2, max_groups: 1", "", "unreachable-target", "target_bits"),
        ("bits: 8, target_bits: 1.9, max_groups: 4, partition: equal_size", "", "unreachable-target", "target_bits"),
        ("bits: 1, target_bits: 1, codes: mid_tread", "", "contradiction", "bits"),
        ("bits: 4", "", "contradiction", "bits"),
        ("bits: 8, target_bits: 2, transform: none", "", "contradiction", "target_bits"),
        ("kept: 0.5, transform: none", search, "contradiction", "kept"),
        ("basis: tied, transform: none", search, "contradiction", "basis"),
        ("kept: 0.6, transform: pca, codes: mid_tread", search, "unreachable-target", "target_bits"),
        ("bits: 4, transform: none, max_groups: 1", search, "stage-order", "stage"),
    ] {
        let stages = format!("{{stage: calibrate, {calibrate}}}{search}");
        let text = SMALL.replace("{stage: train, length: 1ep}", &stages);
        let findings = Recipe::parse(&text, "x.yaml", &[]).unwrap_err().findings;
        let found: Vec<_> = findings.iter().map(|f| (f.code, f.path.rsplit('.').next().unwrap())).collect();
        assert_eq!(found, [(code, key)], "{calibrate}");
    }
}

#[test]
fn overrides_name_stages_by_index_or_kind_and_make_what_is_missing() {
    let set = overrides(&[
        "stages.search.target_bits=2.5",
        "stages.0.length=2ep",
        "stages[3].length=7st",
        "sites.exclude=[stem, head.*]",
        "data.batch_size=32",
        "name=",
    ]);
    let recipe = Recipe::parse(VALID, "x.yaml", &set).unwrap().recipe;
    assert_eq!(recipe.search().unwrap().target_bits, 2.5);
    assert_eq!(recipe.stages[0].length(), Some(Length::Epochs(2.0)));
    assert_eq!(recipe.finetune().unwrap().length, Length::Steps(7));
    assert_eq!(texts(&recipe.sites.exclude), ["stem", "head.*"]);
    assert_eq!((recipe.steps_per_epoch(100), recipe.name), (3, None));
    // `sites` is not in the small recipe at all.
    let set = overrides(&["sites.include=[a]"]);
    let recipe = Recipe::parse(SMALL, "x.yaml", &set).unwrap().recipe;
    assert_eq!(texts(&recipe.sites.include), ["a"]);
}

#[test]
fn findings_in_overrides_name_the_override() {
    for (text, code, message) in [
        ("stages.2.target_bits=0", "out-of-range", "`target_bits` in stage `search`"),
        ("stages.search.target_bit=2", "unknown-key", "unknown key `target_bit` in stage `search`"),
        ("stages.search.start_bits=2", "bits-order", "`start_bits` (2) is below `target_bits` (2.16)"),
        ("stages.prune.length=2ep", "bad-override", "no stage `prune`"),
        ("stages.9.length=2ep", "bad-override", "no item 9: the list has 4"),
        ("seed.x=1", "bad-override", "below a single value"),
        ("model={path: m.pt}", "missing-key", "missing key `input` in `model`"),
    ] {
        let error = Recipe::parse(VALID, "x.yaml", &overrides(&[text])).unwrap_err();
        assert_eq!(error.findings.len(), 1, "{error}");
        let finding = &error.findings[0];
        assert_eq!((finding.code, &*finding.file), (code, &*format!("--set {text}")), "{error}");
        assert_eq!(finding.line, None, "{error}");
        assert!(finding.message.contains(message), "{error}");
        assert!(error.to_string().contains(&format!("--> --set {text}\n")), "{error}");
    }
    let two = SMALL.replace("stages: [", "stages: [{stage: train, length: 1ep}, ");
    let error = Recipe::parse(&two, "x.yaml", &overrides(&["stages.train.length=3ep"])).unwrap_err();
    assert!(error.to_string().contains("[0, 1]"), "{error}");
}

#[test]
fn texts_that_are_no_overrides_say_why() {
    let deep = format!("{}=1", "a.".repeat(100_000));
    for text in ["seed", "=1", "...=1", deep.as_str()] {
        let error = text.parse::<Override>().unwrap_err();
        assert!(matches!(error, OverrideError::Form { .. }), "{error}");
        assert!(error.to_string().len() < 300);
    }
    let error = "seed=[1".parse::<Override>().unwrap_err();
    assert!(matches!(error, OverrideError::Value { .. }), "{error}");
}

#[test]
fn later_passes_can_locate_findings_even_of_keys_left_out() {
    let set = overrides(&["seed=3"]);
    let source = Recipe::parse(VALID, "recipes/x.yaml", &set).unwrap().source;
    assert_eq!(source.locate("stages[2].target_bits"), Some(("recipes/x.yaml", 37, 18)));
    assert_eq!(source.locate("sites.include[0]"), Some(("recipes/x.yaml", 18, 13)));
    assert_eq!(source.locate("model"), Some(("recipes/x.yaml", 5, 1)));
    assert_eq!(source.locate("stages[3].momentum"), Some(("recipes/x.yaml", 44, 5)));
    assert_eq!(source.locate("seed"), None);
    let finding = source.finding("no-file", "model.path", "no such file", Some("look".into()));
    assert_eq!(
        finding.to_string(),
        "error[no-file]: no such file
 --> recipes/x.yaml:6:9
  |
6 |   path: ../../models/resnet18-32px.pt
  |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: look"
    );
    let json = serde_json::to_value(&finding).unwrap();
    assert_eq!((&json["code"], &json["line"]), (&"no-file".into(), &6.into()));
}

#[test]
fn files_that_are_no_text_are_findings_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.yaml");
    let first = |path: &Path| Recipe::load(path, &[]).unwrap_err().findings.remove(0);
    assert_eq!(first(&path).code, "unreadable");
    assert_eq!(first(folder.path()).code, "unreadable");
    std::fs::write(&path, b"version: 1\nname: caf\xe9\n").unwrap();
    let finding = first(&path);
    assert_eq!((finding.code, finding.line, finding.column), ("not-utf8", Some(2), Some(10)));
    std::fs::write(&path, vec![b' '; 300_000]).unwrap();
    assert_eq!(first(&path).code, "too-large");
    // As some editors save it: with a byte order mark and carriage returns.
    std::fs::write(&path, format!("\u{feff}{SMALL}").replace('\n', "\r\n")).unwrap();
    let recipe = Recipe::load(&path, &[]).unwrap().recipe;
    assert_eq!(recipe.model.path, folder.path().join("m.pt"));
}

#[test]
fn every_key_of_the_schema_is_documented() {
    fn walk(schema: &serde_json::Value, path: &str, count: &mut usize) {
        let properties = schema["properties"].as_object().into_iter().flatten();
        for (key, below) in properties {
            let path = format!("{path}.{key}");
            let described = below["description"].as_str().unwrap_or_default();
            let stated = described.contains("Required.") || described.contains("Default:");
            assert!(stated || below.get("const").is_some(), "{path}: {described}");
            *count += 1;
            walk(below, &path, count);
            walk(&below["items"], &path, count);
        }
        for branch in schema["oneOf"].as_array().into_iter().flatten() {
            walk(branch, path, count);
        }
    }
    let mut count = 0;
    walk(&schema::complete(), "", &mut count);
    assert!(count > 40, "{count}");
}

#[test]
fn a_finding_looks_like_the_compilers() {
    let text = SMALL.replace("length: 1ep", "lenght: 3ep");
    let error = Recipe::parse(&text, "recipes/x.yaml", &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "error[unknown-key]: unknown key `lenght` in stage `train`
 --> recipes/x.yaml:4:25
  |
4 | stages: [{stage: train, lenght: 3ep}]
  |                         ^^^^^^
  = help: did you mean `length`? Known keys: `stage`, `length`, `learning_rate`, `warmup`, `momentum`, `weight_decay`, `label_smoothing`"
    );
}
