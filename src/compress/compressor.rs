//! All sites of a network: their codecs, the learnable steps and ranges, and the bits that they take.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

use super::codec::{Quantizers, SiteCodec, Transform};
use super::freeze::GroupCost;
use super::quantizer::{MAX_BITS, inferred_bits, is_void, levels};
use crate::libtorch::{LibtorchError, Position};
use crate::model::{Model, Site};

/// What the constructor needs of a site.
#[derive(Debug)]
pub struct PlannedSite {
    /// The site.
    pub site: Site,
    /// Its transform.
    pub transform: Transform,
    /// Codes carry a sign.
    pub signed: bool,
    /// Its groups, the most important first.
    pub groups: Vec<GroupStart>,
}

/// A group at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupStart {
    /// Coefficients (or channels).
    pub members: Vec<usize>,
    /// Step `d`.
    pub step: f64,
    /// Range `qmax`.
    pub range: f64,
    /// Width in bits; 0 if dropped.
    pub bits: u32,
    /// The loss that one image's values add at each width 0..=8.
    pub cost: Vec<f64>,
    /// Best step for each width 0..=8, as calibration measured it.
    pub steps: Vec<f64>,
    /// The group that its site keeps to the last.
    pub anchor: bool,
}

/// A group as it stands now.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupNow {
    /// Number of coefficients.
    pub channels: usize,
    /// Width in bits; 0 if dropped.
    pub bits: u32,
    /// Step `d`.
    pub step: f64,
    /// Range `qmax`.
    pub range: f64,
}

/// The codecs of a network and their learnable quantizers.
///
/// Steps and ranges are learned as base-2 logarithms: they stay positive, and a learning rate is a number of octaves.
#[derive(Debug)]
pub struct Compressor {
    /// One codec a site.
    pub codecs: Vec<SiteCodec>,
    /// `log2 d` of all groups: `[groups]`, a leaf with gradient.
    pub log_step: Tensor,
    /// `log2 qmax` of all groups: `[groups]`, a leaf with gradient.
    pub log_range: Tensor,
    /// Values of one image: all sites of the network, whether they have a codec or not.
    total_values: f64,
    pub(super) groups: Vec<GroupCost>,
    /// For each group, the best step of each width, as calibration measured it.
    pub(super) best_steps: Vec<Vec<f64>>,
    dropped: Vec<bool>,
    /// Integer widths, once they are frozen.
    pub(super) frozen: Option<Vec<u32>>,
    codec_of_site: Vec<Option<usize>>,
    device: Device,
}

impl Compressor {
    /// Builds the codecs of `planned` sites of a network.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn new(model: &Model, planned: Vec<PlannedSite>, device: Device) -> Result<Self, LibtorchError> {
        let (mut codecs, mut groups, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        let (mut log_step, mut log_range, mut best_steps) = (Vec::new(), Vec::new(), Vec::new());
        let surveyed = model.network.survey().sites.len();
        let mut codec_of_site = vec![None; surveyed];
        for plan in planned {
            let first_group = groups.len();
            for group in &plan.groups {
                let values = (plan.site.positions() * group.members.len()) as f64;
                groups.push(GroupCost { signed: plan.signed, values, cost: group.cost.clone(), anchor: group.anchor });
                dropped.push(group.bits == 0);
                best_steps.push(group.steps.clone());
                log_step.push(group.step.log2() as f32);
                log_range.push(group.range.log2() as f32);
            }
            codec_of_site[plan.site.index] = Some(codecs.len());
            let members = plan.groups.into_iter().map(|g| g.members).collect();
            codecs.push(SiteCodec::new(plan.site, plan.transform, plan.signed, members, first_group, device)?);
        }
        let leaf = |values: &[f32]| -> Result<Tensor, LibtorchError> {
            Ok(Tensor::from_slice(values).f_to_device(device)?.f_set_requires_grad(true)?)
        };
        let mut compressor = Self {
            log_step: leaf(&log_step)?,
            log_range: leaf(&log_range)?,
            total_values: model.values() as f64,
            codecs,
            groups,
            best_steps,
            dropped: vec![false; dropped.len()],
            frozen: None,
            codec_of_site,
            device,
        };
        compressor.set_dropped(&dropped)?;
        Ok(compressor)
    }

