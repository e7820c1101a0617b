//! What the form of a recipe cannot say: the order of its stages and the relations between its values.

use std::collections::HashSet;

use super::document::Node;
use super::findings::Problem;
use super::stage::{CalibrateStage, Stage};

/// Every finding about order and relations, beyond those about the `form`.
///
/// Relations are checked in stages of right form alone: a wrong value has its finding already.
pub(super) fn check(root: &Node, form: &[Problem]) -> Vec<Problem> {
    let stages = root.get("stages").map_or(&[][..], Node::items);
    // Stages with a finding, as `stages[2]`, and paths with one.
    let paths: HashSet<&str> = form.iter().map(|problem| &*problem.path).collect();
    let faulty: HashSet<&str> = paths.iter().filter_map(|p| p.split('.').next()).collect();
    let mut problems = Vec::new();
    let kinds: Option<Vec<&str>> = stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let unknown = paths.contains(&*format!("stages[{index}].stage"));
            stage.get("stage")?.text().filter(|_| !unknown)
        })
        .collect();
    if let Some(kinds) = kinds {
        let fixed = stages.iter().any(|stage| stage.get("bits").is_some_and(|bits| !bits.is_null()));
        for (index, message, help) in order(&kinds, fixed) {
            let path = format!("stages[{index}].stage");
            problems.push(Problem {
                place: root.nearest(&path).place,
                code: "stage-order",
                path,
                message,
                help: Some(help.into()),
            });
        }
    }
    for (index, node) in stages.iter().enumerate() {
        let path = format!("stages[{index}]");
        if faulty.contains(&*path) {
            continue;
        }
        if let Ok(stage) = serde_json::from_value::<Stage>(node.to_json())
            && let Some((key, code, message, help)) = relation(&stage)
        {
            let path = format!("{path}.{key}");
            problems.push(Problem { place: root.nearest(&path).place, code, path, message, help: Some(help) });
        }
    }
    problems
}

/// The stages that stand where they cannot: index, message, help. At most one finding a stage. `fixed`: the calibration
/// fixes the widths, so there is nothing to search.
fn order(kinds: &[&str], fixed: bool) -> Vec<(usize, String, &'static str)> {
    const LINE: &str = "the order is `train` (any number), `calibrate`, `search`, `finetune`";
    let mut found = Vec::new();
    let (mut calibrate, mut search, mut finetune) = (None, None, None);
    for (index, &kind) in kinds.iter().enumerate() {
        let mut say = |message: &str, help| found.push((index, message.to_string(), help));
        match kind {
            _ if finetune.is_some() => {
                say(&format!("stage `{kind}` follows `finetune`, which must be the last stage"), LINE)
            }
            "train" if search.is_some() => {
                say("`train` after `search` would undo the quantizers", LINE);
            }
            "train" if calibrate.is_some() => {
                say("`train` after `calibrate` would outdate its statistics", LINE);
            }
            "calibrate" if search.is_some() => {
                say("`calibrate` without a `search` after it", LINE);
            }
            "calibrate" if calibrate.is_some() => {
                say("a second `calibrate`", "one calibration serves the search: remove one")
            }
            "search" if fixed => say(
                "`search` after a `calibrate` that fixes the widths",
                "remove the calibration's `bits`, or the search: there is nothing left to learn",
            ),
            "search" if search.is_some() => say("a second `search`", "a recipe has one search: make it longer instead"),
            "search" if calibrate.is_none() => say(
                "`search` needs a `calibrate` before it",
                "put `- stage: calibrate` before the search: it makes the groups whose widths are searched",
            ),
            "finetune" if search.is_none() && !(fixed && calibrate.is_some()) => say(
                "`finetune` needs a `search` before it",
                "it trains with the widths that a search has found (or that `bits` of the calibration fixes); for float training use `stage: train`",
            ),
            _ => {}
        }
        match kind {
            "calibrate" => calibrate = calibrate.or(Some(index)),
            "search" => search = search.or(Some(index)),
            "finetune" => finetune = finetune.or(Some(index)),
            _ => {}
        }
    }
    if let (Some(index), None, None, false) = (calibrate, search, finetune, fixed) {
        found.push((
            index,
            "`calibrate` without a `search` after it".into(),
            "add a `search`, or remove the calibration: nothing would use its statistics",
        ));
    }
    found
}

