//! Accuracy against bits of several runs.

use super::super::compare::RunReport;
use super::svg::{Axis, LEFT, RIGHT, Svg, WIDTH};

const TOP: f64 = 30.0;
const BOTTOM: f64 = 230.0;

/// The picture, if a run has both numbers. Runs are named by their number, from 1.
pub(super) fn front(runs: &[RunReport]) -> Option<String> {
    let points: Vec<(usize, &RunReport)> = (1..)
        .zip(runs)
        .filter(|(_, run)| !run.summary.sites.is_empty())
        .filter(|(_, run)| run.summary.top1.is_finite() && run.summary.bits_per_value > 0.0)
        .collect();
    let entropy = |run: &RunReport| run.summary.bits_per_value_entropy.filter(|&bits| bits > 0.0);
    let bits = points.iter().flat_map(|(_, run)| [Some(run.summary.bits_per_value), entropy(run)]).flatten();
    let (fewest, most) = bits.fold((f64::INFINITY, 0.0_f64), |(low, high), bits| (low.min(bits), high.max(bits)));
    let floats: Vec<f64> = distinct(points.iter().map(|(_, run)| run.summary.float_top1));
    let top1 = points.iter().map(|(_, run)| run.summary.top1).chain(floats.iter().copied());
    let (low, high) = top1.fold((f64::INFINITY, 0.0_f64), |(low, high), top1| (low.min(top1), high.max(top1)));
    if points.is_empty() || !fewest.is_finite() {
        return None;
    }
    let room = (0.12 * (high - low)).max(0.4);
    let x = Axis::log(fewest * 0.9, most * 1.1, LEFT + 6.0, RIGHT - 6.0);
    let y = Axis::linear(low - room, high + room, BOTTOM, TOP);

    let mut svg = Svg::new(WIDTH, BOTTOM + 40.0);
    svg.text(4.0, 14.0, "s", "top-1 in %, validation images");
    svg.vertical(&y);
    svg.horizontal(&x, BOTTOM, "bits per value, relu convention (log scale)");
    for float in &floats {
        svg.line("lf dash thin", [(LEFT, y.at(*float)), (RIGHT, y.at(*float))]);
        svg.text(LEFT + 4.0, y.at(*float) - 4.0, "s ff", &format!("float {float:.2} %"));
    }
    for (_, run) in &points {
        if let Some(bits) = entropy(run) {
            let (from, to, top1) = (x.at(bits), x.at(run.summary.bits_per_value), y.at(run.summary.top1));
            svg.line("la thin", [(from, top1), (to, top1)]);
            svg.disc(from, top1, 3.0, "fa", &format!("{bits:.2} bits entropy-coded"));
        }
    }
    for (number, run) in &points {
        let (bits, top1) = (run.summary.bits_per_value, run.summary.top1);
        let title = format!("{}: {top1:.2} % at {bits:.2} bits", run.folder);
        svg.disc(x.at(bits), y.at(top1), 8.0, "fa rim", &title);
        svg.text(x.at(bits), y.at(top1) + 3.4, "on", &number.to_string());
    }
    Some(svg.finish("Accuracy against bits per value"))
}

/// Finite numbers that differ in two decimals, in their order.
fn distinct(numbers: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut found: Vec<f64> = Vec::new();
    for number in numbers.filter(|number| number.is_finite()) {
        if found.iter().all(|other| (other - number).abs() >= 0.005) {
            found.push(number);
        }
    }
    found
}