    /// Steps and ranges for one forward pass, with gradients to [`Self::log_step`] and (before freezing)
    /// [`Self::log_range`]. Frozen, the range is `n·d`.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn quantizers(&self) -> Result<Quantizers, LibtorchError> {
        let step = self.log_step.f_exp2()?;
        let range = match &self.frozen {
            None => self.log_range.f_exp2()?,
            Some(bits) => step.f_mul(&self.levels_of(bits)?)?,
        };
        Ok(Quantizers { step, range })
    }

    fn levels_of(&self, bits: &[u32]) -> Result<Tensor, LibtorchError> {
        let levels: Vec<f32> = bits.iter().zip(&self.groups).map(|(&b, g)| levels(b, g.signed) as f32).collect();
        Ok(Tensor::from_slice(&levels).f_to_device(self.device)?)
    }

    /// The hook of a site: what replaces `x`, if this is the side on which the site's codec stands.
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn hook(
        &self,
        site: usize,
        position: Position,
        x: &Tensor,
        quantizers: &Quantizers,
    ) -> Result<Option<Tensor>, LibtorchError> {
        match self.codec(site) {
            Some(codec) if codec.position() == position => codec.apply(x, quantizers).map(Some),
            _ => Ok(None),
        }
    }

    /// The codec of a surveyed site.
    pub fn codec(&self, site: usize) -> Option<&SiteCodec> {
        self.codec_of_site.get(site).copied().flatten().map(|index| &self.codecs[index])
    }

    /// Bits per value `B` as a differentiable scalar: `Σ values · min(b + ½, 8) / Σ values` with the real-valued `b` before
    /// its ceil. Sites without a codec count 32 bits.
    ///
    /// The half is what the ceil adds on average. The whole widths themselves are no signal to steer by: they stand still
    /// while many groups drift towards the same step, and then fall all at once, far below the budget.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn differentiable_bits(&self) -> Result<Tensor, LibtorchError> {
        let share = |g: &GroupCost, dropped: bool| if dropped { 0.0 } else { (g.values / self.total_values) as f32 };
        let values: Vec<f32> = self.groups.iter().zip(&self.dropped).map(|(g, &d)| share(g, d)).collect();
        let extra: Vec<f32> = self.groups.iter().map(|g| if g.signed { 1.5 } else { 0.5 }).collect();
        let values = Tensor::from_slice(&values).f_to_device(self.device)?;
        let extra = Tensor::from_slice(&extra).f_to_device(self.device)?;
        let levels = self.log_range.f_sub(&self.log_step)?.f_exp2()?;
        let real = levels.f_add_scalar(1.0)?.f_log2()?.f_add(&extra)?;
        // Straight through the limit: a group at 8 bits must feel the budget, too.
        let over = real.f_detach()?.f_sub_scalar(f64::from(MAX_BITS))?.f_clamp_min(0.0)?;
        let bits = real.f_sub(&over)?;
        Ok(bits.f_mul(&values)?.f_sum(Kind::Float)?.f_add_scalar(self.uncompressed_bits() / self.total_values)?)
    }

    /// Bits of one image in sites that have no codec.
    fn uncompressed_bits(&self) -> f64 {
        let covered: f64 = self.groups.iter().map(|g| g.values).sum();
        (self.total_values - covered) * 32.0
    }

    /// Steps and ranges as numbers.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn steps_and_ranges(&self) -> Result<(Vec<f64>, Vec<f64>), LibtorchError> {
        let now = no_grad(|| self.quantizers())?;
        let numbers = |t: &Tensor| -> Result<Vec<f64>, LibtorchError> {
            Ok(Vec::<f64>::try_from(t.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?)
        };
        Ok((numbers(&now.step)?, numbers(&now.range)?))
    }

    /// Width of each group: frozen, or inferred from step and range; 0 if dropped.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn bits(&self) -> Result<Vec<u32>, LibtorchError> {
        if let Some(bits) = &self.frozen {
            return Ok(bits.clone());
        }
        let (steps, ranges) = self.steps_and_ranges()?;
        let infer = |g: usize| match self.dropped[g] {
            true => 0,
            false => inferred_bits(steps[g], ranges[g], self.groups[g].signed),
        };
        Ok((0..self.groups.len()).map(infer).collect())
    }

    /// Bits per value of the original activation tensors, as they stand now.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn bits_per_value(&self) -> Result<f64, LibtorchError> {
        let stored = super::freeze::total_bits(&self.groups, &self.bits()?);
        Ok((stored + self.uncompressed_bits()) / self.total_values)
    }

    /// Each codec's groups as they stand now.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn groups_now(&self) -> Result<Vec<Vec<GroupNow>>, LibtorchError> {
        let bits = self.bits()?;
        let (steps, ranges) = self.steps_and_ranges()?;
        let of_codec = |codec: &SiteCodec| {
            let groups = codec.groups.iter().enumerate().map(|(index, members)| {
                let g = codec.first_group + index;
                let (step, range) = if bits[g] == 0 { (0.0, 0.0) } else { (steps[g], ranges[g]) };
                GroupNow { channels: members.len(), bits: bits[g], step, range }
            });
            groups.collect()
        };
        Ok(self.codecs.iter().map(of_codec).collect())
    }

    /// Drops groups whose range fell under half a step, where no code is left between 0 and the range; a site's most important group stays.
    /// Returns how many were dropped.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn drop_void(&mut self) -> Result<usize, LibtorchError> {
        let (steps, ranges) = self.steps_and_ranges()?;
        let mut dropped = self.dropped.clone();
        for (g, group) in self.groups.iter().enumerate() {
            dropped[g] |= !group.anchor && is_void(steps[g], ranges[g]);
        }
        let count = dropped.iter().zip(&self.dropped).filter(|(now, before)| now != before).count();
        if count > 0 {
            self.set_dropped(&dropped)?;
        }
        Ok(count)
    }

    fn set_dropped(&mut self, dropped: &[bool]) -> Result<(), LibtorchError> {
        self.dropped = dropped.to_vec();
        for codec in &mut self.codecs {
            let own = codec.first_group..codec.first_group + codec.groups.len();
            codec.set_dropped(&dropped[own], self.device)?;
        }
        Ok(())
    }

    /// Keeps steps and ranges where the formulas hold: at most 8 bits, and a range not far below the step.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn clamp(&mut self) -> Result<(), LibtorchError> {
        no_grad(|| {
            let widest: Vec<f32> = self.groups.iter().map(|g| levels(MAX_BITS, g.signed).log2() as f32).collect();
            let most = self.log_step.f_add(&Tensor::from_slice(&widest).f_to_device(self.device)?)?;
            // Below one step a group is on its way to be dropped; an anchor isn't, and gains nothing from a smaller range.
            let slack: Vec<f32> = self.groups.iter().map(|g| if g.anchor { 0.0 } else { 2.0 }).collect();
            let least = self.log_step.f_sub(&Tensor::from_slice(&slack).f_to_device(self.device)?)?;
            let clamped = self.log_range.f_minimum(&most)?.f_maximum(&least)?;
            self.log_range.f_copy_(&clamped)?;
            Ok(())
        })
    }

    /// Freezes integer widths near the learned ones that take at most `target` bits per value. Ranges stay where the width
    /// does, and change by the measured ratio of the best ranges where it doesn't; steps become `qmax/n`. Returns the bits
    /// per value.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn freeze(&mut self, target: f64) -> Result<f64, LibtorchError> {
        let learned = self.bits()?;
        let budget = target * self.total_values - self.uncompressed_bits();
        let bits = super::freeze::meet_budget(&self.groups, &learned, budget);
        let (_, ranges) = self.steps_and_ranges()?;
        let best_range = |g: usize, b: u32| self.best_steps[g][b as usize] * levels(b, self.groups[g].signed);
        let steps: Vec<f32> = (0..bits.len())
            .map(|g| match (learned[g], bits[g]) {
                (_, 0) => ranges[g].log2() as f32,
                (before, b) => {
                    let change = if before == b { 1.0 } else { best_range(g, b) / best_range(g, before) };
                    (ranges[g] * change / levels(b, self.groups[g].signed)).log2() as f32
                }
            })
            .collect();
        no_grad(|| self.log_step.f_copy_(&Tensor::from_slice(&steps).f_to_device(self.device)?))?;
        self.set_dropped(&bits.iter().map(|&b| b == 0).collect::<Vec<_>>())?;
        self.frozen = Some(bits);
        self.bits_per_value()
    }

    /// Extra multiply-accumulates of the transforms for one image: `kept·channels·positions`, there and back, unfolded.
    pub fn extra_macs(&self) -> f64 {
        let of = |codec: &SiteCodec| match codec.transform {
            Transform::None { .. } => 0.0,
            Transform::Pca { .. } => 2.0 * (codec.kept() * codec.site.values()) as f64,
        };
        self.codecs.iter().map(of).sum()
    }

    /// Bytes of side information: means and kept basis vectors in float32, the group of each channel in a byte, step and
    /// range of each group in float32.
    pub fn side_information_bytes(&self) -> u64 {
        let of = |codec: &SiteCodec| {
            let channels = codec.site.channels();
            let basis = match codec.transform {
                Transform::None { .. } => 0,
                Transform::Pca { .. } => 4 * channels * codec.kept(),
            };
            (basis + 4 * channels + channels + 8 * codec.groups.len()) as u64
        };
        self.codecs.iter().map(of).sum()
    }
}
