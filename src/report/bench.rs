//! What a bench measured, as JSON and as a table.

use serde::Serialize;

use super::format::count;
use super::layout::{Align, Grid};

/// Step times and peaks of memory of several rows over one network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// The network's file, without folder and ending.
    pub network: String,
    /// Shape of an image, `CxHxW`.
    pub input: String,
    /// Images of a batch.
    pub batch: usize,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Threads of libtorch on the CPU.
    pub threads: usize,
    /// Rounds that counted.
    pub steps: usize,
    /// Whether the compressed rows ran a float network beside their own.
    pub distillation: bool,
    /// The rows, the float one first.
    pub rows: Vec<BenchRow>,
}

/// One row of a [`BenchReport`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BenchRow {
    /// What was measured.
    pub name: String,
    /// Median time of a step in milliseconds.
    pub median_ms: f64,
    /// Lower and upper quartile of the step times in milliseconds.
    pub quartiles_ms: [f64; 2],
    /// `median_ms` over the float row's.
    pub ratio_to_float: f64,
    /// The most memory that the row took in a process of its own; none where it was not measured.
    pub peak_bytes: Option<u64>,
    /// `peak_bytes` over the float row's.
    pub peak_ratio_to_float: Option<f64>,
    /// Bits per value that the codecs stood at.
    pub bits_per_value: f64,
    /// Dropped values over all values.
    pub dropped_fraction: f64,
    /// Multiply-accumulates of the transforms that a forward pass computes, in percent of the network's own.
    pub extra_macs_percent: f64,
}

impl BenchReport {
    /// Fills in a row's peak of memory, and the ratios of all peaks to the float row's.
    pub fn set_peak(&mut self, name: &str, bytes: Option<u64>) {
        for row in self.rows.iter_mut().filter(|row| row.name == name) {
            row.peak_bytes = bytes;
        }
        let float = self.rows.first().and_then(|row| row.peak_bytes);
        for row in &mut self.rows {
            row.peak_ratio_to_float = row.peak_bytes.zip(float).map(|(own, float)| own as f64 / float as f64);
        }
    }
}

/// A bench for reading; plain text without colours, ends in a newline.
pub fn bench_table(report: &BenchReport) -> String {
    use Align::{Left, Right};

    let mut grid = Grid::new(&[Left, Right, Right, Right, Right, Right, Right, Right, Right]);
    grid.row(["row", "median ms", "quartiles", "× float", "peak MB", "× float", "bits", "dropped", "extra MACs"]);
    grid.rule();
    let ratio = |ratio: f64| format!("{ratio:.2}");
    for row in &report.rows {
        let [low, high] = row.quartiles_ms;
        grid.row([
            row.name.clone(),
            format!("{:.1}", row.median_ms),
            format!("{low:.1}–{high:.1}"),
            ratio(row.ratio_to_float),
            row.peak_bytes.map_or("–".to_owned(), |bytes| format!("{:.0}", bytes as f64 / 1e6)),
            row.peak_ratio_to_float.map_or("–".to_owned(), ratio),
            ratio(row.bits_per_value),
            format!("{:.1} %", 100.0 * row.dropped_fraction),
            format!("{:.1} %", row.extra_macs_percent),
        ]);
    }
    let threads = if report.device == "cpu" { format!(", {}", count(report.threads, "thread")) } else { String::new() };
    let teacher = if report.distillation { ", with the float network beside" } else { "" };
    format!(
        "{} · {}, batch {} · {}{threads} · {}{teacher}\n{}",
        report.network,
        report.input,
        report.batch,
        report.device,
        count(report.steps, "round"),
        grid.render()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> BenchReport {
        let row = |name: &str, median_ms: f64, ratio_to_float: f64| BenchRow {
            name: name.to_owned(),
            median_ms,
            quartiles_ms: [median_ms - 1.0, median_ms + 1.5],
            ratio_to_float,
            bits_per_value: 8.0,
            extra_macs_percent: 28.4,
            ..BenchRow::default()
        };
        BenchReport {
            network: "resnet18".to_owned(),
            input: "3x224x224".to_owned(),
            batch: 16,
            device: "cpu".to_owned(),
            threads: 2,
            steps: 20,
            distillation: false,
            rows: vec![row("float", 1000.0, 1.0), row("joint", 1250.0, 1.25)],
        }
    }

    #[test]
    fn a_bench_reads_like_this() {
        let mut report = report();
        report.set_peak("joint", Some(900_000_000));
        assert_eq!(report.rows[1].peak_ratio_to_float, None);
        report.set_peak("float", Some(600_000_000));
        let expected = "\
resnet18 · 3x224x224, batch 16 · cpu, 2 threads · 20 rounds
row    median ms      quartiles  × float  peak MB  × float  bits  dropped  extra MACs
─────────────────────────────────────────────────────────────────────────────────────
float     1000.0   999.0–1001.5     1.00      600     1.00  8.00    0.0 %      28.4 %
joint     1250.0  1249.0–1251.5     1.25      900     1.50  8.00    0.0 %      28.4 %
";
        assert_eq!(bench_table(&report), expected);
    }

    #[test]
    fn what_was_not_measured_is_a_dash_and_null() {
        let report = report();
        assert_eq!(bench_table(&report).matches('–').count(), 2 + 2 * 2);
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["rows"][0]["peak_bytes"].is_null() && json["rows"][0]["median_ms"] == 1000.0);
    }
}
