//! Every mode of the paper's tables, and every option of the method, from end to end on a tiny network and few steps.

mod common;

use common::{Run, head, number, recounted, tiny};
use serde_json::Value as Json;

/// A recipe with these keys of the calibration, and with this search or none.
fn recipe(calibrate: &str, search: Option<&str>) -> String {
    let search = search.map(|keys| format!("  - {{stage: search, length: 20st, {keys}}}\n")).unwrap_or_default();
    format!(
        "{}stages:\n  - {{stage: train, length: 12st}}\n  - {{stage: calibrate, images: 128, sensitivity_images: 64{calibrate}}}\n{search}  - {{stage: finetune, length: 8st}}\n",
        head("tiny-scripted.pt")
    )
}

fn groups(summary: &Json) -> impl Iterator<Item = &Json> {
    summary["sites"].as_array().unwrap().iter().flat_map(|site| site["groups"].as_array().unwrap())
}

/// Runs a mode and checks what holds for all of them.
#[track_caller]
fn mode(name: &str, calibrate: &str, search: Option<&str>) -> Json {
    let run = Run::of(&recipe(calibrate, search));
    let summary = run.summary();
    assert_eq!((&summary["mode"], &summary["status"]), (&Json::from(name), &Json::from("complete")));
    if let Some(target) = summary["target_bits"].as_f64() {
        assert!(number(&summary, "bits_per_value") <= target, "{name}");
    }
    assert!((recounted(&summary) - number(&summary, "bits_per_value")).abs() < 1e-6, "{name}");
    let found = run.eval();
    for key in ["top1", "bits_per_value", "bits_per_value_stored", "bits_per_value_entropy"] {
        assert_eq!(found[key], summary[key], "{name}: {key}");
    }
    summary
}

#[test]
fn every_shipped_mode_is_the_mode_of_its_name() {
    let folder = common::root().join("recipes/fashion-mnist/modes");
    for name in ["float", "uniform", "mp", "mp_grouped", "dr_only", "dr_then_mp", "joint"] {
        let loaded = dimbit::recipe::Recipe::load(&folder.join(format!("{name}.yaml")), &[]).unwrap();
        assert_eq!(loaded.recipe.mode().to_string(), name);
        assert!(loaded.source.files().len() == 2, "extends the one base");
    }
}

#[test]
fn uniform_has_one_width_and_no_budget() {
    let summary = mode("uniform", ", transform: none, max_groups: 1, bits: 3", None);
    assert!(groups(&summary).all(|group| group["bits"] == 3));
    assert_eq!(groups(&summary).count(), 4);
    assert_eq!((number(&summary, "bits_per_value"), &summary["target_bits"]), (3.0, &Json::Null));
}

#[test]
fn mixed_precision_has_one_group_a_site_and_drops_nothing() {
    let summary = mode("mp", ", transform: none, max_groups: 1", Some("target_bits: 2.5"));
    assert_eq!(groups(&summary).count(), 4);
    assert_eq!(number(&summary, "dropped_fraction"), 0.0);
}

#[test]
fn steps_stay_at_the_scale_of_the_values_at_the_least_width() {
    // The budget goes on pushing a group that has no bit left to give: its step must not drift away for that.
    let text = recipe(", transform: none, max_groups: 1", Some("target_bits: 1.1, start_bits: 2"));
    let summary = Run::of(&text.replace("length: 20st", "length: 200st")).summary();
    for group in groups(&summary) {
        // Batch normalisation keeps pre-activations within a few units.
        assert!((0.05..8.0).contains(&number(group, "range")), "{group}");
    }
}

#[test]
fn grouped_mixed_precision_has_no_transform() {
    let summary = mode("mp_grouped", ", transform: none", Some("target_bits: 1.2"));
    assert!(groups(&summary).count() > 4);
    assert_eq!(number(&summary, "mac_overhead_percent"), 0.0);
}

#[test]
fn dimension_reduction_alone_keeps_one_width() {
    let summary = mode("dr_only", ", transform: pca, bits: 8, target_bits: 3", None);
    assert!(groups(&summary).all(|group| group["bits"] == 8 || group["bits"] == 0));
    assert!(number(&summary, "dropped_fraction") >= 5.0 / 8.0);
    assert!(number(&summary, "bits_per_value") > 2.5, "no more is dropped than the target asks for");
}

#[test]
fn what_is_reduced_first_stays_reduced_and_the_rest_stays() {
    let summary = mode("dr_then_mp", ", transform: pca, kept: 0.6", Some("target_bits: 2.5"));
    let dropped = number(&summary, "dropped_fraction");
    // Ranks are whole: a little more than 0.4 may be dropped, and no search adds to it.
    assert!((0.4..0.5).contains(&dropped), "{dropped}");
}

