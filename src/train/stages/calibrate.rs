//! The calibration: statistics of every site over training images, then bases, transforms, groups and first quantizers.
//!
//! Two passes over training images, without augmentation and in evaluation mode: channel means and covariances (for the
//! bases), then squared gradients and samples of the coefficients (for sensitivities and distortions). Labels for the
//! gradients are drawn from the network's own prediction: that makes their mean square the Fisher information, and keeps it
//! from vanishing on images that are learned by heart.

use std::time::Instant;

use tch::{Kind, Reduction, Tensor, no_grad};

use crate::compress::basis::{Basis, Moments, columns};
use crate::compress::codec::{Transform, to_channels};
use crate::compress::compressor::{Compressor, GroupStart, PlannedSite};
use crate::compress::distortion::{Coefficients, Distortion};
use crate::compress::freeze::{GroupCost, allocate};
use crate::compress::partition::{Candidates, Partition, PlannedGroup, SitePlan, partition};
use crate::compress::quantizer::levels;
use crate::libtorch::{LibtorchError, Position};
use crate::model::Site;
use crate::recipe::{self, CalibrateStage, Placement, SearchStage};
use crate::report::Event;
use crate::train::error::TrainError;
use crate::train::session::Session;

/// The fractional part of the golden ratio.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Images of a pass with gradients at every site, whose activations are all kept at once.
const GRADIENT_BATCH: i64 = 32;

/// Samples of each coefficient that distortions are measured on.
const SAMPLES: usize = 1024;

/// Carries out the stage: evaluates the float network, builds the session's compressor, and evaluates what calibration
/// alone reaches.
///
/// # Errors
/// If the network, the data or a sink fail.
pub fn carry_out(session: &mut Session<'_>, stage: &CalibrateStage, index: usize) -> Result<(), TrainError> {
    let Some(search) = session.recipe.search() else { return Ok(()) };
    let began = Instant::now();
    let (name, stages) = ("calibrate".to_owned(), session.recipe.stages.len());
    session.sink.event(&Event::StageStarted { stage: name.clone(), index, stages, epochs: 0.0, steps: 0 })?;
    session.float_top1 = Some(session.evaluate("calibrate", false)?.top1);
    calibrate(session, stage, search)?;
    session.evaluate("calibrate", false)?;
    session.sink.event(&Event::StageEnded { stage: name, seconds: began.elapsed().as_secs_f64() })?;
    Ok(())
}

/// Builds the session's compressor.
fn calibrate(session: &mut Session<'_>, stage: &CalibrateStage, search: &SearchStage) -> Result<(), TrainError> {
    session.model.network.set_train(false, false)?;
    let sites: Vec<Site> =
        session.model.sites.iter().filter(|s| session.recipe.sites.selects(&s.name)).cloned().collect();
    let position = match stage.placement {
        Placement::Before => Position::Before,
        Placement::After => Position::After,
    };
    let with_pca = stage.transform != recipe::Transform::None;
    let (bases, means) = measure_moments(session, stage, &sites, position, with_pca)?;
    let gathered = measure_gradients(session, stage, &sites, position, &bases)?;
    let candidates = candidates(stage, &sites, gathered);
    let max_macs = match stage.transform {
        recipe::Transform::Auto => session.model.macs as f64 * stage.max_mac_overhead / 100.0,
        _ => f64::INFINITY,
    };
    let values: f64 = sites.iter().map(|s| s.values() as f64).sum();
    let uncompressed = 32.0 * (session.model.values() as f64 - values);
    // The recipe's bits are over all sites: what the excluded ones take is not there for the others.
    let share = |bits: f64| (bits * session.model.values() as f64 - uncompressed) / values;
    let plan = partition(&candidates, share(search.target_bits), stage.max_groups, max_macs);
    let planned = starts(&sites, &candidates, plan, share(search.start_bits) * values);
    let device = session.device;
    let mut with_transform = Vec::new();
    for (index, (site, (pca, signed, groups))) in sites.into_iter().zip(planned).enumerate() {
        let float = |t: &Tensor| t.f_to_kind(Kind::Float);
        let transform = match &bases[index] {
            Some(basis) if pca => Transform::Pca { basis: float(&basis.vectors)?, mean: float(&basis.mean)?, position },
            _ => Transform::None { mean: float(&means[index])? },
        };
        with_transform.push(PlannedSite { site, transform, signed, groups });
    }
    session.compressor = Some(Compressor::new(&session.model, with_transform, device)?);
    let rows = session.site_rows()?;
    session.sink.event(&Event::Calibrated { images: stage.images.min(session.feed.train_images), sites: rows })?;
    Ok(())
}

