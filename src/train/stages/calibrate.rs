//! The calibration: statistics of every site over training images, then bases, transforms, groups and first quantizers.

use std::sync::Arc;
use std::time::Instant;

use tch::{Kind, Tensor};

use crate::compress::compressor::{Compressor, GroupStart, PlannedSite, macs_per_coefficient};
use crate::compress::distortion::Distortion;
use crate::compress::freeze::{GroupCost, Limits, meet_budget};
use crate::compress::partition::{
    Candidate, Candidates, Freedom, Partition, PlannedGroup, Widths, partition, partition_kept,
};
use crate::compress::quantizer::{MAX_BITS, least_bits, levels, spread};
use crate::compress::transform::{Block, Pca, Transform};
use crate::libtorch::{Codes, LibtorchError, Position};
use crate::model::Site;
use crate::recipe::{self, BasisLearning, CalibrateStage, ComponentCodes, InitialRanges, Placement};
use crate::report::Event;
use crate::train::error::TrainError;
use crate::train::session::Session;
use crate::train::statistics::{SiteStatistics, measure};
use crate::train::stop::Stop;

/// Carries out the stage: evaluates the float network, builds the session's compressor, and evaluates what calibration
/// alone reaches.
///
/// # Errors
/// If the network, the data or a sink fail.
pub fn carry_out(session: &mut Session<'_>, stage: &CalibrateStage, index: usize) -> Result<Option<f64>, TrainError> {
    let began = Instant::now();
    let (name, stages) = ("calibrate".to_owned(), session.recipe.stages.len());
    session.sink.event(&Event::StageStarted { stage: name.clone(), index, stages, epochs: 0.0, steps: 0 })?;
    let float = session.evaluate("calibrate", false)?;
    session.float_top1 = Some(float.top1);
    if is_chance(float.top1, float.images, session.model.classes) {
        let message = format!(
            "the float network's top-1 on the validation images, {:.2} %, is no better than chance at {} classes: what follows \
             tells nothing of the compression. Train it longer (running statistics of batch normalisation take many steps \
             where its momentum is low), or check that images are prepared and classes numbered as the network knows them",
            float.top1, session.model.classes
        );
        session.sink.event(&Event::Warning { message })?;
    }
    let follows = |stage: &recipe::Stage| match stage {
        recipe::Stage::Search(stage) => stage.distillation > 0.0,
        recipe::Stage::Finetune(stage) => stage.distillation > 0.0,
        recipe::Stage::Train(_) | recipe::Stage::Calibrate(_) => false,
    };
    if session.recipe.stages.iter().any(follows) {
        session.keep_teacher()?;
        session.save_teacher()?;
    }
    calibrate(session, stage)?;
    session.report_widths()?;
    let reached = session.evaluate("calibrate", true)?;
    session.sink.event(&Event::StageEnded { stage: name, seconds: began.elapsed().as_secs_f64() })?;
    Ok(Some(reached.top1))
}

/// Whether a top-1 accuracy in percent is within two standard deviations of guessing, or below.
fn is_chance(top1: f64, images: usize, classes: usize) -> bool {
    let guess = 1.0 / classes.max(1) as f64;
    let deviation = (guess * (1.0 - guess) / images.max(1) as f64).sqrt();
    classes > 1 && top1 / 100.0 <= guess + 2.0 * deviation
}

/// Builds the session's compressor.
///
/// # Errors
/// If the network, the data or a sink fail.
pub fn calibrate(session: &mut Session<'_>, stage: &CalibrateStage) -> Result<(), TrainError> {
    let sites: Vec<Site> =
        session.model.sites.iter().filter(|s| session.recipe.sites.selects(&s.name)).cloned().collect();
    let positions: &[Position] = match (stage.transform, stage.placement) {
        (recipe::Transform::None, _) => &[],
        (_, Placement::Before) => &[Position::Before],
        (_, Placement::After) => &[Position::After],
        (_, Placement::Auto) => &[Position::Before, Position::After],
    };
    let statistics = measure(session, stage, &sites, positions)?;
    let mut options = Vec::with_capacity(sites.len());
    for (site, statistics) in sites.iter().zip(&statistics) {
        session.may_go_on("calibrate")?;
        options.push(transforms(stage, site, statistics, positions)?);
    }
    let candidates = candidates(&sites, &statistics, &options, &session.stop)?;
    session.may_go_on("calibrate")?;
    let values: f64 = sites.iter().map(|s| s.values() as f64).sum();
    let uncompressed = 32.0 * (session.model.values() as f64 - values);
    // The recipe's bits are over all sites: what the excluded ones take is not there for the others.
    let bits_of_image = |bits: f64| bits * session.model.values() as f64 - uncompressed;
    let target = session.recipe.target_bits().map_or(f64::INFINITY, bits_of_image);
    let freedom = Freedom {
        widths: match (stage.bits, stage.target_bits) {
            (None, _) => Widths::Any,
            (Some(bits), Some(_)) => Widths::OneOrDropped(bits),
            (Some(bits), None) => Widths::One(bits),
        },
        max_groups: stage.max_groups,
        rule: stage.partition,
    };
    let max_macs = stage.max_macs(session.model.macs);
    let plan = match stage.kept {
        Some(kept) => partition_kept(&candidates, kept, target, freedom, max_macs),
        None => partition(&candidates, target, freedom, max_macs),
    };
    let start = session.recipe.search().map(|search| bits_of_image(search.first_bits()));
    let groups = starts(stage, &sites, &candidates, &plan, start);
    let device = session.device;
    let mut planned = Vec::with_capacity(sites.len());
    let decided = plan.sites.iter().zip(&candidates).zip(groups);
    for ((site, mut options), (((choice, _), measured), groups)) in sites.into_iter().zip(options).zip(decided) {
        let (transform, _) = options.swap_remove(of_candidates(&options)[*choice]);
        let codes = measured.transforms[*choice].distortion.codes;
        planned.push(PlannedSite { site, transform: learnable(transform, stage.basis)?, codes, groups });
    }
    let mut compressor = Compressor::new(&session.model, planned, device)?;
    if stage.bits.is_some() {
        compressor.freeze_as_planned()?;
    }
    session.compressor = Some(compressor);
    let rows = session.site_rows()?;
    session.sink.event(&Event::Calibrated { images: stage.images.min(session.feed.train_images), sites: rows })?;
    Ok(())
}

