//! What a report shows of a finished run: traffic, codes, and how it went.

use std::path::Path;

use super::codes::RunCodes;
use super::container::SiteLayout;
use super::pack_error::PackError;
use crate::data::Split;
use crate::model::Model;
use crate::recipe::Override;
use crate::report::{RunReport, SiteHistogram, Summary, TensorBits, Timeline, Traffic};
use crate::train::{TrainError, open_run};

/// Validation images that histograms of codes are made of, at most.
const IMAGES: usize = 64;

/// Opens a finished run and describes it. `pj_per_bit`: energy of a bit to or from DRAM in pJ.
///
/// # Errors
/// If a file of the run is missing or damaged.
pub fn describe_run(folder: &Path, overrides: &[Override], pj_per_bit: f64) -> Result<RunReport, PackError> {
    let mut run = open_run(folder, overrides, Split::Validation)?;
    let images = run.feed.images.min(IMAGES);
    let timeline = Timeline::load(&folder.join("metrics.jsonl")).map_err(TrainError::from)?;
    let codes = RunCodes::gather(&mut run, Some(images))?;
    let (relu, stored) = tensors(&run.model, &run.summary);
    Ok(RunReport {
        folder: folder.display().to_string(),
        summary: run.summary,
        relu: Traffic::of(&relu, pj_per_bit),
        stored: Traffic::of(&stored, pj_per_bit),
        histograms: codes.as_ref().map(histograms).unwrap_or_default(),
        histogram_images: codes.map_or(0, |codes| codes.images as u64),
        timeline,
    })
}

/// The tensors of both conventions with the bits that the run stores.
fn tensors(model: &Model, summary: &Summary) -> (Vec<TensorBits>, Vec<TensorBits>) {
    let bits = |site: usize| {
        let name = model.sites.get(site).map(|site| &site.name);
        summary.sites.iter().find(|row| Some(&row.name) == name).map_or(32.0, |row| row.bits_per_value)
    };
    let relu = model.sites.iter().enumerate().map(|(index, site)| TensorBits {
        name: site.name.clone(),
        values: site.values() as u64,
        bits_per_value: bits(index),
    });
    let stored = model.stored.iter().map(|tensor| TensorBits {
        name: tensor.name.clone(),
        values: tensor.values() as u64,
        bits_per_value: tensor.site.map_or(32.0, bits),
    });
    (relu.collect(), stored.collect())
}

/// Codes of each site over all its groups.
fn histograms(codes: &RunCodes) -> Vec<SiteHistogram> {
    let of_site = |(site, groups): (&SiteLayout, &Vec<Vec<i16>>)| {
        let all = || groups.iter().flatten().copied();
        let (least, most) = all().fold((0, 0), |(least, most): (i16, i16), code| (least.min(code), most.max(code)));
        // As far to the left as to the right, so that 0 stands in the middle.
        let least = if least < 0 { least.min(-most) } else { 0 };
        let most = most.max(-least);
        let mut counts = vec![0_u64; usize::from(most.abs_diff(least)) + 1];
        for code in all() {
            if let Some(count) = counts.get_mut(usize::from(code.abs_diff(least))) {
                *count += 1;
            }
        }
        SiteHistogram { site: site.name.clone(), least, counts }
    };
    codes.sites.iter().zip(&codes.codes).map(of_site).collect()
}