/// Bases at the transform's position and channel means behind the activation function.
fn measure_moments(
    session: &mut Session<'_>,
    stage: &CalibrateStage,
    sites: &[Site],
    position: Position,
    with_pca: bool,
) -> Result<(Vec<Option<Basis>>, Vec<Tensor>), TrainError> {
    let device = session.device;
    let mut moments = sites.iter().map(|s| Moments::new(s.channels(), device)).collect::<Result<Vec<_>, _>>()?;
    let mut sums: Vec<Option<Tensor>> = sites.iter().map(|_| None).collect();
    let total = stage.images.min(session.feed.train_images);
    let mut seen = 0_usize;
    for batch in session.feed.calibration() {
        let (x, _) = batch?;
        seen += x.size()[0] as usize;
        let _logits = no_grad(|| {
            session.model.network.forward(&x, |site, side, value| -> Result<Option<Tensor>, LibtorchError> {
                let Some(index) = sites.iter().position(|s| s.index == site) else { return Ok(None) };
                let flat = to_channels(value, &sites[index])?;
                if with_pca && side == position {
                    moments[index].add(&flat)?;
                }
                if side == Position::After {
                    let mean = flat.f_mean_dim([0_i64, 2].as_slice(), false, Kind::Double)?;
                    let weighted = mean.f_mul_scalar(x.size()[0] as f64)?;
                    sums[index] = Some(match sums[index].take() {
                        None => weighted,
                        Some(sum) => sum.f_add(&weighted)?,
                    });
                }
                Ok(None)
            })
        })?;
        session.progress("calibrate", seen.min(total), total, "mean and covariance")?;
        if seen >= total {
            break;
        }
    }
    let bases = moments.iter().map(|m| with_pca.then(|| m.basis()).transpose()).collect::<Result<Vec<_>, _>>()?;
    let means = sums.into_iter().zip(sites).map(|(sum, site)| match sum {
        Some(sum) => Ok(sum.f_div_scalar(seen as f64)?),
        None => Ok(Tensor::f_zeros([site.channels() as i64], (Kind::Double, device))?),
    });
    Ok((bases, means.collect::<Result<Vec<_>, LibtorchError>>()?))
}

/// Squared gradients and samples of one site under one transform.
#[derive(Default)]
struct Gathered {
    /// Sum of squared gradients of each coefficient.
    squares: Option<Tensor>,
    /// Number of values of each coefficient that entered it.
    count: f64,
    /// `[coefficients, samples]` of each batch.
    samples: Vec<Tensor>,
}

impl Gathered {
    /// `values`, `gradients`: `[coefficients, n]`.
    fn add(&mut self, values: &Tensor, gradients: &Tensor, wanted: i64) -> Result<(), LibtorchError> {
        let squares = gradients.f_square()?.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Double)?;
        self.squares = Some(match self.squares.take() {
            None => squares,
            Some(before) => before.f_add(&squares)?,
        });
        let columns = values.size()[1];
        self.count += columns as f64;
        // Multiples of the golden ratio spread evenly over images and over positions: a fixed stride would meet the same
        // few positions in every image.
        let wanted = wanted.min(columns).max(1);
        let pick = |i: i64| ((i as f64 * GOLDEN).fract() * columns as f64) as i64;
        let picks: Vec<i64> = (0..wanted).map(|i| pick(i).min(columns - 1)).collect();
        self.samples.push(values.f_index_select(1, &Tensor::from_slice(&picks).f_to_device(values.device())?)?);
        Ok(())
    }

    fn coefficients(self, signed: bool) -> Result<Coefficients, LibtorchError> {
        let all = Tensor::f_cat(&self.samples, 1)?.f_to_kind(Kind::Float)?.f_to_device(tch::Device::Cpu)?;
        let rows = all.f_unbind(0)?;
        let samples = rows.iter().map(|row| Ok(Vec::<f32>::try_from(row.f_contiguous()?)?));
        let samples = samples.collect::<Result<Vec<_>, LibtorchError>>()?;
        let squares = match &self.squares {
            Some(squares) => Vec::<f64>::try_from(squares.f_to_device(tch::Device::Cpu)?)?,
            None => vec![0.0; samples.len()],
        };
        let sensitivity = squares.iter().map(|s| s / self.count.max(1.0)).collect();
        Ok(Coefficients { signed, samples, sensitivity })
    }
}