/// A transform that a site may get, with the kinds of codes that it may have there.
type Choice = (Transform, &'static [Codes]);

/// The index in a site's `choices` of each of its candidates: one for each kind of codes.
fn of_candidates(choices: &[Choice]) -> Vec<usize> {
    choices.iter().enumerate().flat_map(|(index, (_, kinds))| kinds.iter().map(move |_| index)).collect()
}

/// The transforms that a site may get, from its statistics.
fn transforms(
    stage: &CalibrateStage,
    site: &Site,
    statistics: &SiteStatistics,
    positions: &[Position],
) -> Result<Vec<Choice>, LibtorchError> {
    use recipe::Transform as Wanted;
    let float = |t: &Tensor| t.f_to_kind(Kind::Float);
    let mut options = Vec::new();
    if matches!(stage.transform, Wanted::None | Wanted::Auto) {
        // Without a transform a dropped channel is one whose only level is 0.
        let codes: &[Codes] = if site.lower_bound.is_some() { &[Codes::Unsigned] } else { &[Codes::MidTread] };
        options.push((Transform::None { mean: float(&statistics.at(Position::After).moments.mean()?)? }, codes));
    }
    let of_components: &'static [Codes] = match stage.codes {
        ComponentCodes::Auto => &[Codes::MidRise, Codes::MidTread],
        ComponentCodes::MidRise => &[Codes::MidRise],
        ComponentCodes::MidTread => &[Codes::MidTread],
    };
    for &position in positions {
        let moments = &statistics.at(position).moments;
        let blocks = stage.block_channels < site.channels();
        if matches!(stage.transform, Wanted::Pca | Wanted::Auto) || (stage.transform == Wanted::Block && !blocks) {
            let (basis, mean) = (float(&moments.basis()?)?, float(&moments.mean()?)?);
            options.push((Transform::Pca(Pca { basis, inverse: None, mean, position, block: None }), of_components));
        }
        if matches!(stage.transform, Wanted::Block | Wanted::Auto) && blocks {
            let (basis, mask) = moments.block_basis(stage.block_channels)?;
            let (basis, mean) = (float(&basis)?, float(&moments.mean()?)?);
            let block = Some(Block { channels: stage.block_channels, mask: float(&mask)? });
            options.push((Transform::Pca(Pca { basis, inverse: None, mean, position, block }), of_components));
        }
    }
    Ok(options)
}

/// Makes the basis a parameter, as the recipe asks.
fn learnable(transform: Transform, learning: BasisLearning) -> Result<Transform, LibtorchError> {
    let Transform::Pca(mut pca) = transform else { return Ok(transform) };
    if learning == BasisLearning::Apart {
        pca.inverse = Some(pca.basis.f_mul_scalar(1.0)?.f_set_requires_grad(true)?);
    }
    if learning != BasisLearning::Fixed {
        pca.basis = pca.basis.f_set_requires_grad(true)?;
    }
    Ok(Transform::Pca(pca))
}

