//! What calibration measures at the sites: two passes over training images, without augmentation and in evaluation mode.
//!
//! The first gathers channel means and covariances; the second, on other images where there are enough, squared gradients
//! of the loss and samples of values. Labels for the gradients are drawn from the network's own prediction: that makes
//! their mean square the Fisher information, and keeps it from vanishing on images that are learned by heart.

use tch::{Kind, Reduction, Tensor, no_grad};

use super::error::TrainError;
use super::session::Session;
use crate::compress::basis::Moments;
use crate::compress::codec::to_rows;
use crate::compress::distortion::Coefficients;
use crate::compress::quantizer::GOLDEN;
use crate::libtorch::{LibtorchError, Position};
use crate::model::Site;
use crate::recipe::CalibrateStage;

/// Images of a pass with gradients at every site, whose activations are all kept at once.
const GRADIENT_BATCH: i64 = 32;

/// Samples of each channel that distortions are measured on.
const SAMPLES: usize = 1024;

/// What the tensor on one side of a site's activation function showed.
#[derive(Debug)]
pub struct SideStatistics {
    /// Means and, where a transform may stand here, covariances of the channels.
    pub moments: Moments,
    /// Second moments of the gradients.
    gradients: Moments,
    /// `[samples, channels]` of each batch.
    samples: Vec<Tensor>,
}

/// What a site showed on the sides that a codec may stand on.
#[derive(Debug)]
pub struct SiteStatistics {
    before: Option<SideStatistics>,
    /// Behind the activation function; measured for every site.
    after: SideStatistics,
}

impl SiteStatistics {
    /// The statistics of a side; those behind the activation function if the other was not measured.
    pub fn at(&self, position: Position) -> &SideStatistics {
        match (position, &self.before) {
            (Position::Before, Some(before)) => before,
            _ => &self.after,
        }
    }

    fn at_mut(&mut self, position: Position) -> Option<&mut SideStatistics> {
        match position {
            Position::Before => self.before.as_mut(),
            Position::After => Some(&mut self.after),
        }
    }
}

impl SideStatistics {
    fn new(site: &Site, with_covariance: bool, device: tch::Device) -> Result<Self, LibtorchError> {
        let moments = || match with_covariance {
            true => Moments::new(site.channels(), device),
            false => Moments::of_channels_alone(site.channels(), device),
        };
        Ok(Self { moments: moments()?, gradients: moments()?, samples: Vec::new() })
    }

    /// `values`, `gradients`: `[rows, channels]`; keeps `wanted` rows as samples.
    fn add(&mut self, values: &Tensor, gradients: &Tensor, wanted: i64) -> Result<(), LibtorchError> {
        self.gradients.add(gradients)?;
        let rows = values.size()[0];
        // Multiples of the golden ratio spread evenly over images and over positions: a fixed stride would meet the same
        // few positions in every image.
        let wanted = wanted.min(rows).max(1);
        let pick = |i: i64| ((i as f64 * GOLDEN).fract() * rows as f64) as i64;
        let picks: Vec<i64> = (0..wanted).map(|i| pick(i).min(rows - 1)).collect();
        self.samples.push(values.f_index_select(0, &Tensor::from_slice(&picks).f_to_device(values.device())?)?);
        Ok(())
    }

    /// The samples as coefficients: `(x − offset)·basis`, or without a basis `x − offset`. `offset`: `[channels]` or a
    /// scalar, `basis`: `[channels, coefficients]`, both float64.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn coefficients(&self, offset: &Tensor, basis: Option<&Tensor>) -> Result<Coefficients, LibtorchError> {
        let values = Tensor::f_cat(&self.samples, 0)?.f_to_kind(Kind::Double)?.f_sub(offset)?;
        let values = match basis {
            Some(basis) => values.f_matmul(basis)?,
            None => values,
        };
        let columns = values.f_to_kind(Kind::Float)?.f_to_device(tch::Device::Cpu)?.f_transpose(0, 1)?.f_unbind(0)?;
        let samples = columns.iter().map(|column| Ok(Vec::<f32>::try_from(column.f_contiguous()?)?));
        let samples = samples.collect::<Result<Vec<_>, LibtorchError>>()?;
        Ok(Coefficients { samples, sensitivity: self.gradients.second_moments(basis)? })
    }
}

