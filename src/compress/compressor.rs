//! All sites of a network: their codecs, the learnable steps and ranges, and the bits that they take.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

use super::codec::{Quantizers, SiteCodec};
use super::freeze::{GroupCost, Limits};
use super::quantizer::{MAX_BITS, inferred_bits, is_void, least_bits, levels, spread, to_16_bits, width_terms};
use super::revival;
use super::transform::Transform;
use crate::libtorch::{Codes, Hooked, LibtorchError, Position};
use crate::model::{Model, Site};

/// What the constructor needs of a site.
#[derive(Debug)]
pub struct PlannedSite {
    /// The site.
    pub site: Site,
    /// Its transform.
    pub transform: Transform,
    /// Which codes it has.
    pub codes: Codes,
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
    /// Not to be dropped while anything else can give way.
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
    /// The least width that each group has had.
    pub(super) lowest: Vec<u32>,
    /// Integer widths, once they are frozen.
    pub(super) frozen: Option<Vec<u32>>,
    codec_of_site: Vec<Option<usize>>,
    device: Device,
}

/// Steps, ranges and widths of all groups at one moment.
struct Numbers {
    steps: Vec<f64>,
    ranges: Vec<f64>,
    bits: Vec<u32>,
}

/// What rounding adds to the `log2(qmax/d)` of a group of the least width.
const AT_LEAST: f64 = 0.01;

/// `log2(qmax/d)` of the least width.
fn least_ratio(codes: Codes) -> f64 {
    levels(least_bits(codes), codes).log2()
}

impl Compressor {
    /// Builds the codecs of `planned` sites of a network.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn new(model: &Model, planned: Vec<PlannedSite>, device: Device) -> Result<Self, LibtorchError> {
        let (mut codecs, mut groups, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        let (mut log_step, mut log_range, mut best_steps) = (Vec::new(), Vec::new(), Vec::new());
        let mut lowest = Vec::new();
        let surveyed = model.network.survey().sites.len();
        let mut codec_of_site = vec![None; surveyed];
        for plan in planned {
            let first_group = groups.len();
            for group in &plan.groups {
                let values = (plan.site.positions() * group.members.len()) as f64;
                let macs = macs_per_coefficient(&plan.site, &plan.transform, true) * group.members.len() as f64;
                let (codes, cost, anchor) = (plan.codes, group.cost.clone(), group.anchor);
                groups.push(GroupCost { codes, values, cost, macs, anchor });
                dropped.push(group.bits == 0);
                best_steps.push(group.steps.clone());
                lowest.push(group.bits);
                log_step.push(group.step.log2() as f32);
                log_range.push(group.range.log2() as f32);
            }
            codec_of_site[plan.site.index] = Some(codecs.len());
            let members = plan.groups.into_iter().map(|g| g.members).collect();
            let (transform, own) = (plan.transform, &dropped[first_group..]);
            codecs.push(SiteCodec::new(plan.site, transform, plan.codes, members, first_group, own, device)?);
        }
        let leaf = |values: &[f32]| -> Result<Tensor, LibtorchError> {
            Ok(Tensor::from_slice(values).f_to_device(device)?.f_set_requires_grad(true)?)
        };
        Ok(Self {
            log_step: leaf(&log_step)?,
            log_range: leaf(&log_range)?,
            total_values: model.values() as f64,
            codecs,
            groups,
            best_steps,
            dropped,
            lowest,
            frozen: None,
            codec_of_site,
            device,
        })
    }

    /// A number for each group, on the device: `[groups]`.
    fn row(&self, of: impl Fn(usize, &GroupCost) -> f64) -> Result<Tensor, LibtorchError> {
        let numbers: Vec<f32> = self.groups.iter().enumerate().map(|(index, group)| of(index, group) as f32).collect();
        Ok(Tensor::from_slice(&numbers).f_to_device(self.device)?)
    }