/// Distortions of all transforms of all sites, as far as it comes before the run is to stop; they are shared out among the
/// cores.
fn candidates(
    sites: &[Site],
    statistics: &[SiteStatistics],
    options: &[Vec<Choice>],
    stop: &Stop,
) -> Result<Vec<Candidates>, LibtorchError> {
    let mut work = Vec::new();
    for ((site, statistics), options) in sites.iter().zip(statistics).zip(options) {
        for (transform, kinds) in options {
            let side = statistics.at(transform.position());
            let double = |t: &Tensor| t.f_to_kind(Kind::Double);
            let coefficients = match transform {
                Transform::None { .. } => {
                    let least = Tensor::from(site.lower_bound.unwrap_or(0.0));
                    side.coefficients(&least, None)?
                }
                Transform::Pca(pca) => side.coefficients(&double(&pca.mean)?, Some(&double(&pca.basis)?))?,
            };
            let (coefficients, macs) = (Arc::new(coefficients), macs_per_coefficient(site, transform, true));
            work.extend(kinds.iter().map(|&codes| (Arc::clone(&coefficients), codes, macs)));
        }
    }
    let mut measured: Vec<Option<Candidate>> = work.iter().map(|_| None).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done = std::sync::Mutex::new(&mut measured);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while !stop.is_asked() {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((coefficients, codes, macs)) = work.get(index) else { break };
                    let found = Candidate {
                        distortion: Distortion::measure(coefficients, *codes),
                        macs_per_coefficient: *macs,
                    };
                    if let Ok(mut measured) = done.lock() {
                        measured[index] = Some(found);
                    }
                }
            });
        }
    });
    let mut measured = measured.into_iter().flatten();
    let of_site = |(site, options): (&Site, &Vec<Choice>)| Candidates {
        positions: site.positions(),
        transforms: measured.by_ref().take(of_candidates(options).len()).collect(),
    };
    Ok(sites.iter().zip(options).map(of_site).collect())
}

/// The groups of each site with their first quantizers: at the widths of the plan where widths are fixed, else at widths
/// that together take at most `budget` bits for one image.
fn starts(
    stage: &CalibrateStage,
    sites: &[Site],
    candidates: &[Candidates],
    plan: &Partition,
    budget: Option<f64>,
) -> Vec<Vec<GroupStart>> {
    // What a dimension reduction has kept before the search is not for the search to drop.
    let anchor = |index: usize, group: &PlannedGroup| index == 0 || (stage.kept.is_some() && group.bits > 0);
    let mut costs = Vec::new();
    for ((site, candidates), (choice, site_plan)) in sites.iter().zip(candidates).zip(&plan.sites) {
        let Candidate { distortion, macs_per_coefficient } = &candidates.transforms[*choice];
        for (index, group) in site_plan.groups.iter().enumerate() {
            costs.push(GroupCost {
                codes: distortion.codes,
                values: (group.members.len() * site.positions()) as f64,
                cost: group.cost.clone(),
                macs: macs_per_coefficient * group.members.len() as f64,
                anchor: anchor(index, group),
            });
        }
    }
    let planned = || plan.sites.iter().flat_map(|(_, site)| &site.groups).map(|group| group.bits);
    let bits: Vec<u32> = match budget {
        None => planned().collect(),
        Some(bits) => {
            let kept_alone = |bits: u32| if stage.kept.is_some() && bits == 0 { 0 } else { MAX_BITS };
            let widest: Vec<u32> = planned().map(kept_alone).collect();
            // The transforms' limit holds at the target; until then more may be kept.
            meet_budget(&costs, &widest, Limits { bits, macs: f64::INFINITY })
        }
    };
    let mut number = 0_usize;
    let of_site = |(candidates, (choice, site)): (&Candidates, &(usize, crate::compress::partition::SitePlan))| {
        let distortion = &candidates.transforms[*choice].distortion;
        let group = |(index, group): (usize, &PlannedGroup)| {
            let (codes, bits) = (distortion.codes, bits[number]);
            let step = match stage.initial_ranges {
                InitialRanges::Mse => group.steps[bits.max(1) as usize],
                InitialRanges::Max if group.largest > 0.0 => group.largest / levels(bits.max(least_bits(codes)), codes),
                InitialRanges::Max => 1.0,
            };
            let (step, range) = match (bits, budget) {
                (0, _) => (step, step),
                (_, Some(_)) => spread(step, bits, codes, number),
                (_, None) => (step, step * levels(bits, codes)),
            };
            number += 1;
            let (members, cost, steps) = (group.members.clone(), group.cost.clone(), group.steps.clone());
            GroupStart { members, step, range, bits, cost, steps, anchor: anchor(index, group) }
        };
        site.groups.iter().enumerate().map(group).collect()
    };
    candidates.iter().zip(&plan.sites).map(of_site).collect()
}

#[cfg(test)]
mod tests {
    use super::is_chance;

    #[test]
    fn guessing_is_told_from_knowing() {
        // One in ten of 1,000 images: 1.9 percentage points are two standard deviations.
        for (top1, images, classes, chance) in [
            (10.0, 1000, 10, true),
            (11.8, 1000, 10, true),
            (12.0, 1000, 10, false),
            (0.1, 50_000, 1000, true),
            (0.2, 50_000, 1000, false),
            (50.0, 10, 2, true),
            (100.0, 1000, 1, false),
        ] {
            assert_eq!(is_chance(top1, images, classes), chance, "{top1} % of {images}, {classes} classes");
        }
    }
}
