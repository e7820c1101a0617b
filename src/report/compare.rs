//! Finished runs side by side, as JSON and as tables.

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::format::{count, thousands};
use super::layout::{Align, Grid};
use super::traffic::{DRAM_PJ_PER_BIT, DRAM_SOURCE, Traffic};
use super::{Summary, Timeline};

/// What a report shows of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunReport {
    /// The run's folder, as it was given.
    pub folder: String,
    /// What the run reached.
    pub summary: Summary,
    /// Traffic in the `relu` convention: every site.
    pub relu: Traffic,
    /// Traffic in the `stored` convention: every tensor that a fused kernel reads.
    pub stored: Traffic,
    /// How often each code occurs, by site; empty for a float run.
    pub histograms: Vec<SiteHistogram>,
    /// Validation images that the histograms are of.
    pub histogram_images: u64,
    /// How the run went.
    pub timeline: Timeline,
}

/// The conventions that traffic is counted in.
pub(super) const CONVENTIONS: [&str; 2] = ["relu", "stored"];

impl RunReport {
    /// Traffic in one of [`CONVENTIONS`].
    pub(super) fn traffic(&self, convention: &str) -> &Traffic {
        if convention == "relu" { &self.relu } else { &self.stored }
    }
}

/// The codes of a site over all its groups.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SiteHistogram {
    /// The site.
    pub site: String,
    /// The least code.
    pub least: i16,
    /// How often each code from the least on occurs.
    pub counts: Vec<u64>,
}

/// Several runs and the energy that a bit of traffic takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The runs, as they were given.
    pub runs: Vec<RunReport>,
    /// Energy of a bit to or from DRAM in pJ.
    pub pj_per_bit: f64,
}

impl Report {
    /// Whether the runs started from more than one model file: their accuracies then have different float networks.
    pub fn different_models(&self) -> bool {
        self.runs.windows(2).any(|pair| pair[0].summary.model_sha256 != pair[1].summary.model_sha256)
    }

    /// Where the energy of a bit comes from.
    pub fn energy_source(&self) -> &'static str {
        if self.pj_per_bit == DRAM_PJ_PER_BIT { DRAM_SOURCE } else { "given by --dram-pj-per-bit" }
    }

    /// The report as one JSON object.
    pub fn json(&self) -> Json {
        let runs = self.runs.iter().map(|run| {
            let summary = &run.summary;
            json!({
                "folder": run.folder, "mode": summary.mode, "status": summary.status, "seed": summary.seed,
                "float_top1": summary.float_top1, "top1": summary.top1, "target_bits": summary.target_bits,
                "bits_per_value": summary.bits_per_value, "bits_per_value_stored": summary.bits_per_value_stored,
                "bits_per_value_entropy": summary.bits_per_value_entropy,
                "dropped_fraction": summary.dropped_fraction,
                "traffic": { "relu": run.relu, "stored": run.stored },
                "side_information_bytes": summary.side_information_bytes, "macs": summary.macs,
                "mac_overhead_percent": summary.mac_overhead_percent,
                "mac_overhead_unfolded_percent": summary.mac_overhead_unfolded_percent,
                "model_sha256": summary.model_sha256,
            })
        });
        json!({
            "runs": runs.collect::<Vec<_>>(), "dram_pj_per_bit": self.pj_per_bit,
            "dram_source": self.energy_source(), "different_models": self.different_models(),
        })
    }

    /// What is counted, in sentences.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            "Traffic: each tensor of one image is written once and read once. relu: the outputs of activation functions; \
             stored: every tensor that a fused kernel reads, those that nothing compresses at 32 bits. Weights, side \
             information and the input image are not in it."
                .to_owned(),
            format!("Energy: {} pJ a bit, {}.", self.pj_per_bit, self.energy_source()),
            "Largest tensor: the largest single tensor of the convention in bytes, the least that an on-chip memory must hold."
                .to_owned(),
            "Extra MACs: multiply-accumulates of the transforms, without what folds into a neighbouring layer (and with it)."
                .to_owned(),
        ];
        if self.different_models() {
            notes.push(
                "The runs started from different model files: compare each with its own float network, not with one another."
                    .to_owned(),
            );
        }
        notes
    }
}

/// Bytes in the unit that is read most easily: `512 B`, `1.2 kB`, `3.4 MB`.
pub(super) fn bytes(number: f64) -> String {
    match number {
        0.0..999.5 => format!("{number:.0} B"),
        999.5..999_500.0 => format!("{} kB", digits(number / 1e3)),
        _ => format!("{} MB", digits(number / 1e6)),
    }
}

/// How many times a number is another one.
pub(super) fn times_less(number: f64, than: f64) -> String {
    let factor = number / than;
    if factor.is_finite() { format!("{factor:.1}") } else { "–".to_owned() }
}

