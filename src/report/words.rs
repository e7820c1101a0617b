//! What the console says of an event, without colours.

use super::format::{count, duration, part, rate, thousands};
use super::summary::bits_of;
use super::{Event, Losses, SiteRow, Summary};

/// The text of an event that has one, without the stage's name.
///
/// [`Event::Step`] gives the text beside its count.
pub(super) fn text(event: &Event) -> Option<String> {
    let text = match event {
        Event::RunStarted { mode, device, seed, model, sites, left_out, values, parameters, macs, .. } => format!(
            "mode {mode}, device {device}, seed {seed}\n\
             {model}: {}, {} values an image, {} parameters, {} multiply-accumulates",
            part(sites.saturating_sub(*left_out), *sites, "site"),
            thousands(*values),
            thousands(*parameters),
            thousands(*macs),
        ),
        Event::Resumed { stage_step, stage_steps, step, .. } => {
            let within = match stage_steps {
                0 => String::new(),
                steps => format!(", step {}/{} of the stage", thousands(*stage_step), thousands(*steps)),
            };
            format!("goes on after step {}{within}", thousands(*step))
        }
        Event::StageStarted { epochs, steps, .. } if *steps > 0 => {
            format!("{} steps, {} epochs", thousands(*steps), (100.0 * epochs).round() / 100.0)
        }
        Event::Step { loss, top1, bits, budget_bits, images_per_second, .. } => {
            step(loss, *top1, *bits, *budget_bits, *images_per_second)
        }
        Event::Calibrated { images, sites } => calibrated(*images, sites),
        Event::Evaluated { top1, loss, images, bits, .. } => {
            let bits = bits.map_or(String::new(), |bits| format!("  {bits:.2} bits/value"));
            let images = count(*images, "image");
            format!("top-1 {top1:.2} %  loss {loss:.4}{bits}  ({images})")
        }
        Event::StageEnded { seconds, .. } => format!("done in {}", duration(*seconds)),
        Event::Revived { groups, .. } => {
            format!("{} came back: the loss gains more than their bits cost", count(*groups, "dropped group"))
        }
        Event::Warning { message } => message.clone(),
        Event::Finished { summary } => finished(summary),
        Event::StageStarted { .. } | Event::Widths { .. } | Event::Codes { .. } | Event::Progress { .. } => {
            return None;
        }
    };
    Some(text)
}

fn step(loss: &Losses, top1: f64, bits: Option<f64>, budget_bits: Option<f64>, images_per_second: f64) -> String {
    let bits = match (bits, budget_bits) {
        (Some(bits), Some(budget)) => format!("  bits {bits:.2}/{budget:.2}"),
        (Some(bits), None) => format!("  bits {bits:.2}"),
        (None, _) => String::new(),
    };
    format!("loss {:.4}  top-1 {top1:.2} %{bits}  {} images/s", loss.total(), rate(images_per_second))
}

fn calibrated(images: usize, sites: &[SiteRow]) -> String {
    let values: u64 = sites.iter().map(|site| site.values).sum();
    let dropped: f64 = sites.iter().map(SiteRow::dropped_values).sum();
    format!(
        "calibrated on {}: {}, {:.2} bits/value, {:.1} % dropped",
        count(images, "image"),
        part(sites.iter().filter(|site| !site.is_left_out()).count(), sites.len(), "site"),
        bits_of(sites),
        dropped / values.max(1) as f64 * 100.0
    )
}

fn finished(summary: &Summary) -> String {
    format!(
        "top-1 {:.2} % (float {:.2} %) at {:.2} bits/value in {}",
        summary.top1,
        summary.float_top1,
        summary.bits_per_value,
        duration(summary.seconds)
    )
}

#[cfg(test)]
mod tests {
    use super::super::events::samples::stage_started;
    use super::*;

    fn losses(budget: Option<f64>) -> Losses {
        Losses { task: 0.5, distillation: None, rate: None, budget }
    }

    #[test]
    fn bits_stand_beside_their_budget_where_there_is_one() {
        for (bits, budget, part) in
            [(Some(4.0), Some(4.5), "  bits 4.00/4.50"), (Some(4.0), None, "  bits 4.00"), (None, None, "")]
        {
            let expected = format!("loss 0.5000  top-1 90.00 %{part}  812 images/s");
            assert_eq!(step(&losses(None), 90.0, bits, budget, 812.0), expected);
        }
    }

    #[test]
    fn what_is_not_a_number_is_seen() {
        let text = step(&losses(Some(f64::NAN)), f64::NAN, None, None, f64::NAN);
        assert_eq!(text, "loss NaN  top-1 NaN %  – images/s");
    }

    #[test]
    fn a_stage_that_only_measures_says_nothing_of_steps() {
        assert_eq!(text(&stage_started(0)), None);
        assert_eq!(text(&stage_started(1200)).unwrap(), "1,200 steps, 3 epochs");
    }
}
