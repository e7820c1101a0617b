//! What a reader who knows no more than README and `--help` is told where things are not as thought: where paths start, what
//! is counted, and, of every error, what to do; the same for programs.

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use common::{Run, dimbit_in, fixture, head, images, number, stages, tiny, write_recipe};
use tempfile::{TempDir, tempdir};

/// Widths fixed at 4 bits, without training.
const FIXED: &str = "stages:\n  - {stage: calibrate, images: 128, sensitivity_images: 64, transform: none, bits: 4}\n";

/// A finished run that leaves one of its network's four sites out.
fn excluding() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| Run::of(&format!("{}sites: {{exclude: [mixer.*]}}\n{FIXED}", head("tiny-scripted.pt"))))
}

/// A folder with a recipe in a folder of its own, and what `arguments` lead to in it.
fn with(recipe: &str) -> TempDir {
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("recipes")).unwrap();
    write_recipe(&folder.path().join("recipes"), recipe);
    folder
}

#[test]
fn a_path_starts_where_it_is_written() {
    let folder = with(&tiny().replace(images().to_str().unwrap(), "../images"));
    let at = |name: &str| folder.path().join(name);
    let validate = |set: &[&str]| {
        let arguments = [&["validate", "recipes/recipe.yaml"][..], set].concat();
        dimbit_in(folder.path(), &arguments)
    };
    // Neither is there: each says where it starts, and the recipe's own has no `..` in it.
    let shown = folder.path().display();
    validate(&[]).refused(
        1,
        &[
            &format!("there is no folder {shown}/images"),
            &format!(
                "{shown} has no `images`: it has `recipes`; a relative path in a recipe starts at the recipe's folder"
            ),
        ],
    );
    validate(&["--set", "data.path=pictures"]).refused(
        1,
        &[
            &format!("there is no folder {shown}/pictures"),
            "--> --set data.path=pictures",
            "a relative path on the command line starts at the current folder",
        ],
    );
    std::os::unix::fs::symlink(images(), at("images")).unwrap();
    validate(&[]).fine();
    fs::rename(at("images"), at("pictures")).unwrap();
    validate(&["--set", "data.path=pictures"]).fine();
    let absent = dimbit_in(folder.path(), &["validate", "recipes/recpie.yaml"]);
    absent.refused(1, &["error[unreadable]", "recipes/recpie.yaml", "did you mean recipes/recipe.yaml?"]);
    validate(&[]).refused(1, &["images"]);
    // What lies beside it under nearly that name is named.
    validate(&["--set", "data.path=pictrues"]).refused(1, &[&format!("did you mean {shown}/pictures?")]);
    let help = dimbit_in(folder.path(), &["run", "--help"]).fine().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains("Relative paths here start at the current folder, those in a recipe at the recipe's"),
        "{help}"
    );
}

#[test]
fn null_returns_a_key_to_its_default() {
    let recipe = format!("{}sites: {{exclude: [nothing]}}\n{}", head("tiny-scripted.pt"), stages(2.5));
    let folder = with(&recipe);
    let explain = |set: &[&str]| {
        let sets = set.iter().flat_map(|set| ["--set", set]);
        dimbit_in(folder.path(), &["explain", "recipes/recipe.yaml"].into_iter().chain(sets).collect::<Vec<_>>())
    };
    let plain = explain(&[]).fine();
    assert!(plain.contains("seed: 3") && plain.contains("sites  *, without nothing"), "{plain}");
    let reset = explain(&["sites=null", "seed=null", "stages.train.momentum=", "stages.finetune=null"]).fine();
    assert!(reset.contains("seed: 0") && reset.contains("sites  *\n") && !reset.contains("finetune"), "{reset}");
    assert!(explain(&["sites.exclude.0=null"]).fine().contains("sites  *\n"));
    // What has no default, or is no key, is still refused.
    explain(&["model.path=null"]).refused(1, &["`path` in `model` must be text", "found nothing"]);
    explain(&["sties=null"]).refused(1, &["unknown key `sties`", "did you mean `sites`?"]);
}