    /// Steps and ranges for one forward pass, with gradients to [`Self::log_step`] and (before freezing)
    /// [`Self::log_range`]. Frozen, the range is `n·d`, and `d` has 16 significant bits: its multiples up to 8 bits are then
    /// exact, and whoever runs the network gets the same levels, with products that are rounded before a sum or not.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn quantizers(&self) -> Result<Quantizers, LibtorchError> {
        let step = self.log_step.f_exp2()?;
        let Some(bits) = &self.frozen else { return Ok(Quantizers { range: self.log_range.f_exp2()?, step }) };
        let step = to_16_bits(&step)?;
        let range = step.f_mul(&self.row(|index, g| levels(bits[index], g.codes))?)?;
        Ok(Quantizers { step, range })
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
        self.codec_at(site, position).map(|index| self.codecs[index].apply(x, quantizers)).transpose()
    }

    /// Like [`Self::hook`] in fewer passes over memory: the same but for the order of sums. Codecs take the place of their
    /// activation functions where they can, and are then never called with what such a function gives.
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn hook_activated(
        &self,
        site: usize,
        position: Position,
        x: &Tensor,
        quantizers: &Quantizers,
    ) -> Result<Hooked, LibtorchError> {
        if position == Position::Before
            && let Some(index) = self.codec_of(site)
            && let Some(activated) = self.codecs[index].activate(x, quantizers)?
        {
            return Ok(Hooked::Activated(activated));
        }
        let codec = self.codec_at(site, position).map(|index| &self.codecs[index]);
        codec.map(|codec| codec.apply_in_one_pass(x, quantizers)).transpose().map(Hooked::from)
    }

    /// Like [`Self::hook`]; adds the estimated code length of one image to `rates`: see [`SiteCodec::apply_rated`].
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn hook_rated(
        &self,
        site: usize,
        position: Position,
        x: &Tensor,
        quantizers: &Quantizers,
        rates: &mut Vec<Tensor>,
    ) -> Result<Option<Tensor>, LibtorchError> {
        self.codec_at(site, position).map(|index| self.codecs[index].apply_rated(x, quantizers, rates)).transpose()
    }

    /// Like [`Self::hook`], with weights of dropped groups: see [`SiteCodec::apply_with_dropped`].
    ///
    /// # Errors
    /// If the shape is not the site's.
    pub fn hook_with_dropped(
        &self,
        site: usize,
        position: Position,
        x: &Tensor,
        quantizers: &Quantizers,
        weight: &Tensor,
    ) -> Result<Option<Tensor>, LibtorchError> {
        let codec = self.codec_at(site, position).map(|index| &self.codecs[index]);
        codec.map(|codec| codec.apply_with_dropped(x, quantizers, weight)).transpose()
    }

    /// Index of the codec of a surveyed site, if it has one.
    pub fn codec_of(&self, site: usize) -> Option<usize> {
        self.codec_of_site.get(site).copied().flatten()
    }

    /// Index of the codec that stands on this side of a surveyed site.
    pub fn codec_at(&self, site: usize, position: Position) -> Option<usize> {
        self.codec_of(site).filter(|&index| self.codecs[index].position() == position)
    }

    /// The estimated code length in bits per value, from the code lengths of one image that
    /// [`SiteCodec::apply_rated`] gathered; a scalar with gradient.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn rate(&self, rates: &[Tensor]) -> Result<Tensor, LibtorchError> {
        let zero = Tensor::f_zeros([], (Kind::Float, self.device))?;
        let sum = rates.iter().try_fold(zero, |sum, rate| sum.f_add(rate))?;
        Ok(sum.f_div_scalar(self.total_values)?)
    }

    /// Bases that training changes.
    pub fn learned_bases(&self) -> Vec<Tensor> {
        let of = |codec: &SiteCodec| match &codec.transform {
            Transform::Pca(pca) => pca.leaves(),
            Transform::None { .. } => Vec::new(),
        };
        self.codecs.iter().flat_map(of).collect()
    }

    /// A zero for each group, a leaf with gradient, for [`SiteCodec::apply_with_dropped`].
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn zeros(&self) -> Result<Tensor, LibtorchError> {
        let zeros = Tensor::f_zeros([self.groups.len() as i64], (Kind::Float, self.device))?;
        Ok(zeros.f_set_requires_grad(true)?)
    }

    /// Whether anything is dropped.
    pub fn has_dropped(&self) -> bool {
        self.dropped.contains(&true)
    }

    /// Takes dropped groups back where the loss of an image would fall by more than their bits cost: see
    /// [`revival`]. `gains[g]`: how fast the loss falls as group `g` comes back; `price`: what a bit of an image is worth
    /// in the same unit. Returns how many came back.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn revive(&mut self, gains: &[f64], price: f64) -> Result<usize, LibtorchError> {
        let mut dropped = self.dropped.clone();
        let Numbers { mut steps, mut ranges, .. } = self.numbers()?;
        let mut count = 0;
        for g in (0..gains.len()).filter(|&g| self.dropped[g]) {
            let group = &self.groups[g];
            if let Some(bits) = revival::width(group, gains[g], price) {
                (steps[g], ranges[g]) = spread(self.best_steps[g][bits as usize], bits, group.codes, g);
                dropped[g] = false;
                self.lowest[g] = bits;
                count += 1;
                // What the loss says of the group now replaces what calibration expected, or the budget would take it again
                // at once. Half of a measured cost is what it adds to the loss, and half of the slope what is gained.
                let correction = gains[g] / group.cost[0].max(f64::MIN_POSITIVE);
                self.groups[g].cost.iter_mut().for_each(|cost| *cost *= correction);
            }
        }
        if count > 0 {
            self.set_quantizers(&steps, &ranges)?;
            self.set_dropped(&dropped)?;
        }
        Ok(count)
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
        let values = self.row(|index, g| if self.dropped[index] { 0.0 } else { g.values / self.total_values })?;
        let factor = self.row(|_, g| width_terms(g.codes).0)?;
        let extra = self.row(|_, g| width_terms(g.codes).1 + 0.5)?;
        let ratio = self.log_range.f_sub(&self.log_step)?;
        let real = ratio.f_exp2()?.f_mul(&factor)?.f_add_scalar(1.0)?.f_log2()?.f_add(&extra)?;
        // Straight through the limit: a group at 8 bits must feel the budget, too.
        let over = real.f_detach()?.f_sub_scalar(f64::from(MAX_BITS))?.f_clamp_min(0.0)?;
        let bits = real.f_sub(&over)?;
        // An anchor at its least width has nothing to give: pushed on, its step would run away.
        let anchor = self.row(|_, g| f64::from(u8::from(g.anchor)))?;
        let least_ratio = self.row(|_, g| least_ratio(g.codes) + AT_LEAST)?;
        let at_least = ratio.f_detach()?.f_le_tensor(&least_ratio)?.f_logical_and(&anchor)?;
        let least = self.row(|_, g| f64::from(least_bits(g.codes)))?;
        let bits = least.f_where_self(&at_least, &bits)?;
        Ok(bits.f_mul(&values)?.f_sum(Kind::Float)?.f_add_scalar(self.uncompressed_bits() / self.total_values)?)
    }

    /// Bits of one image in sites that have no codec.
    fn uncompressed_bits(&self) -> f64 {
        let covered: f64 = self.groups.iter().map(|g| g.values).sum();
        (self.total_values - covered) * 32.0
    }

    /// The groups as they stand now, fetched from the device once.
    fn numbers(&self) -> Result<Numbers, LibtorchError> {
        let now = no_grad(|| self.quantizers())?;
        let numbers = |t: &Tensor| -> Result<Vec<f64>, LibtorchError> {
            Ok(Vec::<f64>::try_from(t.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?)
        };
        let (steps, ranges) = (numbers(&now.step)?, numbers(&now.range)?);
        let infer = |g: usize| match self.dropped[g] {
            true => 0,
            false => inferred_bits(steps[g], ranges[g], self.groups[g].codes),
        };
        let bits = match &self.frozen {
            Some(bits) => bits.clone(),
            None => (0..self.groups.len()).map(infer).collect(),
        };
        Ok(Numbers { steps, ranges, bits })
    }

    /// Width of each group: frozen, or inferred from step and range; 0 if dropped.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn bits(&self) -> Result<Vec<u32>, LibtorchError> {
        Ok(self.numbers()?.bits)
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
        let Numbers { steps, ranges, bits } = self.numbers()?;
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

    /// Makes the integer widths follow a budget of `allowed` bits per value from above: while they take more, the group
    /// gives way that loses least for a saved bit, to a lower width or to none. A group whose range fell under half a step,
    /// where no code is left between 0 and the range, counts as one that loses nothing. Returns what the last saved bit of an
    /// image has cost, none if nothing had to give way.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn follow(&mut self, allowed: f64) -> Result<Option<f64>, LibtorchError> {
        let limit = allowed * self.total_values - self.uncompressed_bits();
        let Numbers { mut steps, mut ranges, bits: learned } = self.numbers()?;
        if super::freeze::total_bits(&self.groups, &learned) <= limit {
            return Ok(None);
        }
        let void = |g: usize| is_void(steps[g], ranges[g], self.groups[g].codes) && !self.groups[g].anchor;
        let mut costs = self.groups.clone();
        for (g, cost) in costs.iter_mut().enumerate().filter(|(g, _)| void(*g)) {
            let nothing_lost = cost.cost[learned[g] as usize];
            cost.cost.fill(nothing_lost);
        }
        let mut bits = learned.clone();
        let price = super::freeze::lower(&costs, &mut bits, limit);
        for g in (0..bits.len()).filter(|&g| bits[g] != learned[g] && bits[g] > 0) {
            let codes = self.groups[g].codes;
            // A group that learns its bit back and loses it again must come out as it went in: only a width that it never
            // had before changes the product of step and range, by the measured ratio of the best ones.
            let best = |b: u32| self.best_steps[g][b as usize].powi(2) * levels(b, codes);
            let change = if bits[g] < self.lowest[g] { best(bits[g]) / best(self.lowest[g]) } else { 1.0 };
            self.lowest[g] = self.lowest[g].min(bits[g]);
            let full = (steps[g] * ranges[g] * change / levels(bits[g], codes)).sqrt();
            (steps[g], ranges[g]) = spread(full, bits[g], codes, g);
        }
        self.set_quantizers(&steps, &ranges)?;
        self.set_dropped(&bits.iter().map(|&b| b == 0).collect::<Vec<_>>())?;
        Ok(Some(price))
    }

    fn set_quantizers(&mut self, steps: &[f64], ranges: &[f64]) -> Result<(), LibtorchError> {
        no_grad(|| {
            for (leaf, values) in [(&mut self.log_step, steps), (&mut self.log_range, ranges)] {
                let logs: Vec<f32> = values.iter().map(|v| v.log2() as f32).collect();
                leaf.f_copy_(&Tensor::from_slice(&logs).f_to_device(self.device)?)?;
            }
            Ok(())
        })
    }

    fn set_dropped(&mut self, dropped: &[bool]) -> Result<(), LibtorchError> {
        let before = std::mem::replace(&mut self.dropped, dropped.to_vec());
        for codec in &mut self.codecs {
            let own = codec.first_group..codec.first_group + codec.groups.len();
            if dropped[own.clone()] != before[own.clone()] {
                codec.set_dropped(&dropped[own], self.device)?;
            }
        }
        Ok(())
    }

    /// Keeps steps and ranges where the formulas hold: at most 8 bits, and a range not far below the step. What lies outside
    /// is moved back by a change of both, so that their product stays. If the range alone gave way, the budget, which goes on
    /// pushing the two apart or together at the end of the widths, would drive the step to infinity or to nothing.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn clamp(&mut self) -> Result<(), LibtorchError> {
        no_grad(|| {
            let most = self.row(|_, g| levels(MAX_BITS, g.codes).log2())?;
            // Below one step a group is on its way to be dropped; an anchor isn't, and gains nothing from a smaller range. Nor do
            // two mid-rise levels, which are left however small it is.
            let falls = |g: &GroupCost| !g.anchor && g.codes != Codes::MidRise;
            let least = self.row(|_, g| if falls(g) { -2.0 } else { least_ratio(g.codes) })?;
            let ratio = self.log_range.f_sub(&self.log_step)?;
            let back = ratio.f_minimum(&most)?.f_maximum(&least)?.f_sub(&ratio)?.f_mul_scalar(0.5)?;
            let _ = self.log_range.f_add_(&back)?;
            let _ = self.log_step.f_sub_(&back)?;
            Ok(())
        })
    }

    /// Freezes integer widths near the learned ones that take at most `target` bits per value, and at most `max_macs`
    /// multiply-accumulates for the transforms of one image (without what folds). Ranges stay where the width does, and
    /// change by the measured ratio of the best ranges where it doesn't; steps become `qmax/n`. Returns the bits per value.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn freeze(&mut self, target: f64, max_macs: f64) -> Result<f64, LibtorchError> {
        let learned = self.numbers()?;
        let limits = Limits { bits: target * self.total_values - self.uncompressed_bits(), macs: max_macs };
        let bits = super::freeze::meet_budget(&self.groups, &learned.bits, limits);
        self.freeze_at(bits, &learned)
    }

    /// Freezes the widths as they stand. Returns the bits per value.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn freeze_as_planned(&mut self) -> Result<f64, LibtorchError> {
        let planned = self.numbers()?;
        self.freeze_at(planned.bits.clone(), &planned)
    }

    fn freeze_at(&mut self, bits: Vec<u32>, learned: &Numbers) -> Result<f64, LibtorchError> {
        let ranges = &learned.ranges;
        let best_range = |g: usize, b: u32| self.best_steps[g][b as usize] * levels(b, self.groups[g].codes);
        let steps: Vec<f32> = (0..bits.len())
            .map(|g| match (learned.bits[g], bits[g]) {
                (_, 0) => ranges[g].log2() as f32,
                (before, b) => {
                    let change = if before == b { 1.0 } else { best_range(g, b) / best_range(g, before) };
                    (ranges[g] * change / levels(b, self.groups[g].codes)).log2() as f32
                }
            })
            .collect();
        no_grad(|| self.log_step.f_copy_(&Tensor::from_slice(&steps).f_to_device(self.device)?))?;
        self.set_dropped(&bits.iter().map(|&b| b == 0).collect::<Vec<_>>())?;
        self.frozen = Some(bits);
        self.bits_per_value()
    }

    /// Extra multiply-accumulates of the transforms for one image, `kept·channels·positions` there and back; `folded`:
    /// without what folds into a neighbouring layer.
    pub fn extra_macs(&self, folded: bool) -> f64 {
        let of =
            |codec: &SiteCodec| self.kept(codec) as f64 * macs_per_coefficient(&codec.site, &codec.transform, folded);
        self.codecs.iter().map(of).sum()
    }

    /// Coefficients of a codec that are not dropped.
    fn kept(&self, codec: &SiteCodec) -> usize {
        let alive = codec.groups.iter().enumerate().filter(|(g, _)| !self.dropped[codec.first_group + g]);
        alive.map(|(_, members)| members.len()).sum()
    }

    /// Bytes of side information: means and the non-zero entries of kept basis vectors in float32, the group of each
    /// channel in a byte (with blocks its place in two more), step and range of each group in float32.
    pub fn side_information_bytes(&self) -> u64 {
        let of = |codec: &SiteCodec| {
            let channels = codec.site.channels();
            let basis = match &codec.transform {
                Transform::None { .. } => 0,
                Transform::Pca(pca) => {
                    let matrices = if pca.inverse.is_some() { 2 } else { 1 };
                    let places = if pca.block.is_some() { 2 * channels } else { 0 };
                    4 * matrices * pca.vector_length() * self.kept(codec) + places
                }
            };
            (basis + 4 * channels + channels + 8 * codec.groups.len()) as u64
        };
        self.codecs.iter().map(of).sum()
    }
}

/// Multiply-accumulates of transform and inverse for one image and one kept coefficient; `folded`: without the half that
/// folds into a neighbouring layer, the transform before the activation function or the inverse behind it.
pub fn macs_per_coefficient(site: &Site, transform: &Transform, folded: bool) -> f64 {
    match transform {
        Transform::None { .. } => 0.0,
        Transform::Pca(pca) => {
            let one_way = (pca.vector_length() * site.positions()) as f64;
            if folded && site.folds(pca.position) { one_way } else { 2.0 * one_way }
        }
    }
}
