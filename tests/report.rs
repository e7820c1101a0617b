//! `dimbit report`: numbers against a calculation by hand, and a page that fetches nothing.

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use common::{Run, dimbit_in, head, number, tiny, write_recipe};
use serde_json::Value as Json;
use tempfile::tempdir;

/// The run that most tests look at.
fn joint() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        // Nothing static is dropped: a fixed folder instead of one more at every call.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report-run");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        Run::within(&folder, &tiny())
    })
}

#[track_caller]
fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{found}, expected {expected}");
}

#[test]
fn the_numbers_are_those_of_a_calculation_by_hand() {
    let summary = joint().summary();
    let json = dimbit_in(&joint().folder, &["report", "run", "--json"]).json();
    let [run] = &json["runs"].as_array().unwrap()[..] else { panic!("{json}") };
    for key in
        ["top1", "bits_per_value", "side_information_bytes", "mac_overhead_percent", "mac_overhead_unfolded_percent"]
    {
        assert_eq!(run[key], summary[key], "{key}");
    }
    let sites = summary["sites"].as_array().unwrap();
    let bits = |site: usize| number(&sites[site], "bits_per_value");

    let values: Vec<f64> = sites.iter().map(|site| number(site, "values")).collect();
    let relu: Vec<(f64, f64)> = (0..sites.len()).map(|site| (values[site], bits(site))).collect();
    // What a fused kernel reads: the stem's codes behind its pool, the block's tensors, of which bn2 is in no site.
    let stored = [(512.0, bits(0)), (256.0, bits(1)), (256.0, 32.0), (256.0, bits(2)), (192.0, bits(3))];
    for (convention, tensors) in [("relu", &relu[..]), ("stored", &stored[..])] {
        let traffic = &run["traffic"][convention];
        assert_eq!(traffic["tensors"], tensors.len());
        let all: f64 = tensors.iter().map(|tensor| tensor.0).sum();
        // Written once and read once.
        near(number(&traffic["bytes"], "float32"), 2.0 * 4.0 * all);
        near(number(&traffic["bytes"], "int8"), 2.0 * all);
        let own = 2.0 * tensors.iter().map(|(values, bits)| values * bits).sum::<f64>();
        near(number(&traffic["bytes"], "run"), own / 8.0);
        near(number(&traffic["dram_microjoules"], "run"), own * 20.0 / 1e6);
        near(number(&traffic["dram_microjoules"], "float32"), 2.0 * 32.0 * all * 20.0 / 1e6);
        let largest = tensors.iter().map(|(values, bits)| values * bits / 8.0).fold(0.0, f64::max);
        near(number(&traffic["largest_tensor_bytes"], "run"), largest);
    }
    assert_eq!(run["traffic"]["stored"]["largest_tensor"], "block.bn2");
    assert!(json["dram_source"].as_str().unwrap().contains("ISSCC 2014"));

    let other = dimbit_in(&joint().folder, &["report", "run", "--json", "--dram-pj-per-bit", "5"]).json();
    let energy = |json: &Json| number(&json["runs"][0]["traffic"]["relu"]["dram_microjoules"], "run");
    near(energy(&json), 4.0 * energy(&other));
    assert!(!other["dram_source"].as_str().unwrap().contains("ISSCC"));
}