#[test]
fn joint_learns_its_bases_where_the_recipe_says_so() {
    let mut reached = Vec::new();
    for basis in ["fixed", "tied", "apart"] {
        let keys = format!(", transform: pca, basis: {basis}");
        let summary = mode("joint", &keys, Some("target_bits: 2.5"));
        reached.push((summary["top1"].clone(), summary["bits_per_value_entropy"].clone()));
    }
    assert!(reached[0] != reached[1] && reached[1] != reached[2], "{reached:?}");
}

#[test]
fn blocks_cost_less_than_the_whole_basis() {
    let compute = |keys: &str| {
        let summary = mode("joint", keys, Some("target_bits: 4"));
        let name = if keys.contains("block") { "block" } else { "pca" };
        assert!(summary["sites"].as_array().unwrap().iter().all(|site| site["transform"] == name));
        number(&summary, "mac_overhead_unfolded_percent")
    };
    assert!(compute(", transform: block, block_channels: 4") < 0.6 * compute(", transform: pca"));
}

#[test]
fn the_transforms_stay_within_their_multiply_accumulates() {
    for limit in [0.0, 3.0, 9.0] {
        for placement in ["before", "auto"] {
            let least = if limit > 8.0 { 1.0 } else { 0.0 };
            let keys = format!(", block_channels: 4, placement: {placement}, max_mac_overhead: {limit}");
            let summary = mode("joint", &keys, Some("target_bits: 2.5"));
            let taken = number(&summary, "mac_overhead_percent");
            assert!((least..=limit).contains(&taken), "{taken} of {limit}, {placement}");
            assert!(
                number(&summary, "mac_overhead_percent") <= number(&summary, "mac_overhead_unfolded_percent"),
                "folding saves"
            );
        }
    }
}

#[test]
fn every_option_of_the_method_runs_and_changes_the_result() {
    // The curve is of consequence where the budget falls.
    let plain = mode("joint", "", Some("target_bits: 1.5, start_bits: 8"));
    for (calibrate, search) in [
        (", partition: equal_energy", ""),
        (", partition: equal_size", ""),
        (", initial_ranges: max", ""),
        ("", ", entropy_weight: 0.3"),
        ("", ", start_bits: 1.5"),
        ("", ", anneal: linear"),
        ("", ", batch_norm: frozen"),
        ("", ", batch_norm: reestimated"),
        ("", ", distillation: 0"),
    ] {
        let start = if search.contains("start_bits") { "" } else { ", start_bits: 8" };
        let summary = mode("joint", calibrate, Some(&format!("target_bits: 1.5{start}{search}")));
        assert!(
            summary["sites"] != plain["sites"] || summary["top1"] != plain["top1"],
            "{calibrate}{search} changed nothing"
        );
    }
}

#[test]
fn the_entropy_term_shortens_the_codes() {
    let entropy = |weight: f64| {
        let text = recipe("", Some(&format!("target_bits: 4, entropy_weight: {weight}")));
        let text = text.replace("length: 8st", &format!("length: 60st, entropy_weight: {weight}"));
        number(&Run::of(&text).summary(), "bits_per_value_entropy")
    };
    let (without, with) = (entropy(0.0), entropy(1.0));
    assert!(with < 0.95 * without, "{with} against {without}");
}

#[test]
fn dropped_groups_come_back_where_the_budget_lets_them() {
    // At first 0.9 bits have to do, then the target is the same and the weights have learned with what was dropped: the
    // loss asks for some of it. A long search at a high rate of the quantizers drops and revives. Mid-tread codes drop more,
    // since one bit is too little for them.
    let text = tiny()
        .replace("seed: 3", "seed: 5")
        .replace("stage: calibrate,", "stage: calibrate, codes: mid_tread,")
        .replace("length: 20st, target_bits: 2.5", "length: 120st, target_bits: 2.25, start_bits: 2.25")
        .replace("length: 12st", "length: 120st");
    let run = Run::of(&text);
    run.summary();
    let events = std::fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
    let off = Run::of(&text.replace("start_bits: 2.25", "start_bits: 2.25, revival: false"));
    let silent = std::fs::read_to_string(off.path().join("metrics.jsonl")).unwrap();
    assert!(events.contains("\"revived\"") && !silent.contains("\"revived\""), "{events}");
    let dropped = |run: &Run| number(&run.summary(), "dropped_fraction");
    assert!(dropped(&run) < dropped(&off), "what came back is still there in the end");
}
