//! `dimbit run` and `dimbit eval` from end to end, on a tiny network and few steps.

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use common::logs::copy;
use common::{Run, dimbit_in, fixture, head, number, read_json, recounted, stages, tiny, write_recipe};
use dimbit::recipe::Recipe;
use serde_json::Value as Json;
use tempfile::tempdir;

/// The run that most tests look at.
fn joint() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        // Nothing static is dropped: a fixed folder instead of one more at every call.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("joint-run");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        Run::within(&folder, &tiny())
    })
}

/// What two runs of one recipe must share: everything but the time.
fn without_time(mut summary: Json) -> Json {
    for key in ["seconds", "images_per_second"] {
        assert!(summary.as_object_mut().unwrap().remove(key).is_some());
    }
    summary
}

#[test]
fn the_summary_keeps_what_is_promised() {
    let summary = joint().summary();
    for key in [
        "status",
        "mode",
        "float_top1",
        "top1",
        "bits_per_value",
        "bits_per_value_stored",
        "bits_per_value_entropy",
        "target_bits",
        "dropped_fraction",
        "side_information_bytes",
        "mac_overhead_percent",
        "sites",
        "images_per_second",
        "seconds",
        "seed",
    ] {
        assert!(!summary[key].is_null(), "`{key}` is missing");
    }
    assert_eq!(summary["status"], "complete");
    assert_eq!(summary["mode"], "joint");
    assert_eq!(summary["seed"], 3);
    assert_eq!(summary["target_bits"], 2.5);
    assert_eq!(summary["macs"], 140_408);
    let names: Vec<_> = summary["sites"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["relu", "block.relu", "block.relu#2", "mixer.relu6"]);
    for key in ["float_top1", "top1"] {
        assert!((0.0..=100.0).contains(&number(&summary, key)));
        // 1,000 images: a tenth of a percent each.
        let images = number(&summary, key) * 10.0;
        assert!((images - images.round()).abs() < 1e-9, "the whole validation split counts");
    }
    // On stdout the same, and nothing else.
    let printed: Json = serde_json::from_str(&joint().ended.stdout).unwrap();
    assert_eq!(printed, summary);
}

#[test]
fn the_budget_is_met_and_the_groups_say_so() {
    let summary = joint().summary();
    let bits = number(&summary, "bits_per_value");
    assert!(bits <= 2.5, "{bits}");
    assert!((recounted(&summary) - bits).abs() < 1e-6);
    // An ideal coder never needs more than the fixed length. (Side information is in neither.)
    let entropy = number(&summary, "bits_per_value_entropy");
    assert!(entropy > 0.0 && entropy <= bits, "{entropy}");
    for group in summary["sites"].as_array().unwrap().iter().flat_map(|s| s["groups"].as_array().unwrap()) {
        let bits = number(group, "bits");
        assert!(bits.fract() == 0.0 && (0.0..=8.0).contains(&bits), "{group}");
        if bits > 0.0 {
            assert!(number(group, "step") > 0.0 && number(group, "range") >= number(group, "step") / 2.0, "{group}");
        }
    }
    assert!((0.0..1.0).contains(&number(&summary, "dropped_fraction")));
    // Four sites are all of tiny's: of the stored tensors (1,472 values) block.bn2 (256) is in no site and counts 32 bits.
    // The stem's codes are stored after its pool: 512 values.
    let site = |index: usize| number(&summary["sites"][index], "bits_per_value");
    let stored = (512.0 * site(0) + 256.0 * site(1) + 256.0 * 32.0 + 256.0 * site(2) + 192.0 * site(3)) / 1472.0;
    assert!((stored - number(&summary, "bits_per_value_stored")).abs() < 1e-6);
}

#[test]
fn an_evaluation_of_the_folder_gives_the_same_numbers() {
    let (summary, found) = (joint().summary(), joint().eval());
    assert_eq!(found["images"], 1000);
    for key in ["top1", "bits_per_value", "bits_per_value_stored", "bits_per_value_entropy"] {
        assert_eq!(found[key], summary[key], "{key}");
    }
}

#[test]
fn a_moved_folder_evaluates_alike() {
    let elsewhere = tempdir().unwrap();
    let moved = elsewhere.path().join("moved");
    copy(&joint().path(), &moved);
    assert_eq!(dimbit_in(elsewhere.path(), &["eval", "moved", "--json"]).json(), joint().eval());
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let first = without_time(joint().summary());
    assert_eq!(first, without_time(Run::of(&tiny()).summary()));
    let other = without_time(Run::of(&tiny().replace("seed: 3", "seed: 4")).summary());
    assert_ne!(first["sites"], other["sites"]);
}