/// Requires XML that fetches nothing, and hands back its text.
#[track_caller]
fn checked(page: &str) -> String {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(page, options).unwrap_or_else(|e| panic!("{e}"));
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let tag = node.tag_name().name();
        assert!(!["script", "link", "img", "iframe", "object", "embed", "use", "image"].contains(&tag), "<{tag}>");
        for attribute in node.attributes() {
            assert!(!["src", "href", "srcset", "style"].contains(&attribute.name()), "{attribute:?}");
            // Numbers in pictures are finite.
            assert!(!attribute.value().contains("NaN") && !attribute.value().contains("inf"), "{attribute:?}");
        }
    }
    for loads in ["http:", "https:", "url(", "@import"] {
        assert!(!page.contains(loads), "{loads}");
    }
    let figures = document.descendants().filter(|node| node.has_tag_name("figure"));
    for figure in figures {
        let caption = figure.children().find(|node| node.has_tag_name("figcaption"));
        assert!(caption.and_then(|node| node.text()).is_some_and(|text| text.len() > 40), "a picture has a caption");
        assert!(figure.descendants().any(|node| node.has_tag_name("svg")));
    }
    document.descendants().filter_map(|node| node.text()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_is_whole_and_fetches_nothing() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("page.html");
    let table = dimbit_in(&joint().folder, &["report", "run", "--html", path.to_str().unwrap()]).fine();
    for word in
        ["traffic", "energy", "largest tensor", "float32", "8 bits", "relu", "stored", "ISSCC 2014", "page.html"]
    {
        assert!(table.contains(word), "no `{word}` in\n{table}");
    }
    let page = fs::read_to_string(path).unwrap();
    let text = checked(&page);
    for word in ["block.relu#2", "optimizer steps", "bits per value", "budget (dashed)", "64 validation images", "peak"]
    {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
    // A run leaves its own page.
    assert_eq!(checked(&fs::read_to_string(joint().path().join("report.html")).unwrap()), text);
}

#[test]
fn runs_of_different_networks_stand_side_by_side_and_are_told_apart() {
    let folder = tempdir().unwrap();
    // Names come from the file system.
    let name = "float <b>&\"run\"";
    let recipe = head("spellings-scripted.pt") + "stages:\n  - {stage: train, length: 4st}\n";
    write_recipe(folder.path(), &recipe);
    dimbit_in(folder.path(), &["run", "recipe.yaml", "--out", name, "--quiet"]).fine();
    let other = joint().path();
    let arguments = ["report", name, other.to_str().unwrap(), "--html", "both.html", "--json"];
    let json = dimbit_in(folder.path(), &arguments).json();
    assert_eq!(json["different_models"], true);
    assert_eq!(json["runs"][0]["bits_per_value"], 32.0);
    let traffic = &json["runs"][0]["traffic"]["relu"]["bytes"];
    assert_eq!(traffic["run"], traffic["float32"]);
    let text = checked(&fs::read_to_string(folder.path().join("both.html")).unwrap());
    assert!(text.contains(name) && text.contains("A float run") && text.contains("different model files"), "{text}");
}

#[test]
fn folders_that_are_no_finished_run_are_refused() {
    let folder = tempdir().unwrap();
    let cut_off = folder.path().join("cut-off");
    dimbit_in(folder.path(), &["report", "absent"]).refused(1, &["absent does not exist", "help:"]);
    fs::create_dir(&cut_off).unwrap();
    for name in ["recipe.resolved.yaml", "metrics.jsonl"] {
        fs::copy(joint().path().join(name), cut_off.join(name)).unwrap();
    }
    let page = folder.path().join("page.html");
    let page = page.to_str().unwrap();
    let good = joint().path();
    let good = good.to_str().unwrap();
    dimbit_in(folder.path(), &["report", good, "cut-off", "--html", page])
        .refused(1, &["cut-off", "summary.json", "missing"]);
    fs::write(cut_off.join("summary.json"), "{}").unwrap();
    dimbit_in(folder.path(), &["report", "cut-off"]).refused(1, &["cut-off", "missing"]);
    dimbit_in(folder.path(), &["report", good, "--html", "no/such/folder/page.html"])
        .refused(1, &["cannot write", "page.html"]);
    for energy in ["0", "-1", "nan", "much"] {
        let option = format!("--dram-pj-per-bit={energy}");
        assert_eq!(dimbit_in(folder.path(), &["report", good, &option]).code, Some(2), "{energy}");
    }
    assert_eq!(dimbit_in(folder.path(), &["report"]).code, Some(2));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["cut-off"], "nothing half-written stays");
}