/// Without a transform, and with one.
type Both = (Coefficients, Option<Coefficients>);

fn measure_gradients(
    session: &mut Session<'_>,
    stage: &CalibrateStage,
    sites: &[Site],
    position: Position,
    bases: &[Option<Basis>],
) -> Result<Vec<Both>, TrainError> {
    let total = stage.sensitivity_images.min(session.feed.train_images);
    let mut gathered: Vec<(Gathered, Gathered)> = sites.iter().map(|_| Default::default()).collect();
    // Distortions measured on the images that made the basis would favour it; where the set is large enough, others serve.
    let enough = session.feed.train_images >= stage.images + total;
    let mut to_skip = if enough { stage.images } else { 0 };
    let mut seen = 0_usize;
    for batch in session.feed.calibration_in_parts(GRADIENT_BATCH) {
        let x = batch?;
        let images = x.size()[0] as usize;
        if to_skip > 0 {
            to_skip = to_skip.saturating_sub(images);
            continue;
        }
        let wanted = (SAMPLES * images).div_ceil(total) as i64;
        let mut handles: Vec<(usize, Position, Tensor)> = Vec::new();
        let logits =
            session.model.network.forward(&x, |site, side, value| -> Result<Option<Tensor>, LibtorchError> {
                let Some(index) = sites.iter().position(|s| s.index == site) else { return Ok(None) };
                if side != Position::After && (side != position || bases[index].is_none()) {
                    return Ok(None);
                }
                let mut handle = value.f_alias_copy()?;
                if !handle.requires_grad() {
                    handle = handle.f_set_requires_grad(true)?;
                }
                // A second copy goes on: an activation function may overwrite it in place.
                let passed_on = handle.f_alias_copy()?;
                handles.push((index, side, handle));
                Ok(Some(passed_on))
            })?;
        let labels = logits.f_detach()?.f_softmax(1, Kind::Float)?.f_multinomial(1, true)?.f_squeeze_dim(1)?;
        let loss = logits.f_cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Sum, -100, 0.0)?;
        let inputs: Vec<&Tensor> = handles.iter().map(|h| &h.2).collect();
        let gradients = Tensor::f_run_backward(&[loss], &inputs, false, false)?;
        no_grad(|| {
            for ((index, side, value), gradient) in handles.iter().zip(&gradients) {
                let site = &sites[*index];
                // A site that doesn't reach the logits has no gradient: nothing is lost with it.
                let none = if gradient.defined() { None } else { Some(value.f_zeros_like()?) };
                let gradient = none.as_ref().unwrap_or(gradient);
                let value = columns(&to_channels(&value.f_detach()?, site)?)?;
                let gradient = columns(&to_channels(gradient, site)?)?;
                if *side == Position::After {
                    let least = site.lower_bound.unwrap_or(0.0);
                    gathered[*index].0.add(&value.f_sub_scalar(least)?, &gradient, wanted)?;
                }
                if let (true, Some(basis)) = (*side == position, &bases[*index]) {
                    let transposed = basis.vectors.f_transpose(0, 1)?.f_to_kind(Kind::Float)?;
                    let mean = basis.mean.f_to_kind(Kind::Float)?.f_unsqueeze(1)?;
                    let coefficients = transposed.f_matmul(&value.f_sub(&mean)?)?;
                    gathered[*index].1.add(&coefficients, &transposed.f_matmul(&gradient)?, wanted)?;
                }
            }
            Ok::<_, LibtorchError>(())
        })?;
        seen += images;
        session.progress("calibrate", seen.min(total), total, "sensitivity")?;
        if seen >= total {
            break;
        }
    }
    let both = gathered.into_iter().zip(sites).zip(bases).map(|(((none, pca), site), basis)| {
        let pca = basis.as_ref().map(|_| pca.coefficients(true)).transpose()?;
        Ok((none.coefficients(site.lower_bound.is_none())?, pca))
    });
    Ok(both.collect::<Result<Vec<_>, LibtorchError>>()?)
}