#[test]
fn the_folder_has_what_is_promised() {
    let summary = joint().summary();
    let folder = joint().path();
    assert_eq!(fs::read_to_string(folder.join("recipe.yaml")).unwrap(), tiny());
    let resolved = Recipe::load(&folder.join("recipe.resolved.yaml"), &[]).unwrap().recipe;
    let given = Recipe::load(&folder.join("recipe.yaml"), &[]).unwrap().recipe;
    assert_eq!(resolved, given);

    let about = read_json(&folder.join("run.json"));
    for key in ["model_sha256", "recipe_sha256", "dimbit_version", "seed"] {
        assert_eq!(about[key], summary[key], "{key}");
    }
    let digest = about["model_sha256"].as_str().unwrap();
    assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(about["device"], "cpu");

    let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let events: Vec<Json> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| events.iter().filter(|e| e["event"] == name).collect::<Vec<_>>();
    assert_eq!(events.first().unwrap()["event"], "run_started");
    assert_eq!(events.last().unwrap()["event"], "finished");
    let started: Vec<_> = named("stage_started").iter().map(|e| e["stage"].as_str().unwrap().to_owned()).collect();
    assert_eq!(started, ["train", "calibrate", "search", "finetune"]);
    assert_eq!(named("stage_ended").len(), 4);
    for step in named("step") {
        assert!(step["loss"]["task"].as_f64().is_some_and(f64::is_finite), "{step}");
    }
    let last = named("evaluated").last().unwrap()["top1"].clone();
    assert_eq!(last, summary["top1"]);
    assert!(fs::read_dir(folder.join("tensorboard")).unwrap().count() > 0);
    assert!(fs::read_to_string(folder.join("report.html")).unwrap().ends_with("</html>\n"));
}

#[test]
fn a_low_target_is_met_as_well() {
    let run = Run::of(&(head("tiny-scripted.pt") + &stages(0.3)));
    let summary = run.summary();
    assert_eq!(summary["status"], "complete");
    assert!(number(&summary, "bits_per_value") <= 0.3);
    assert!((recounted(&summary) - number(&summary, "bits_per_value")).abs() < 1e-6);
    assert!(number(&summary, "dropped_fraction") > 0.5, "below a bit, most values must be dropped");
    let found = run.eval();
    assert_eq!((&found["top1"], &found["bits_per_value"]), (&summary["top1"], &summary["bits_per_value"]));
}

#[test]
fn a_run_that_diverges_ends_with_4_and_names_the_stage() {
    for (stage, recipe) in [
        ("train", tiny().replace("length: 12st", "length: 12st, learning_rate: 1.0e+30")),
        ("search", tiny().replace("target_bits: 2.5", "target_bits: 2.5, start_bits: 3, learning_rate: 1.0e+30")),
    ] {
        let run = Run::of(&recipe);
        assert_eq!(read_json(&run.path().join("summary.json"))["status"], "diverged");
        // The metrics tell how it went until then.
        let metrics = fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
        assert!(metrics.lines().count() > 1);
        for line in metrics.lines() {
            serde_json::from_str::<Json>(line).unwrap();
        }
        run.ended.refused_as_json(4, &[&format!("stage `{stage}`"), "loss", "learning_rate"]);
    }
}

#[test]
fn a_float_run_compresses_nothing() {
    let run = Run::of(&(head("tiny-scripted.pt") + "stages: [{stage: train, length: 10st}]\n"));
    let summary = run.summary();
    assert_eq!(summary["mode"], "float");
    assert_eq!(summary["status"], "complete");
    assert_eq!(summary["float_top1"], summary["top1"]);
    assert_eq!(number(&summary, "bits_per_value"), 32.0);
    assert!(summary["target_bits"].is_null() && summary["bits_per_value_entropy"].is_null());
    let found = run.eval();
    assert_eq!(found["top1"], summary["top1"]);
    // The trained network stands on its own: as a plain file it is as good as the run.
    let arguments = ["eval", "run/checkpoints/float.pt", "--recipe", "recipe.yaml", "--json"];
    assert_eq!(dimbit_in(&run.folder, &arguments).json()["top1"], summary["top1"]);
}

#[test]
fn a_traced_network_is_compressed_without_training_first() {
    let stages = stages(3.0).replace("  - {stage: train, length: 12st}\n", "");
    let run = Run::of(&(head("tiny-traced.pt") + &stages));
    let summary = run.summary();
    assert_eq!(summary["status"], "complete");
    assert!(number(&summary, "bits_per_value") <= 3.0);
    assert_eq!(run.eval()["top1"], summary["top1"]);
}

#[test]
fn an_excluded_site_counts_as_uncompressed() {
    // 192 of 2,752 values at 32 bits are 2.233 bits per value on their own.
    let recipe = format!("{}sites: {{exclude: [mixer.*]}}\n{}", head("tiny-scripted.pt"), stages(4.0));
    let run = Run::of(&recipe);
    let summary = run.summary();
    let bits = number(&summary, "bits_per_value");
    assert!(bits <= 4.0 && bits > 192.0 * 32.0 / 2752.0, "{bits}");
    assert!((recounted(&summary) - bits).abs() < 1e-6);
    let excluded = &summary["sites"][3];
    assert_eq!(excluded["name"], "mixer.relu6");
    assert_eq!(number(excluded, "bits_per_value"), 32.0);
    assert_eq!(excluded["groups"], Json::Array(Vec::new()));
    let found = run.eval();
    for key in ["top1", "bits_per_value", "bits_per_value_entropy"] {
        assert_eq!(found[key], summary[key], "{key}");
    }
}

