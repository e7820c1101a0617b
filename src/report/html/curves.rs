//! Bits, budget and accuracy over the steps of a run.

use super::super::Timeline;
use super::svg::{Axis, LEFT, RIGHT, Svg, WIDTH};

const BITS: (f64, f64) = (48.0, 160.0);
const TOP1: (f64, f64) = (196.0, 316.0);

/// The picture, if the run took steps.
pub(super) fn curves(timeline: &Timeline, float_top1: f64) -> Option<String> {
    let last = timeline.last_step();
    if last <= 0.0 {
        return None;
    }
    let x = Axis::linear(0.0, last, LEFT, RIGHT);
    let height = |points: &[(f64, f64)]| points.iter().fold(0.0_f64, |high, point| high.max(point.1));
    let bits = Axis::linear(0.0, 1.08 * height(&timeline.bits).max(height(&timeline.budget)), BITS.1, BITS.0);
    let known = timeline.top1.iter().chain(&timeline.training_top1).map(|point| point.1);
    let known = known.chain(float_top1.is_finite().then_some(float_top1));
    let (low, high) = known.fold((100.0_f64, 0.0_f64), |(low, high), top1| (low.min(top1), high.max(top1)));
    let top1 = Axis::linear((low - 1.0).max(0.0), high + 1.0, TOP1.1, TOP1.0);
    let along = |points: &[(f64, f64)], y: &Axis| -> Vec<(f64, f64)> {
        points.iter().map(|&(step, number)| (x.at(step), y.at(number))).collect()
    };

    let mut svg = Svg::new(WIDTH, TOP1.1 + 40.0);
    svg.vertical(&bits);
    svg.vertical(&top1);
    for (name, start, end) in &timeline.stages {
        let (start, end) = (x.at(*start), x.at(*end));
        svg.line("grid", [(start, BITS.0 - 8.0), (start, TOP1.1)]);
        if end - start > 6.2 * name.chars().count() as f64 {
            svg.text((start + end) / 2.0, BITS.0 - 4.0, "s m", name);
        }
    }
    svg.text(4.0, 14.0, "s", "bits per value:");
    svg.text(92.0, 14.0, "s fa", "stored");
    if !timeline.budget.is_empty() {
        svg.text(136.0, 14.0, "s fb", "budget (dashed)");
    }
    svg.line("lb dash", along(&timeline.budget, &bits));
    svg.line("la", along(&timeline.bits, &bits));
    svg.text(4.0, TOP1.0 - 12.0, "s", "top-1 in %:");
    svg.text(70.0, TOP1.0 - 12.0, "s fc", "validation");
    svg.text(134.0, TOP1.0 - 12.0, "s fd", "training batches");
    if float_top1.is_finite() {
        svg.text(234.0, TOP1.0 - 12.0, "s ff", "float (dashed)");
        svg.line("lf dash thin", [(LEFT, top1.at(float_top1)), (RIGHT, top1.at(float_top1))]);
    }
    svg.line("ld thin", along(&timeline.training_top1, &top1));
    svg.line("lc", along(&timeline.top1, &top1));
    for (&(step, number), (x, y)) in timeline.top1.iter().zip(along(&timeline.top1, &top1)) {
        svg.disc(x, y, 3.2, "fc", &format!("step {step}: {number:.2} %"));
    }
    svg.horizontal(&x, TOP1.1, "optimizer steps");
    Some(svg.finish("Bits per value and accuracy over the run"))
}