/// Measures `sites`; covariances on the sides `transformed`.
///
/// # Errors
/// If the network, the data or a sink fail.
pub fn measure(
    session: &mut Session<'_>,
    stage: &CalibrateStage,
    sites: &[Site],
    transformed: &[Position],
) -> Result<Vec<SiteStatistics>, TrainError> {
    session.model.network.set_train(false, false)?;
    let device = session.device;
    let empty = |site: &Site| {
        let before = transformed.contains(&Position::Before).then(|| SideStatistics::new(site, true, device));
        let after = SideStatistics::new(site, transformed.contains(&Position::After), device)?;
        Ok::<_, LibtorchError>(SiteStatistics { before: before.transpose()?, after })
    };
    let mut statistics = sites.iter().map(empty).collect::<Result<Vec<_>, _>>()?;
    measure_moments(session, stage, sites, &mut statistics)?;
    measure_gradients(session, stage, sites, &mut statistics)?;
    Ok(statistics)
}

fn measure_moments(
    session: &mut Session<'_>,
    stage: &CalibrateStage,
    sites: &[Site],
    statistics: &mut [SiteStatistics],
) -> Result<(), TrainError> {
    let total = stage.images.min(session.feed.train_images);
    let mut seen = 0_usize;
    for batch in session.feed.calibration() {
        let (x, _) = batch?;
        seen += x.size()[0] as usize;
        let _logits = no_grad(|| {
            session.model.network.forward(&x, |site, position, value| -> Result<Option<Tensor>, LibtorchError> {
                if let Some(index) = sites.iter().position(|s| s.index == site)
                    && let Some(side) = statistics[index].at_mut(position)
                {
                    side.moments.add(&to_rows(value, &sites[index])?)?;
                }
                Ok(None)
            })
        })?;
        session.progress("calibrate", seen.min(total), total, "mean and covariance")?;
        if seen >= total {
            break;
        }
    }
    Ok(())
}

fn measure_gradients(
    session: &mut Session<'_>,
    stage: &CalibrateStage,
    sites: &[Site],
    statistics: &mut [SiteStatistics],
) -> Result<(), TrainError> {
    let total = stage.sensitivity_images.min(session.feed.train_images);
    // Distortions measured on the images that made the basis would favour it; where the set is large enough, others serve.
    // Whole parts are skipped, so up to one more than that.
    let enough =
        session.feed.train_images.saturating_sub(GRADIENT_BATCH as usize) >= stage.images.saturating_add(total);
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
            session.model.network.forward(&x, |site, position, value| -> Result<Option<Tensor>, LibtorchError> {
                let Some(index) = sites.iter().position(|s| s.index == site) else { return Ok(None) };
                if statistics[index].at_mut(position).is_none() {
                    return Ok(None);
                }
                // A product by 1 is a copy that keeps the layout of the memory.
                let mut handle = value.f_mul_scalar(1.0)?;
                if !handle.requires_grad() {
                    handle = handle.f_set_requires_grad(true)?;
                }
                // A second copy goes on: an activation function may overwrite it in place.
                let passed_on = handle.f_mul_scalar(1.0)?;
                handles.push((index, position, handle));
                Ok(Some(passed_on))
            })?;
        let labels = logits.f_detach()?.f_softmax(1, Kind::Float)?.f_multinomial(1, true)?.f_squeeze_dim(1)?;
        let loss = logits.f_cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Sum, -100, 0.0)?;
        let inputs: Vec<&Tensor> = handles.iter().map(|h| &h.2).collect();
        let gradients = Tensor::f_run_backward(&[loss], &inputs, false, false)?;
        no_grad(|| {
            for ((index, position, value), gradient) in handles.iter().zip(&gradients) {
                let site = &sites[*index];
                // A site that doesn't reach the logits has no gradient: nothing is lost with it.
                let none = if gradient.defined() { None } else { Some(value.f_zeros_like()?) };
                let gradient = to_rows(none.as_ref().unwrap_or(gradient), site)?;
                if let Some(side) = statistics[*index].at_mut(*position) {
                    side.add(&to_rows(&value.f_detach()?, site)?, &gradient, wanted)?;
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
    Ok(())
}
