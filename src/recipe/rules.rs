//! What the form of a recipe cannot say: the order of its stages and the relations between its values.

use std::collections::HashSet;

use super::document::Node;
use super::findings::Problem;
use super::language::Data;
use super::photographs::Photographs;
use super::stage::{BasisLearning, CalibrateStage, ComponentCodes, PartitionRule, Stage, Transform};
use super::values::InputShape;

/// Every finding about order and relations, beyond those about the `form`.
///
/// Relations are checked in stages of right form alone: a wrong value has its finding already.
pub(super) fn check(root: &Node, form: &[Problem]) -> Vec<Problem> {
    let stages = root.get("stages").map_or(&[][..], Node::items);
    // Stages with a finding, as `stages[2]`, and paths with one.
    let paths: HashSet<&str> = form.iter().map(|problem| &*problem.path).collect();
    let faulty: HashSet<&str> = paths.iter().filter_map(|p| p.split('.').next()).collect();
    let mut problems = Vec::new();
    if !faulty.iter().any(|path| matches!(*path, "data" | "model")) {
        problems.extend(data(root));
    }
    let kinds: Option<Vec<&str>> = stages
        .iter()
        .enumerate()
        .map(|(index, stage)| {
            let unknown = paths.contains(&*format!("stages[{index}].stage"));
            stage.get("stage")?.text().filter(|_| !unknown)
        })
        .collect();
    if let Some(kinds) = kinds {
        let calibrations = stages.iter().filter(|stage| stage.get("stage").and_then(Node::text) == Some("calibrate"));
        let fixed = calibrations.into_iter().any(|stage| stage.get("bits").is_some_and(|bits| !bits.is_null()));
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
    let mut kept = None;
    for (index, node) in stages.iter().enumerate() {
        let path = format!("stages[{index}]");
        if faulty.contains(&*path) {
            continue;
        }
        let Ok(stage) = serde_json::from_value::<Stage>(node.to_json()) else { continue };
        let found = match (&stage, kept) {
            (Stage::Search(search), Some(kept)) => less_than_kept(kept, search.target_bits),
            _ => relation(&stage),
        };
        if let Stage::Calibrate(CalibrateStage { kept: Some(share), transform, codes, .. }) = &stage {
            // Mid-tread codes take two bits at least. Principal components may have them, and so has what stands behind a
            // function that has no least value.
            let least = match (transform, codes) {
                (Transform::Auto, _)
                | (Transform::Pca | Transform::Block, ComponentCodes::Auto | ComponentCodes::MidRise) => 1.0,
                _ => 2.0,
            };
            kept = Some((*share, least));
        }
        if let Some((key, code, message, help)) = found {
            let path = format!("{path}.{key}");
            problems.push(Problem { place: root.nearest(&path).place, code, path, message, help: Some(help) });
        }
    }
    problems
}

/// Every finding about the relations of the data's keys to each other and to the network's input.
fn data(root: &Node) -> Vec<Problem> {
    let part = |key: &str| root.get(key).map(Node::to_json);
    let Some(Ok(data)) = part("data").map(serde_json::from_value::<Data>) else { return Vec::new() };
    let input = root.get("model").and_then(|model| model.get("input")?.text()?.parse::<InputShape>().ok());
    let (Some(Photographs { resize, scale, ratio, .. }), Some(input)) = (data.photographs(), input) else {
        return Vec::new();
    };
    let mut found: Vec<Relation> = Vec::new();
    for (key, [least, greatest]) in [("scale", scale), ("ratio", ratio)] {
        if least > greatest {
            let message = format!("the least `{key}` ({least}) is above the greatest ({greatest})");
            found.push((key, "range-order", message, "write the lesser one first".into()));
        }
    }
    if resize < input.height.max(input.width) {
        let message = format!("`resize` ({resize}) is below the network's input, {input}");
        let help =
            "the input is cut out of the scaled image: `resize` is at least as long as its sides, commonly 8/7 of them";
        found.push(("resize", "too-small", message, help.into()));
    }
    if input.channels != 3 {
        let message = format!("photographs have 3 channels, the network's input, {input}, has {}", input.channels);
        found.push(("kind", "wrong-channels", message, "take a network for images of 3 channels".into()));
    }
    let problem = |(key, code, message, help): Relation| {
        let path = format!("data.{key}");
        Problem { place: root.nearest(&path).place, code, path, message, help: Some(help) }
    };
    found.into_iter().map(problem).collect()
}

/// What is wrong between two values: key of the stage, code, message, help.
type Relation = (&'static str, &'static str, String, String);

/// A search that would have to drop what the dimension reduction before it keeps: the share, and the least width.
fn less_than_kept((kept, least): (f64, f64), target: f64) -> Option<Relation> {
    (kept * least > target).then(|| {
        let needed = kept * least;
        (
            "target_bits",
            "unreachable-target",
            format!("the calibration keeps {kept} of the values, which take {needed:.2} bits per value at least"),
            "lower `kept`, or raise the target: a search after `kept` drops nothing".into(),
        )
    })
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

/// What is wrong between the values of one stage.
fn relation(stage: &Stage) -> Option<Relation> {
    use super::values::Length::{Epochs, Steps};
    match stage {
        Stage::Train(stage) => {
            let (length, warmup) = (stage.length, stage.warmup);
            let too_long = match (warmup.of(length), length) {
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
        Stage::Search(stage) if stage.first_bits() < stage.target_bits => Some((
            "start_bits",
            "bits-order",
            format!("`start_bits` ({}) is below `target_bits` ({})", stage.first_bits(), stage.target_bits),
            "the budget falls from `start_bits` to `target_bits`; leave `start_bits` out to start at the target".into(),
        )),
        Stage::Calibrate(stage) => calibration(stage),
        _ => None,
    }
}

/// What is wrong between the values of a calibration.
fn calibration(stage: &CalibrateStage) -> Option<Relation> {
    let plain = stage.transform == Transform::None;
    let say = |key, code, message: String, help: &str| Some((key, code, message, help.to_owned()));
    match *stage {
        CalibrateStage { bits: None, target_bits: Some(_), .. } => say(
            "target_bits",
            "bits-missing",
            "`target_bits` of a calibration needs `bits`".into(),
            "it says how far dimension reduction alone goes at a fixed width: add `bits: 8`; the target of a search stands in the search",
        ),
        CalibrateStage { bits: Some(_), kept: Some(_), .. } => say(
            "kept",
            "contradiction",
            "`kept` and `bits` exclude each other".into(),
            "with a fixed width, `target_bits` says how much is kept; with `kept`, a search finds the widths",
        ),
        CalibrateStage { bits: Some(bits), target_bits: Some(target), .. } if target > f64::from(bits) => say(
            "target_bits",
            "bits-order",
            format!("`target_bits` ({target}) is above `bits` ({bits})"),
            "everything kept at that width takes `bits`; lower the target, or leave it out",
        ),
        CalibrateStage { bits: Some(bits), target_bits: Some(target), max_groups, partition, .. }
            if target < f64::from(bits) / most_parts(max_groups, partition) =>
        {
            say(
                "target_bits",
                "unreachable-target",
                format!("`target_bits` ({target}) is out of reach: a site's first group is never dropped"),
                "with more groups (`max_groups`, `partition: automatic`) less of a site has to be kept",
            )
        }
        CalibrateStage { bits: Some(1), codes: ComponentCodes::MidTread, .. } if !plain => say(
            "bits",
            "contradiction",
            "principal components can't have 1 bit: mid-tread codes have 0 and as many levels on either side".into(),
            "take at least 2 bits, `codes: mid_rise`, or `transform: none`",
        ),
        CalibrateStage { bits: Some(_), target_bits: None, .. } if !plain => say(
            "bits",
            "contradiction",
            "one fixed width of everything leaves a transform nothing to save".into(),
            "add `transform: none`, or `target_bits` for a dimension reduction",
        ),
        CalibrateStage { target_bits: Some(_), .. } if plain => say(
            "target_bits",
            "contradiction",
            "a dimension reduction needs a transform".into(),
            "take `transform: auto`, `pca` or `block`",
        ),
        CalibrateStage { kept: Some(_), .. } if plain => say(
            "kept",
            "contradiction",
            "a dimension reduction needs a transform".into(),
            "take `transform: auto`, `pca` or `block`",
        ),
        CalibrateStage { basis: BasisLearning::Tied, .. } if plain => say(
            "basis",
            "contradiction",
            "there is no basis to learn without a transform".into(),
            "leave `basis` out, or take `transform: auto`, `pca` or `block`",
        ),
        _ => None,
    }
}

/// How small a part of a site one group may be: boundaries by distortion may leave it a 64th, and fewer where groups must
/// share.
fn most_parts(max_groups: usize, partition: PartitionRule) -> f64 {
    match (max_groups, partition) {
        (1, _) => 1.0,
        (_, PartitionRule::Automatic) => 64.0,
        (groups, _) => groups as f64,
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