/// What is wrong between the values of one stage: key, code, message, help.
fn relation(stage: &Stage) -> Option<(&'static str, &'static str, String, String)> {
    use super::values::Length::{Epochs, Steps};
    match stage {
        Stage::Train(stage) => {
            let (length, warmup) = (stage.length, stage.warmup);
            let too_long = match (warmup, length) {
                (Epochs(warmup), Epochs(length)) => warmup >= length,
                (Steps(warmup), Steps(length)) => warmup >= length,
                // Across units only the number of images can tell.
                _ => false,
            };
            too_long.then(|| {
                (
                    "warmup",
                    "warmup-too-long",
                    format!("`warmup` ({warmup}) must be shorter than the stage ({length})"),
                    "the learning rate rises over the warm-up and falls over the rest of the stage".into(),
                )
            })
        }
        Stage::Search(stage) if stage.start_bits < stage.target_bits => Some((
            "start_bits",
            "bits-order",
            format!("`start_bits` ({}) is below `target_bits` ({})", stage.start_bits, stage.target_bits),
            "the budget falls from `start_bits` to `target_bits`; leave `start_bits` out to start at 8".into(),
        )),
        Stage::Calibrate(CalibrateStage { bits: None, target_bits: Some(_), .. }) => Some((
            "target_bits",
            "bits-missing",
            "`target_bits` of a calibration needs `bits`".into(),
            "it says how far dimension reduction alone goes at a fixed width: add `bits: 8`; the target of a search \
             stands in the search"
                .into(),
        )),
        Stage::Calibrate(CalibrateStage { bits: Some(bits), target_bits: Some(target), .. })
            if *target > f64::from(*bits) =>
        {
            Some((
                "target_bits",
                "bits-order",
                format!("`target_bits` ({target}) is above `bits` ({bits})"),
                "everything kept at that width takes `bits`; lower the target, or leave it out".into(),
            ))
        }
        Stage::Calibrate(CalibrateStage { bits: Some(_), kept: Some(_), .. }) => Some((
            "kept",
            "contradiction",
            "`kept` and `bits` exclude each other".into(),
            "with a fixed width, `target_bits` says how much is kept; with `kept`, a search finds the widths".into(),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misplaced(kinds: &[&str]) -> Vec<usize> {
        order(kinds, false).into_iter().map(|(index, ..)| index).collect()
    }

    #[test]
    fn the_orders_that_make_sense_pass() {
        for kinds in [
            &["train"][..],
            &["train", "train"],
            &["calibrate", "search"],
            &["train", "calibrate", "search", "finetune"],
        ] {
            assert_eq!(misplaced(kinds), [0; 0], "{kinds:?}");
        }
    }

    #[test]
    fn fixed_widths_take_the_place_of_a_search() {
        let misplaced = |kinds: &[&str]| order(kinds, true).into_iter().map(|(index, ..)| index).collect::<Vec<_>>();
        assert_eq!(misplaced(&["calibrate"]), [0; 0]);
        assert_eq!(misplaced(&["train", "calibrate", "finetune"]), [0; 0]);
        assert_eq!(misplaced(&["calibrate", "search", "finetune"]), [1]);
        assert_eq!(misplaced(&["finetune"]), [0]);
    }

    #[test]
    fn every_misplaced_stage_is_named_once() {
        for (kinds, expected) in [
            (&["finetune"][..], &[0][..]),
            (&["train", "search"], &[1]),
            (&["train", "calibrate"], &[1]),
            (&["calibrate", "calibrate", "search"], &[1]),
            (&["calibrate", "search", "search"], &[2]),
            (&["calibrate", "search", "calibrate"], &[2]),
            (&["calibrate", "search", "finetune", "finetune"], &[3]),
            (&["calibrate", "search", "finetune", "train"], &[3]),
            (&["calibrate", "train", "search"], &[1]),
            (&["search", "finetune"], &[0]),
            (&["calibrate", "finetune"], &[1]),
        ] {
            assert_eq!(misplaced(kinds), expected, "{kinds:?}");
        }
    }
}