#[test]
fn a_plain_network_is_measured_whatever_the_recipe_says_of_another_one() {
    let sites = "sites: {exclude: [trunk.*]}\n";
    let folder = with(&format!("{}{sites}{}", head("tiny-scripted.pt").replace("tiny-scripted", "gone"), stages(2.5)));
    let model = fixture("tiny-scripted.pt");
    let eval = |model: &Path| {
        let model = model.to_str().unwrap();
        dimbit_in(folder.path(), &["eval", model, "--recipe", "recipes/recipe.yaml", "--json"])
    };
    assert_eq!(number(&eval(&model).json(), "bits_per_value"), 32.0);
    // A file that isn't there is the command line's mistake, not the recipe's.
    let wrong = eval(&fixture("tiny-scriptde.pt"));
    let finding = wrong.refused_as_json(1, &["can't read the model file", "did you mean", "tiny-scripted.pt?"]);
    assert_eq!((&finding["code"], finding["line"].is_null()), (&"bad-model".into(), true));
}

#[test]
fn sites_that_are_left_out_are_counted_and_shown_so() {
    let run = excluding();
    let summary = run.summary();
    assert_eq!(summary["sites"].as_array().unwrap().len(), 4);
    let fine = dimbit_in(&run.folder, &["validate", "recipe.yaml"]).fine();
    assert!(fine.contains("uniform mode, 3 of 4 sites, 4000 training"), "{fine}");
    let json = dimbit_in(&run.folder, &["validate", "recipe.yaml", "--json"]).json();
    assert_eq!((&json["sites"], &json["sites_left_out"]), (&4.into(), &1.into()));
    let again = dimbit_in(&run.folder, &["run", "recipe.yaml", "--out", "again"]);
    for line in ["tiny-scripted.pt: 3 of 4 sites, ", "calibrated on 128 images: 3 of 4 sites, "] {
        assert!(again.stderr.contains(line), "{}", again.stderr);
    }
    let table = again.fine();
    let row = table.lines().find(|line| line.starts_with("mixer.relu6")).unwrap();
    assert!(row.contains("none       left out"), "{table}");
    assert!(table.contains("\n3 of 4 sites "), "{table}");
}

#[test]
fn every_error_is_an_object_for_programs() {
    let run = excluding();
    let call = |arguments: &[&str]| dimbit_in(&run.folder, &[arguments, &["--json"]].concat());
    // What a recipe asks for, at its place; and for people at the same place.
    let device = tiny().replace("device: cpu", "device: cuda:99").replace("3x32x32", "3x16x16");
    fs::write(run.folder.join("device.yaml"), &device).unwrap();
    for arguments in [
        &["run", "device.yaml"][..],
        &["eval", fixture("tiny-scripted.pt").to_str().unwrap(), "--recipe", "device.yaml"],
    ] {
        let ended = call(arguments);
        let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let codes: Vec<_> = found["findings"].as_array().unwrap().iter().map(|finding| &finding["code"]).collect();
        assert_eq!(codes, ["no-device", "bad-data"], "{found:#}");
        let place = &found["findings"][0];
        assert_eq!((&place["file"], &place["line"], &place["column"]), (&"device.yaml".into(), &4.into(), &9.into()));
        assert!(ended.stderr.contains("error[no-device]: device `cuda:99`") && ended.code == Some(1), "{ended:?}");
    }
    let ended = call(&["validate", "device.yaml"]);
    assert!(ended.stderr.is_empty() && ended.stdout.contains("no-device"), "{ended:?}");
    // About a file or folder.
    let finding = call(&["report", "absent"]).refused_as_json(1, &["absent does not exist"]);
    assert_eq!((&finding["code"], &finding["file"]), (&"not-a-run".into(), &"absent".into()));
    let finding = call(&["pack", "run", "--images", "5000"]).refused_as_json(1, &["5000 images are asked for"]);
    assert_eq!((&finding["code"], &finding["file"]), (&"too-few-images".into(), &serde_json::Value::Null));
    assert_eq!(finding["help"], "give --images a number from 1 to 1000");
    let finding = call(&["run", "recipe.yaml", "--out", "run"]).refused_as_json(1, &["there is a run in the folder"]);
    assert_eq!((&finding["code"], &finding["file"]), (&"bad-folder".into(), &"run".into()));
    // A command line that can't be understood.
    let finding = call(&["run", "recipe.yaml", "--set", "nonsense"]).refused_as_json(2, &["KEY.PATH=VALUE"]);
    assert_eq!(finding["code"], "usage");
    assert!(finding["help"].as_str().unwrap().contains("--help"), "{finding:#}");
}

