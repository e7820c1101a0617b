//! What a run shows in TensorBoard, read back by TensorBoard's own reader, against what docs/monitoring.md promises.

mod common;

use std::fs;
use std::process::Command;

use common::{Run, head, root};
use serde_json::Value as Json;

/// What `tests/read_events.py` finds; none, with a note, where `.venv` isn't set up.
fn read_back(run: &Run) -> Option<Json> {
    let python = root().join(".venv/bin/python");
    if !python.exists() {
        eprintln!("skipped: {} is missing", python.display());
        return None;
    }
    let script = root().join("tests/read_events.py");
    let output = Command::new(python).arg(script).arg(run.path().join("tensorboard")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// A row of docs/monitoring.md: kind, tag, event, and the key of the event that must be there, if one is named.
fn documented() -> Vec<(String, String, String, Option<String>)> {
    let page = fs::read_to_string(root().join("docs/monitoring.md")).unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut kind = String::new();
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            kind = heading.to_lowercase();
        }
        let cells: Vec<&str> = line.split('|').collect();
        if !["scalars", "histograms", "images", "texts"].contains(&kind.as_str())
            || cells.len() < 4
            || !cells[1].contains('`')
        {
            continue;
        }
        let mut from = quoted(cells[2]).into_iter();
        let event = from.next().unwrap_or_else(|| panic!("no event: {line}"));
        rows.extend(quoted(cells[1]).into_iter().map(|tag| (kind.clone(), tag, event.clone(), None)));
        let last = rows.len() - 1;
        rows[last].3 = from.next();
    }
    rows
}

#[test]
fn tensorboard_finds_every_documented_tag_with_as_many_steps_as_events() {
    let stages = "stages:\n  - {stage: train, length: 12st, warmup: 25%}\n  - {stage: calibrate, images: 128, sensitivity_images: 64}\n  - {stage: search, length: 20st, target_bits: 2.5, entropy_weight: 0.1}\n  - {stage: finetune, length: 8st}\n";
    let run = Run::of(&(head("tiny-scripted.pt") + stages));
    let summary = run.summary();
    let Some(found) = read_back(&run) else { return };
    let metrics = fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
    let events: Vec<Json> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sites: Vec<&Json> = summary["sites"].as_array().unwrap().iter().collect();
    let mut expected = 0;
    let rows = documented();
    assert!(rows.len() > 25, "{}", rows.len());
    for (kind, tag, event, key) in rows {
        let pointer = key.map(|key| format!("/{}", key.replace('.', "/")));
        let there = |e: &&Json| {
            e["event"] == *event && pointer.as_ref().is_none_or(|p| e.pointer(p).is_some_and(|v| !v.is_null()))
        };
        let steps = events.iter().filter(there).count();
        let tags: Vec<String> = match (tag.contains("<site>"), tag.contains("<group>")) {
            (true, false) => sites.iter().map(|site| tag.replace("<site>", site["name"].as_str().unwrap())).collect(),
            (true, true) => sites
                .iter()
                .flat_map(|site| {
                    let of_site = tag.replace("<site>", site["name"].as_str().unwrap());
                    (0..site["groups"].as_array().unwrap().len())
                        .map(move |group| of_site.replace("<group>", &group.to_string()))
                })
                .collect(),
            _ => vec![tag],
        };
        let kind = if kind == "texts" { "tensors" } else { kind.as_str() };
        for tag in tags {
            let count = found[kind][&tag].as_u64().unwrap_or(0) as usize;
            assert_eq!(count, steps, "{kind} {tag}, of the events `{event}`: {found:#}");
            expected += usize::from(steps > 0);
        }
    }
    // And none that isn't documented.
    let all = ["scalars", "histograms", "images", "tensors"].iter().map(|kind| found[kind].as_object().unwrap().len());
    assert_eq!(all.sum::<usize>(), expected, "{found:#}");
    // A row a site and one for the legend.
    assert_eq!(found["sizes"]["widths/map"][0], serde_json::json!([512, 16 * (sites.len() + 1) + 2]));
}

#[test]
fn runs_compare_in_tensorboards_table() {
    let run = Run::of(&(head("tiny-scripted.pt") + "stages: [{stage: train, length: 4st, learning_rate: 0.02}]\n"));
    let summary = run.summary();
    let Some(found) = read_back(&run) else { return };
    let table = &found["table"];
    let parameters = &table["parameters"];
    assert_eq!(
        (&parameters["stages.train.learning_rate"], &parameters["stages.train.length"]),
        (&0.02.into(), &"4st".into())
    );
    assert_eq!((&parameters["seed"], &parameters["data.horizontal_flip"]), (&3.0.into(), &false.into()));
    // 1 is success.
    assert_eq!(table["status"], 1);
    for metric in table["metrics"].as_array().unwrap() {
        let key = metric.as_str().unwrap().trim_start_matches("result/").replace("dropped_percent", "dropped_fraction");
        let steps = found["scalars"][metric.as_str().unwrap()].as_u64().unwrap_or(0);
        assert_eq!(steps, u64::from(!summary[&key].is_null()), "{metric}");
    }
}