#[test]
fn a_budget_that_the_excluded_sites_alone_exceed_is_refused() {
    // 2,048 of 2,752 values at 32 bits: 2 bits per value are out of reach, whatever becomes of the others.
    let recipe = format!("{}sites: {{exclude: [relu]}}\n{}", head("tiny-scripted.pt"), stages(2.0));
    let run = Run::of(&recipe);
    assert!(!run.path().exists(), "refused before anything is written");
    run.ended.refused_as_json(1, &["unreachable-target", "23.81", "target_bits"]);
}

#[test]
fn every_transform_and_placement_runs() {
    for calibrate in [
        "transform: pca, placement: after",
        "transform: pca, placement: before",
        "transform: none",
        "transform: none, max_groups: 1",
    ] {
        let recipe = tiny().replace("sensitivity_images: 64", &format!("sensitivity_images: 64, {calibrate}"));
        let run = Run::of(&recipe);
        let summary = run.summary();
        assert!(number(&summary, "bits_per_value") <= 2.5, "{calibrate}");
        assert!((recounted(&summary) - number(&summary, "bits_per_value")).abs() < 1e-6, "{calibrate}");
        let transforms = summary["sites"].as_array().unwrap().iter().map(|s| s["transform"].as_str().unwrap());
        let expected = if calibrate.contains("pca") { "pca" } else { "none" };
        assert!(transforms.into_iter().all(|t| t == expected), "{calibrate}");
        assert_eq!(run.eval()["top1"], summary["top1"], "{calibrate}");
    }
}

#[test]
fn every_spelling_of_an_activation_function_is_compressed() {
    for (model, train) in [("spellings-scripted.pt", true), ("spellings-traced.pt", false)] {
        let mut stages = stages(3.0).replace("length: 20st", "length: 6st").replace("length: 8st", "length: 2st");
        if !train {
            stages = stages.replace("  - {stage: train, length: 12st}\n", "");
        }
        let run = Run::of(&(head(model) + &stages));
        let summary = run.summary();
        assert!(number(&summary, "bits_per_value") <= 3.0, "{model}");
        assert_eq!(summary["sites"].as_array().unwrap().len(), 27);
        assert!((recounted(&summary) - number(&summary, "bits_per_value")).abs() < 1e-6);
        assert_eq!(run.eval()["top1"], summary["top1"], "{model}");
    }
}

#[test]
fn settings_on_the_command_line_count() {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &tiny());
    let model = format!("model.path={}", fixture("tiny-scripted.pt").display());
    let arguments =
        ["run", "recipe.yaml", "--quiet", "--set", "stages.search.target_bits=3", "--set", "seed=8", "--set", &model];
    dimbit_in(folder.path(), &arguments).fine();
    dimbit_in(folder.path(), &arguments).fine();
    // Without --out, the first free folder.
    for name in ["tiny", "tiny-2"] {
        let summary = read_json(&folder.path().join("runs").join(name).join("summary.json"));
        assert_eq!((number(&summary, "target_bits"), &summary["seed"]), (3.0, &Json::from(8)));
    }
}

#[test]
fn the_training_images_can_be_measured_too() {
    let run = joint();
    let found = dimbit_in(&run.folder, &["eval", "run", "--split", "train", "--json"]).json();
    assert_eq!(found["images"], 4000);
    assert_eq!(found["bits_per_value"], run.summary()["bits_per_value"]);
    assert_eq!(run.eval()["images"], 1000);
}

#[test]
fn widths_follow_a_budget_that_falls_fast() {
    // 7 bits in 17 of 20 steps: no group learns that fast, so the cheapest give way, and never more than they must.
    let run = Run::of(&tiny().replace("target_bits: 2.5", "target_bits: 1"));
    let events = fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
    let steps = events.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let mut searched = 0;
    for step in steps.filter(|event| event["event"] == "step" && event["stage"] == "search") {
        let (bits, budget) = (number(&step, "bits"), number(&step, "budget_bits"));
        assert!(bits <= budget + 1e-9 && bits > 0.7 * budget, "{bits} of {budget}");
        searched += 1;
    }
    assert!(searched > 0);
}

#[test]
fn a_target_below_the_least_width_empties_sites_and_still_ends_well() {
    // One group a site and PCA everywhere: the least width is 2 bits, so 1.5 can only be met by dropping whole sites.
    let stages = stages(1.5).replace("images: 128", "transform: pca, max_groups: 1, images: 128");
    let run = Run::of(&format!("{}{stages}", head("tiny-scripted.pt")));
    let summary = run.summary();
    assert_eq!(summary["status"], "complete");
    assert!(number(&summary, "bits_per_value") <= 1.5);
    assert_eq!(run.eval()["top1"], summary["top1"]);
}