#[test]
fn more_images_than_there_are_is_a_finding() {
    let folder = with(&tiny().replace("images: 128, sensitivity_images: 64", "images: 4001, sensitivity_images: 9000"));
    let validate = |set: &[&str]| {
        let arguments = [&["validate", "recipes/recipe.yaml"][..], set].concat();
        dimbit_in(folder.path(), &arguments)
    };
    validate(&[]).refused(
        1,
        &[
            "error[too-few-images]: `images` asks for 4001 training images, but there are 4000",
            "recipes/recipe.yaml:9:32",
            "`sensitivity_images` asks for 9000",
            "recipes/recipe.yaml:9:58",
            "its default is 2048, or all there are",
        ],
    );
    // The defaults mean all images where there are fewer, also in the recipe that a run keeps.
    let few = tiny().replace(&format!("kind: idx, path: {}", images().display()), "kind: synthetic, images: 600");
    let few = few.replace("images: 128, sensitivity_images: 64", "transform: none");
    write_recipe(&folder.path().join("recipes"), &few);
    validate(&[]).fine();
    let resolved = dimbit_in(folder.path(), &["explain", "recipes/recipe.yaml"]).fine();
    let resolved = resolved.split("\nrecipe ").next().unwrap();
    write_recipe(&folder.path().join("recipes"), resolved);
    validate(&[]).fine();
}

#[test]
fn explain_says_why_it_does_not_know() {
    let folder = with(&tiny().replace(images().to_str().unwrap(), "../nowhere"));
    let said = dimbit_in(folder.path(), &["explain", "recipes/recipe.yaml"]).fine();
    let shown = folder.path().display();
    let why = format!(
        "\n?  not known, as the training images can't be counted: there is no folder {shown}/nowhere\n   \
         help: {shown} has no `nowhere`: it has `recipes`; "
    );
    assert!(said.contains(&why), "{said}");
    assert!(said.contains("search     20st    ?       20 "), "{said}");
}

#[test]
fn files_without_a_folder_are_refused_by_their_own_names() {
    let run = excluding();
    let logits = ["eval", "run", "--logits", "gone/x.safetensors"];
    for arguments in [
        &["export", "run", "--format", "torchscript", "--out", "gone/x.pt"][..],
        &["export", "run", "--format", "onnx", "--out", "gone/x.onnx"],
        &["pack", "run", "--out", "gone/x.dimbit"],
        &["report", "run", "--html", "gone/x.html"],
        &logits,
    ] {
        let file = arguments.last().unwrap();
        let said =
            format!("error: cannot write {file}: there is no folder gone\n  help: make it (`mkdir -p gone`), or ");
        let ended = dimbit_in(&run.folder, arguments);
        assert!(!ended.stderr.contains("tmp"), "{ended:?}");
        ended.refused(1, &[&said]);
    }
}

#[test]
fn shapes_that_are_none_are_answered_by_an_example() {
    let model = fixture("tiny-scripted.pt");
    let model = model.to_str().unwrap();
    for command in ["inspect", "bench"] {
        let ended = dimbit_in(Path::new("/"), &[command, model, "--input", "3x32"]);
        ended.refused(2, &["'--input <CxHxW>'", "for example `3x32x32`"]);
    }
    let ended = dimbit_in(Path::new("/"), &["bench", model, "--input", "3x32x32", "--device", "gpu"]);
    ended.refused(2, &["`gpu` is not a device", "`cuda:1`"]);
    let help = dimbit_in(Path::new("/"), &["inspect", "--help"]).fine();
    assert!(help.contains("such as 3x224x224") && help.contains("The column `folds` says"), "{help}");
}

#[test]
fn folders_without_a_run_are_answered_by_those_with_one() {
    let run = excluding();
    let look =
        "a run's folder holds run.json, recipe.resolved.yaml, checkpoints/ and, at its end, summary.json; nearby: ";
    fs::create_dir_all(run.folder.join("other")).unwrap();
    for (what, why) in
        [("other", "other is no run's folder"), ("rnu", "rnu does not exist"), (".", ". is no run's folder")]
    {
        for command in ["report", "eval", "pack"] {
            let ended = dimbit_in(&run.folder, &[command, what]);
            ended.refused(1, &[why, look, "run"]);
        }
    }
    let alone = tempdir().unwrap();
    dimbit_in(alone.path(), &["report", "."])
        .refused(1, &["there is none nearby; `dimbit run RECIPE --out DIR` makes one"]);
    // A run that has not ended says how it goes on.
    let begun = alone.path().join("begun");
    fs::create_dir(&begun).unwrap();
    for name in ["run.json", "recipe.resolved.yaml"] {
        fs::copy(run.path().join(name), begun.join(name)).unwrap();
    }
    dimbit_in(alone.path(), &["report", "begun"]).refused(1, &["begun/summary.json", "dimbit run --resume --out DIR"]);
}
