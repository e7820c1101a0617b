//! A recipe in words: its timeline as a table, and the budget over the search as a plot.

use super::language::Recipe;
use super::sites::SitePattern;
use super::stage::{CalibrateStage, SearchStage, Stage, TrainStage};
use super::values::{Length, Portion};

/// What stands for a number that isn't known.
const UNKNOWN: &str = "?";
/// Characters of the plot's longest bar.
const PLOT_WIDTH: f64 = 48.0;

/// Why the training images can't be counted, and what to do.
#[derive(Debug, Clone)]
pub struct Uncounted {
    /// What is wrong with them.
    pub reason: String,
    /// How to mend it.
    pub help: Option<String>,
}

/// The timeline of a recipe and the budget over its search, for a terminal.
///
/// `images` is the number of training images; without it, epochs and steps cannot be told from each other, and the text
/// says so.
pub fn explain(recipe: &Recipe, images: &Result<usize, Uncounted>) -> String {
    let steps_per_epoch = match images {
        Ok(images) => Some(recipe.steps_per_epoch(*images)).filter(|&steps| steps > 0),
        Err(_) => None,
    };
    let mut text = header(recipe, images, steps_per_epoch);
    text.push('\n');
    let timeline = timeline(recipe, steps_per_epoch);
    text.push_str(&timeline);
    if timeline.contains(UNKNOWN) || images.is_err() {
        text.push_str(&unknown(recipe, images));
    }
    if let Some(search) = recipe.search() {
        text.push('\n');
        text.push_str(&budget(search));
    }
    text
}

/// What `?` stands for, and why.
fn unknown(recipe: &Recipe, images: &Result<usize, Uncounted>) -> String {
    match images {
        Ok(images) => format!(
            "{UNKNOWN}  not known: the {images} training images are less than one batch of {}\n   help: lower `batch_size` in `data`\n",
            recipe.data.batch_size()
        ),
        Err(Uncounted { reason, help }) => {
            let help = help.as_ref().map_or(String::new(), |help| format!("   help: {help}\n"));
            format!(
                "{UNKNOWN}  not known, as the training images can't be counted: {reason}\n{help}   `dimbit validate` says all that is missing before a run\n"
            )
        }
    }
}

fn header(recipe: &Recipe, images: &Result<usize, Uncounted>, steps_per_epoch: Option<usize>) -> String {
    let path = recipe.data.path().map_or(String::new(), |path| format!(" {}", path.display()));
    let count = match (images, steps_per_epoch) {
        (Ok(images), Some(steps)) => format!(", {images} images, {steps} steps an epoch"),
        (Ok(images), None) => format!(", {images} images: less than one batch"),
        (Err(_), _) => ", number of images unknown".to_owned(),
    };
    let exclude = match recipe.sites.exclude.as_slice() {
        [] => String::new(),
        exclude => format!(", without {}", patterns(exclude)),
    };
    format!(
        "recipe {}: mode {}, seed {}, device {}\nmodel  {}, input {}\ndata   {}{path}, batch {}{count}\nsites  {}{exclude}\n",
        recipe.name.as_deref().unwrap_or("(no name)"),
        recipe.mode(),
        recipe.seed,
        recipe.device,
        recipe.model.path.display(),
        recipe.model.input,
        recipe.data.kind(),
        recipe.data.batch_size(),
        patterns(&recipe.sites.include),
    )
}

fn patterns(patterns: &[SitePattern]) -> String {
    let texts: Vec<&str> = patterns.iter().map(SitePattern::text).collect();
    if texts.is_empty() { "none".into() } else { texts.join(" ") }
}

/// The warm-up as it is written and, for a share, what it comes to.
fn warmup(stage: &TrainStage) -> String {
    match stage.warmup {
        Portion::Length(length) => length.to_string(),
        share @ Portion::Percent(_) => format!("{share} ({})", share.of(stage.length)),
    }
}

fn timeline(recipe: &Recipe, steps_per_epoch: Option<usize>) -> String {
    let mut rows = vec![["stage", "length", "epochs", "steps", "learning rate", "target"].map(String::from)];
    for stage in &recipe.stages {
        let (epochs, steps) = match (stage.length(), steps_per_epoch) {
            (Some(length), Some(per_epoch)) => {
                (format!("{:.2}", length.epochs(per_epoch)), length.steps(per_epoch).to_string())
            }
            (Some(Length::Epochs(epochs)), None) => (format!("{epochs:.2}"), UNKNOWN.into()),
            (Some(Length::Steps(steps)), None) => (UNKNOWN.into(), steps.to_string()),
            (None, _) => ("-".into(), "-".into()),
        };
        let (length, rate, target) = match stage {
            Stage::Train(stage) => (
                stage.length.to_string(),
                if stage.warmup.is_zero() {
                    format!("{} to 0", stage.learning_rate)
                } else {
                    format!("{} to 0, warm-up {}", stage.learning_rate, warmup(stage))
                },
                "float".into(),
            ),
            Stage::Calibrate(stage) => ("-".into(), "-".into(), calibration(stage)),
            Stage::Search(stage) => (
                stage.length.to_string(),
                format!("{} to 0, quantizers {}", stage.learning_rate, stage.quantizer_learning_rate),
                match stage.start_bits {
                    Some(start) => format!("{start} to {} bits, {}", stage.target_bits, stage.anneal),
                    None => format!("{} bits", stage.target_bits),
                },
            ),
            Stage::Finetune(stage) => (
                stage.length.to_string(),
                format!("{} to 0, quantizers {}", stage.learning_rate, stage.quantizer_learning_rate),
                "frozen widths".into(),
            ),
        };
        rows.push([stage.kind().into(), length, epochs, steps, rate, target]);
    }
    table(&rows)
}