/// A number to three digits.
pub(super) fn digits(number: f64) -> String {
    match number.abs() {
        0.0..9.995 => format!("{number:.2}"),
        9.995..99.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// Runs for reading; plain text without colours, ends in a newline.
pub fn report_table(report: &Report) -> String {
    use Align::{Left, Right};

    let mut reached = Grid::new(&[Left, Left, Right, Right, Right, Right, Right, Right, Right]);
    reached.row(["run", "mode", "top-1", "float", "bits", "stored", "entropy", "side info", "extra MACs"]);
    reached.rule();
    for run in &report.runs {
        let summary = &run.summary;
        reached.row([
            run.folder.clone(),
            summary.mode.clone(),
            format!("{:.2} %", summary.top1),
            format!("{:.2} %", summary.float_top1),
            format!("{:.2}", summary.bits_per_value),
            format!("{:.2}", summary.bits_per_value_stored),
            summary.bits_per_value_entropy.map_or("–".to_owned(), |bits| format!("{bits:.2}")),
            format!("{} B", thousands(summary.side_information_bytes)),
            format!("{:.1} % ({:.1} %)", summary.mac_overhead_percent, summary.mac_overhead_unfolded_percent),
        ]);
    }
    let mut text = reached.render();
    for convention in CONVENTIONS {
        text.push_str(&format!("\nper image, {convention} convention\n"));
        let mut grid = Grid::new(&[Left, Left, Right, Right, Right, Right, Right]);
        grid.row(["run", "tensors", "", "float32", "8 bits", "this run", "× less"]);
        grid.rule();
        for run in &report.runs {
            let traffic = run.traffic(convention);
            let rows = [
                ("traffic", traffic.bytes, true),
                ("energy", traffic.dram_microjoules, false),
                ("largest tensor", traffic.largest_tensor_bytes, true),
            ];
            for (row, (label, of, in_bytes)) in rows.into_iter().enumerate() {
                let show = |number| if in_bytes { bytes(number) } else { format!("{} µJ", digits(number)) };
                let (name, tensors) = match row {
                    0 => (run.folder.clone(), count(traffic.tensors, "tensor")),
                    _ => (String::new(), String::new()),
                };
                let factor = times_less(of.float32, of.run);
                grid.row([name, tensors, label.to_owned(), show(of.float32), show(of.int8), show(of.run), factor]);
            }
        }
        text.push_str(&grid.render());
    }
    text.push('\n');
    for note in report.notes() {
        text.push_str(&note);
        text.push('\n');
    }
    text
}

#[cfg(test)]
pub(super) mod samples {
    //! Reports that the tests of this room share.

    use super::super::summary::samples::{float_summary, summary};
    use super::super::traffic::TensorBits;
    use super::*;

    /// A run of the sample summary.
    pub fn run(folder: &str) -> RunReport {
        let summary = summary();
        let tensors = summary.sites.iter().map(|site| TensorBits {
            name: site.name.clone(),
            values: site.values,
            bits_per_value: site.bits_per_value,
        });
        let tensors: Vec<TensorBits> = tensors.collect();
        let (relu, stored) = (Traffic::of(&tensors, 20.0), Traffic::of(&tensors, 20.0));
        let histogram =
            |site: &str| SiteHistogram { site: site.to_owned(), least: -3, counts: vec![1, 4, 20, 90, 22, 5, 0] };
        let timeline = Timeline {
            bits: vec![(10.0, 7.5), (100.0, 3.0), (200.0, 2.0)],
            budget: vec![(10.0, 8.0), (100.0, 2.16)],
            top1: vec![(0.0, 93.0), (200.0, 92.6)],
            training_top1: vec![(10.0, 80.0), (100.0, 85.0)],
            stages: vec![("search".to_owned(), 0.0, 100.0), ("finetune".to_owned(), 100.0, 200.0)],
        };
        RunReport {
            folder: folder.to_owned(),
            histograms: summary.sites.iter().map(|site| histogram(&site.name)).collect(),
            summary,
            relu,
            stored,
            histogram_images: 64,
            timeline,
        }
    }

    /// A float run.
    pub fn float_run() -> RunReport {
        let run = run("float");
        RunReport { summary: float_summary(), histograms: vec![], timeline: Timeline::default(), ..run }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{float_run, run};
    use super::*;

    #[test]
    fn a_report_names_its_source_and_its_models() {
        let mut other = run("b");
        let report = Report { runs: vec![run("a"), other.clone()], pj_per_bit: DRAM_PJ_PER_BIT };
        assert!(!report.different_models() && report.energy_source().contains("ISSCC 2014"));
        other.summary.model_sha256 = "another".to_owned();
        let report = Report { runs: vec![run("a"), other, float_run()], pj_per_bit: 4.0 };
        let text = report_table(&report);
        assert!(
            text.contains("different model files") && text.contains("4 pJ a bit, given by --dram-pj-per-bit"),
            "{text}"
        );
        assert_eq!(report.json()["different_models"], true);
        assert_eq!(report.json()["runs"][0]["traffic"]["relu"]["bytes"]["float32"], 2.0 * 4.0 * 1_028_608.0);
    }

    #[test]
    fn units_are_read_easily() {
        assert_eq!(
            [0.0, 999.4, 999.6, 12_345.0, 999_499.0, 999_501.0].map(bytes),
            ["0 B", "999 B", "1.00 kB", "12.3 kB", "999 kB", "1.00 MB"]
        );
    }
}
