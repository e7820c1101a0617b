//! A run in TensorBoard: curves, histograms, the map of widths, the recipe, and its figures beside those of other runs.

mod hparams;
mod log;
mod map;
mod values;

use std::path::Path;

use log::Log;
use values::{Buckets, chart, image, scalar, text};

use super::{Event, Losses, ReportError, Sink, SiteRow, Summary};

/// Writes a run to an event file, at the global step; docs/monitoring.md lists every tag.
///
/// A value that an event doesn't have is left out. A run that goes on after a cut adds a second event file to the folder,
/// which TensorBoard reads as one log.
pub struct TensorBoard {
    log: Log,
    /// The recipe with every key explicit.
    recipe: String,
    /// The last step that an event told.
    step: u64,
}

impl TensorBoard {
    /// Creates the folder and an event file in it. `recipe` is the resolved recipe of the run.
    ///
    /// # Errors
    /// [`ReportError::Write`] if the folder can't be created or written.
    pub fn open(folder: &Path, recipe: &str) -> Result<TensorBoard, ReportError> {
        Ok(TensorBoard { log: Log::open(folder)?, recipe: recipe.to_owned(), step: 0 })
    }

    fn scalars(&mut self, step: u64, scalars: &[(&str, Option<f64>)]) -> Result<(), ReportError> {
        self.step = step;
        let there = scalars.iter().filter_map(|(tag, value)| value.map(|value| scalar(tag, value)));
        self.log.write(step, there.collect())
    }

    /// What TensorBoard shows of a run from its start on.
    fn started(&mut self, name: &str) -> Result<(), ReportError> {
        // Four spaces make it a block of code, which keeps the recipe's lines.
        let recipe: Vec<String> = self.recipe.lines().map(|line| format!("    {line}")).collect();
        let mut values = vec![text("run/recipe", &recipe.join("\n")), chart()];
        values.extend(hparams::started(name, &self.recipe));
        self.log.write(self.step, values)
    }

    /// Widths, steps and ranges of all sites.
    fn widths(&mut self, step: u64, sites: &[SiteRow], stored: f64) -> Result<(), ReportError> {
        self.step = step;
        let values: f64 = sites.iter().map(|site| site.values as f64).sum();
        let dropped: f64 = sites.iter().map(SiteRow::dropped_values).sum();
        let mut found = vec![
            scalar("bits/stored_convention", stored),
            scalar("bits/dropped_percent", 100.0 * dropped / values.max(1.0)),
        ];
        let (mut steps, mut ranges) = (Vec::new(), Vec::new());
        for site in sites {
            found.push(scalar(&format!("bits_site/{}", site.name), site.bits_per_value));
            for (index, group) in site.groups.iter().enumerate() {
                found.push(scalar(&format!("bits_group/{}/{index}", site.name), f64::from(group.bits)));
                if group.bits > 0 {
                    steps.push((group.step.log2(), 1.0));
                    ranges.push((group.range.log2(), 1.0));
                }
            }
        }
        found.extend(Buckets::even(&steps).map(|buckets| buckets.histogram("quantizer/log2_step")));
        found.extend(Buckets::even(&ranges).map(|buckets| buckets.histogram("quantizer/log2_range")));
        let picture = map::widths(sites);
        let png = map::png(&picture).map_err(ReportError::write(self.log.folder()))?;
        found.push(image("widths/map", picture.width, picture.height, png));
        self.log.write(step, found)
    }

    /// The result's figures, and the end of the session in the table of runs.
    fn finished(&mut self, summary: &Summary) -> Result<(), ReportError> {
        let mut values: Vec<_> = hparams::figures(summary).map(|(tag, value)| scalar(tag, value)).collect();
        values.push(hparams::ended(summary.status));
        self.log.write(self.step, values)
    }
}

impl Sink for TensorBoard {
    fn event(&mut self, event: &Event) -> Result<(), ReportError> {
        match event {
            Event::RunStarted { name, .. } => self.started(name),
            Event::Step {
                step,
                loss,
                top1,
                learning_rate,
                quantizer_learning_rate,
                bits,
                budget_bits,
                multiplier,
                images_per_second,
                waiting,
                ..
            } => {
                let Losses { task, distillation, rate, budget } = *loss;
                self.scalars(
                    *step,
                    &[
                        ("loss/total", Some(loss.total())),
                        ("loss/task", Some(task)),
                        ("loss/distillation", distillation),
                        ("loss/rate", rate),
                        ("loss/budget", budget),
                        ("train/top1", Some(*top1)),
                        ("learning_rate/weights", Some(*learning_rate)),
                        ("learning_rate/quantizers", *quantizer_learning_rate),
                        ("bits/fixed_length", *bits),
                        ("bits/budget", *budget_bits),
                        ("bits/multiplier", *multiplier),
                        ("speed/images_per_second", Some(*images_per_second)),
                        ("speed/waiting_percent", Some(100.0 * waiting)),
                    ],
                )
            }
            Event::Widths { step, sites, bits_stored } => self.widths(*step, sites, *bits_stored),
            Event::Evaluated { step, top1, loss, .. } => {
                self.scalars(*step, &[("validation/top1", Some(*top1)), ("validation/loss", Some(*loss))])
            }
            Event::Codes { step, sites } => {
                self.step = *step;
                let of_site = |site: &super::SiteHistogram| {
                    let codes = site.counts.iter().zip(i32::from(site.least)..);
                    let codes: Vec<(f64, f64)> = codes.map(|(&count, code)| (f64::from(code), count as f64)).collect();
                    Buckets::of_codes(&codes).map(|buckets| buckets.histogram(&format!("codes/{}", site.site)))
                };
                self.log.write(*step, sites.iter().filter_map(of_site).collect())
            }
            Event::Revived { step, groups } => self.scalars(*step, &[("search/revived_groups", Some(*groups as f64))]),
            Event::Finished { summary } => self.finished(summary),
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), ReportError> {
        self.log.close()
    }
}

#[cfg(test)]
mod tests;