/// What a calibration measures and, where no search does, decides.
fn calibration(stage: &CalibrateStage) -> String {
    let decided = match (stage.bits, stage.target_bits, stage.kept) {
        (Some(bits), Some(target), _) => format!("{bits} bits for what is kept, {target} bits per value, "),
        (Some(bits), None, _) => format!("{bits} bits everywhere, "),
        (None, _, Some(kept)) => format!("{:.0} % of the values kept, ", 100.0 * kept),
        _ => String::new(),
    };
    format!("{decided}statistics of {} images, sensitivities of {}", stage.images, stage.sensitivity_images)
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn budget(search: &SearchStage) -> String {
    let (start, target) = (search.first_bits(), search.target_bits);
    if start == target {
        return format!("budget over the search: {target} bits per value from the first step to the last\n");
    }
    let mut text = format!("budget over the search, bits per value ({}, from {start} to {target})\n", search.anneal);
    for percent in (0..=100).step_by(10) {
        let part = f64::from(percent) / 100.0;
        let bits = search.anneal.budget(start, target, part);
        let bar = "#".repeat((bits / start * PLOT_WIDTH).round() as usize);
        text.push_str(&format!("{percent:>4} %  {bits:>5.2}  {bar}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::{VALID, load};
    use super::*;

    fn absent() -> Result<usize, Uncounted> {
        Err(Uncounted { reason: "there is no folder /d".into(), help: Some("did you mean /e?".into()) })
    }

    #[test]
    fn the_timeline_counts_epochs_and_steps_where_images_are_known() {
        let recipe = load(VALID);
        let text = explain(&recipe, &Ok(4000));
        assert!(!text.contains(UNKNOWN), "{text}");
        assert!(text.contains("4000 images, 62 steps an epoch"), "{text}");
        let row = text.lines().find(|line| line.starts_with("search")).unwrap();
        assert!(row.contains("6.00") && row.contains("372"), "{row}");
        assert!(row.contains("8 to 2.16 bits, cosine"), "{row}");
        let unknown = explain(&recipe, &absent());
        let row = unknown.lines().find(|line| line.starts_with("search")).unwrap();
        assert!(row.contains("6ep     6.00    ?"), "{row}");
        let in_steps = explain(&load(&VALID.replace("length: 6ep", "length: 300st")), &absent());
        let row = in_steps.lines().find(|line| line.starts_with("search")).unwrap();
        assert!(row.contains("300st   ?       300"), "{row}");
    }

    #[test]
    fn what_is_unknown_is_said_with_its_reason() {
        let text = explain(&load(VALID), &absent());
        assert!(text.contains(", number of images unknown\n"), "{text}");
        let said = "?  not known, as the training images can't be counted: there is no folder /d\n   help: did you mean /e?\n   `dimbit validate` says";
        assert!(text.contains(said), "{text}");
        let few = explain(&load(VALID), &Ok(9));
        assert!(
            few.contains("the 9 training images are less than one batch of 64\n   help: lower `batch_size`"),
            "{few}"
        );
    }

    #[test]
    fn the_budget_falls_from_start_to_target() {
        let text = explain(&load(VALID), &absent());
        let bits: Vec<f64> =
            text.lines().filter_map(|line| line.split_once(" %")?.1.split_whitespace().next()?.parse().ok()).collect();
        assert_eq!((bits.len(), bits[0], bits[10]), (11, 8.0, 2.16), "{text}");
        assert!(bits.is_sorted_by(|a, b| a >= b));
        let float = "version: 1\nmodel: {path: m.pt, input: 1x2x2}\ndata: {kind: idx, path: d}\nstages: [{stage: train, length: 1ep}]\n";
        assert!(!explain(&load(float), &Ok(10)).contains("budget"));
        // As it runs: at its target after 85 % of the search.
        assert!(bits[9] == 2.16 && bits[8] > 2.16, "{bits:?}");
        let still = explain(&load(&VALID.replace("    start_bits: 8\n", "")), &absent());
        assert!(still.contains("2.16 bits per value from the first step") && !still.contains('#'), "{still}");
    }

    #[test]
    fn widths_that_no_search_finds_are_told() {
        let head = "version: 1\nmodel: {path: m.pt, input: 1x2x2}\ndata: {kind: idx, path: d}\nstages:\n";
        for (stage, told) in [
            ("{stage: calibrate, transform: none, max_groups: 1, bits: 4}", "4 bits everywhere"),
            ("{stage: calibrate, bits: 8, target_bits: 2.16}", "8 bits for what is kept, 2.16 bits per value"),
        ] {
            let text = explain(&load(&format!("{head}  - {stage}\n")), &absent());
            assert!(text.contains(told), "{text}");
        }
    }
}