/// Distortions of all sites; the sites are shared out among the cores.
fn candidates(stage: &CalibrateStage, sites: &[Site], gathered: Vec<Both>) -> Vec<Candidates> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work: Vec<_> = sites.iter().zip(gathered).collect();
    let measure = |(site, (none, pca)): &(&Site, Both)| Candidates {
        positions: site.positions(),
        none: (stage.transform != recipe::Transform::Pca).then(|| Distortion::measure(none)),
        pca: pca.as_ref().map(Distortion::measure),
        pca_macs: (2 * site.channels() * site.values()) as f64,
    };
    let mut results: Vec<Option<Candidates>> = work.iter().map(|_| None).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done = std::sync::Mutex::new(&mut results);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = work.get(index) else { break };
                    let found = measure(item);
                    if let Ok(mut results) = done.lock() {
                        results[index] = Some(found);
                    }
                }
            });
        }
    });
    results.into_iter().flatten().collect()
}

/// For each site: whether it has PCA, whether codes carry a sign, and its groups with quantizers that together take at most
/// `budget` bits for one image.
fn starts(
    sites: &[Site],
    candidates: &[Candidates],
    plan: Partition,
    budget: f64,
) -> Vec<(bool, bool, Vec<GroupStart>)> {
    let signed = |index: usize, pca: bool| {
        let chosen = if pca { &candidates[index].pca } else { &candidates[index].none };
        chosen.as_ref().is_some_and(|d| d.signed)
    };
    let costs: Vec<GroupCost> = plan
        .sites
        .iter()
        .enumerate()
        .flat_map(|(index, (pca, SitePlan { groups, .. }))| {
            let signed = signed(index, *pca);
            let anchor = anchor_of(groups);
            groups.iter().enumerate().map(move |(g, group)| GroupCost {
                signed,
                values: (group.members.len() * sites[index].positions()) as f64,
                cost: group.cost.clone(),
                anchor: g == anchor,
            })
        })
        .collect();
    let mut bits = allocate(&costs, budget).into_iter();
    let mut number = 0.0_f64;
    plan.sites
        .into_iter()
        .enumerate()
        .map(|(index, (pca, plan))| {
            let signed = signed(index, pca);
            let anchor = anchor_of(&plan.groups);
            let groups = plan.groups.into_iter().enumerate().map(|(g, group)| {
                let bits = bits.next().unwrap_or(0);
                number += 1.0;
                let (step, range) = spread(group.steps[bits.max(1) as usize], bits, signed, number);
                let PlannedGroup { members, cost, steps, .. } = group;
                GroupStart { members, step, range, bits, cost, steps, anchor: g == anchor }
            });
            (pca, signed, groups.collect())
        })
        .collect()
}

/// The group that a site keeps to the last: the first that the plan gives bits.
fn anchor_of(groups: &[PlannedGroup]) -> usize {
    groups.iter().position(|group| group.bits > 0).unwrap_or(0)
}

/// Step and range of a width. Widths that all stood at the very end of their interval would all lose a bit in the same
/// step of the search; the golden ratio spreads them over it.
fn spread(step: f64, bits: u32, signed: bool, number: f64) -> (f64, f64) {
    if bits == 0 {
        return (step, step);
    }
    let range = step * levels(bits, signed);
    let part = 0.9 * (number * GOLDEN).fract();
    let real = f64::from(bits) - part - f64::from(u8::from(signed));
    // At the least width, stay clear of the half step below which a group counts as dropped.
    let wanted = (real.exp2() - 1.0).max(0.6);
    let change = (range / step / wanted).sqrt();
    (step * change, range / change)
}
