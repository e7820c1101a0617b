//! Does an exported network do what its run does? Both see the same images; predictions, logits and every site's codes are
//! compared.
//!
//! Two programs add up the same numbers in different orders, so a value that is a tie between two codes, on the boundary
//! between them but for [`TIE`] of its scale, may fall either way; from there on the image's further codes have another
//! input. So of each image only the first site whose codes differ is judged, in the network's order: differences there that
//! are no tie are the export's fault, and so are logits that differ by more than [`LOGITS`] of their scale although all codes
//! agree. A prediction may differ where the image's codes parted by a tie, or where the run's two best logits are one. The
//! scale is the largest magnitude among the image's values at the site, or among its logits.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor, no_grad};

use super::error::ExportError;
use super::metadata::Metadata;
use super::verdict::{Difference, Verdict};
use crate::compress::codec::{Quantizers, to_rows};
use crate::compress::plain::PlainCodec;
use crate::libtorch::{LibtorchError, Position};
use crate::train::{OpenedRun, TrainError};

/// How far logits may lie apart where all codes agree, as a part of their scale.
pub const LOGITS: f64 = 1e-3;

/// How near a value lies to the boundary between two codes, or the two best logits to each other, if that is a tie: as a part
/// of their scale.
pub const TIE: f64 = 1e-5;

/// Values of all sites that are compared at once.
const VALUES_AT_ONCE: usize = 1 << 24;

/// What an exported network says of images.
#[derive(Debug)]
pub struct Answers {
    /// `[batch, classes]`.
    pub logits: Tensor,
    /// Codes by the name of the site, the site's shape with the kept coefficients in the place of the channels; without the
    /// sites that the format can't tell of.
    pub codes: BTreeMap<String, Tensor>,
}

/// An exported network in whatever format.
pub trait Exported {
    /// The file.
    fn path(&self) -> &Path;

    /// What the file tells of itself.
    fn metadata(&self) -> &Metadata;

    /// Runs it. `images`: `[batch, channels, height, width]`, normalised as in training.
    ///
    /// # Errors
    /// If it fails.
    fn run(&mut self, images: &Tensor) -> Result<Answers, ExportError>;
}

/// Compares a run with an export on the first `limit` images of the split that it was opened with (all without it).
///
/// # Errors
/// [`ExportError::Foreign`] for an export of another run, or what running the two fails with.
pub fn verify(run: &mut OpenedRun, file: &mut dyn Exported, limit: Option<usize>) -> Result<Verdict, ExportError> {
    belongs(run, file)?;
    run.model.network.set_exact_evaluation()?;
    let total = limit.unwrap_or(usize::MAX).min(run.feed.images) as i64;
    let part = (VALUES_AT_ONCE / run.model.values().max(1)).max(1) as i64;
    let mut comparison = Comparison::new(run)?;
    'all: for batch in run.feed.all() {
        let (images, labels) = batch?;
        for (images, labels) in images.f_split(part, 0)?.into_iter().zip(labels.f_split(part, 0)?) {
            let count = images.size()[0].min(total - comparison.images);
            if count == 0 {
                break 'all;
            }
            let (images, labels) = (images.f_narrow(0, 0, count)?, labels.f_narrow(0, 0, count)?);
            comparison.add(run, file, &images, &labels)?;
        }
    }
    Ok(comparison.verdict())
}

fn belongs(run: &OpenedRun, file: &dyn Exported) -> Result<(), ExportError> {
    let (found, wanted) = (file.metadata(), &run.summary);
    let checkpoint_sha256 = run.checkpoint_sha256()?;
    let keys = [
        ("network", "model_sha256", &found.model_sha256, &wanted.model_sha256),
        ("run", "recipe_sha256", &found.recipe_sha256, &wanted.recipe_sha256),
        ("run", "checkpoint_sha256", &found.checkpoint_sha256, &checkpoint_sha256),
    ];
    match keys.into_iter().find(|(_, _, found, wanted)| found != wanted) {
        None => Ok(()),
        Some((what, key, found, wanted)) => Err(ExportError::Foreign {
            path: file.path().to_path_buf(),
            what,
            key,
            found: found.clone(),
            wanted: wanted.clone(),
        }),
    }
}

/// What is counted of one site.
#[derive(Debug, Clone, Default)]
struct Count {
    differ: i64,
    of: i64,
    images: i64,
}

impl Count {
    fn add(&mut self, differ: &Tensor, judged: &Tensor, values: i64) -> Result<(), LibtorchError> {
        self.differ += sum(differ)?;
        self.images += sum(&differ.f_gt(0)?)?;
        self.of += sum(judged)? * values;
        Ok(())
    }
}

struct Comparison {
    quantizers: Option<Quantizers>,
    /// One a codec.
    plain: Vec<PlainCodec>,
    images: i64,
    agree: i64,
    correct: (i64, i64),
    max_logit_difference: f64,
    max_logit_difference_same_codes: f64,
    /// One a codec, in the network's order.
    sites: Vec<Count>,
    behind: Count,
    ties: i64,
    rounded: i64,
    unexplained: i64,
    codes_rounded: i64,
    images_rounded: i64,
    widest_tie: f64,
    /// Names of the codecs' sites.
    names: Vec<String>,
}

/// What a codec of the run says: its codes and the values in steps that were rounded to them, `[rows, kept]` each, and the
/// steps, `[kept]`.
struct Said {
    codes: Tensor,
    scaled: Tensor,
    step: Tensor,
}

/// The sum of whole numbers or truth values.
fn sum(tensor: &Tensor) -> Result<i64, LibtorchError> {
    Ok(tensor.f_sum(Kind::Int64)?.f_int64_value(&[])?)
}

impl Comparison {
    fn new(run: &OpenedRun) -> Result<Self, ExportError> {
        let codecs = run.compressor.as_ref().map(|c| c.codecs.as_slice()).unwrap_or_default();
        let quantizers = run.compressor.as_ref().map(|c| no_grad(|| c.quantizers())).transpose()?;
        let plain = quantizers.iter().flat_map(|q| codecs.iter().map(|codec| codec.plain(q)));
        Ok(Self {
            plain: plain.collect::<Result<_, _>>()?,
            quantizers,
            images: 0,
            agree: 0,
            correct: (0, 0),
            max_logit_difference: 0.0,
            max_logit_difference_same_codes: 0.0,
            sites: vec![Count::default(); codecs.len()],
            behind: Count::default(),
            ties: 0,
            rounded: 0,
            unexplained: 0,
            codes_rounded: 0,
            images_rounded: 0,
            widest_tie: 0.0,
            names: codecs.iter().map(|codec| codec.site.name.clone()).collect(),
        })
    }

    /// Counts what a part of a batch shows.
    fn add(
        &mut self,
        run: &OpenedRun,
        file: &mut dyn Exported,
        images: &Tensor,
        labels: &Tensor,
    ) -> Result<(), ExportError> {
        let count = images.size()[0];
        let (wanted, said) = self.forward(run, images)?;
        let found = file.run(images)?;
        if found.logits.size() != wanted.size() {
            let reason = format!("it returned logits of shape {:?}, the run {:?}", found.logits.size(), wanted.size());
            return Err(ExportError::Failed { path: file.path().to_path_buf(), images: images.size(), reason });
        }
        // [images]: all codes so far are the same; they parted by rounding alone.
        let mut same = Tensor::f_ones([count], (Kind::Bool, images.device()))?;
        let mut rounded = same.f_logical_not()?;
        for (index, said) in said.iter().enumerate() {
            let (Some(said), Some(codes)) = (said, found.codes.get(&self.names[index])) else { continue };
            let channels_last = run.compressor.as_ref().is_some_and(|c| c.codecs[index].site.channels_last);
            let Differences { wrong, ties, widest } = differences(said, codes, channels_last, count)?;
            let judged = same.f_to_kind(Kind::Int64)?;
            let wrong_here = wrong.f_mul(&judged)?;
            let values = said.codes.numel() as i64 / count.max(1);
            self.sites[index].add(&wrong_here, &judged, values)?;
            let only_ties = ties.f_gt(0)?.f_logical_and(&wrong.f_eq(0)?)?.f_logical_and(&same)?;
            self.codes_rounded += sum(&ties.f_mul(&only_ties.f_to_kind(Kind::Int64)?)?)?;
            let widest = widest.f_mul(&only_ties.f_to_kind(widest.kind())?)?.f_max()?.f_double_value(&[])?;
            self.widest_tie = self.widest_tie.max(widest);
            rounded = rounded.f_logical_or(&only_ties)?;
            same = same.f_logical_and(&wrong.f_add(&ties)?.f_eq(0)?)?;
        }
        self.images_rounded += sum(&rounded)?;
        self.logits(&wanted, &found.logits, labels, &same, &rounded)?;
        self.images += count;
        Ok(())
    }

    /// The run's logits, and what each of its codecs says.
    fn forward(&self, run: &OpenedRun, images: &Tensor) -> Result<(Tensor, Vec<Option<Said>>), ExportError> {
        let mut said: Vec<Option<Said>> = self.plain.iter().map(|_| None).collect();
        let hook = |site: usize, position: Position, value: &Tensor| -> Result<Option<Tensor>, LibtorchError> {
            let (Some(compressor), Some(quantizers)) = (&run.compressor, &self.quantizers) else { return Ok(None) };
            if let Some(index) = compressor.codec_at(site, position) {
                let codec = &compressor.codecs[index];
                let scaled = self.plain[index].scaled(&to_rows(value, &codec.site)?)?;
                let step = self.plain[index].step.shallow_clone();
                said[index] = Some(Said { codes: codec.codes(value, quantizers)?.0, scaled, step });
            }
            compressor.hook(site, position, value, quantizers)
        };
        let logits = no_grad(|| run.model.network.forward(images, hook)).map_err(TrainError::from)?;
        Ok((logits, said))
    }

    fn logits(
        &mut self,
        wanted: &Tensor,
        found: &Tensor,
        labels: &Tensor,
        same: &Tensor,
        rounded: &Tensor,
    ) -> Result<(), ExportError> {
        let (by_run, by_file) = (wanted.f_argmax(1, false)?, found.f_argmax(1, false)?);
        self.correct.0 += sum(&by_run.f_eq_tensor(labels)?)?;
        self.correct.1 += sum(&by_file.f_eq_tensor(labels)?)?;
        let agree = by_run.f_eq_tensor(&by_file)?;
        self.agree += sum(&agree)?;
        let apart = wanted.f_sub(found)?.f_abs()?;
        let largest = |apart: &Tensor| -> Result<f64, LibtorchError> { Ok(apart.f_max()?.f_double_value(&[])?) };
        self.max_logit_difference = self.max_logit_difference.max(largest(&apart)?);
        let agreeing = apart.f_mul(&same.f_unsqueeze(1)?.f_to_kind(apart.kind())?)?;
        self.max_logit_difference_same_codes = self.max_logit_difference_same_codes.max(largest(&agreeing)?);
        let scale = wanted.f_abs()?.f_amax([1_i64].as_slice(), true)?;
        let wrong = apart.f_gt_tensor(&scale.f_mul_scalar(LOGITS)?)?.f_logical_and(&same.f_unsqueeze(1)?)?;
        let wrong = wrong.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Int64)?;
        self.behind.add(&wrong, same, wanted.size()[1])?;
        let differ = agree.f_logical_not()?;
        let best = wanted.f_topk(wanted.size()[1].min(2), 1, true, true)?.0;
        let gap = best.f_amax([1_i64].as_slice(), false)?.f_sub(&best.f_amin([1_i64].as_slice(), false)?)?;
        let tie = gap.f_le_tensor(&scale.f_squeeze_dim(1)?.f_mul_scalar(TIE)?)?.f_logical_and(&differ)?;
        let by_rounding = differ.f_logical_and(rounded)?.f_logical_and(&tie.f_logical_not()?)?;
        let (differ, tie, by_rounding) = (sum(&differ)?, sum(&tie)?, sum(&by_rounding)?);
        self.ties += tie;
        self.rounded += by_rounding;
        self.unexplained += differ - tie - by_rounding;
        Ok(())
    }

    fn verdict(self) -> Verdict {
        let images = self.images.max(1) as f64;
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        let difference = |site: Option<&String>, count: &Count| Difference {
            site: site.cloned(),
            differ: number(count.differ),
            of: number(count.of),
            images: number(count.images),
        };
        let site = self.sites.iter().zip(&self.names).find(|(count, _)| count.differ > 0);
        let first = site.map(|(count, name)| difference(Some(name), count));
        let behind = (self.behind.differ > 0).then(|| difference(None, &self.behind));
        Verdict {
            images: number(self.images),
            agree: number(self.agree),
            top1_run: 100.0 * self.correct.0 as f64 / images,
            top1_file: 100.0 * self.correct.1 as f64 / images,
            max_logit_difference: self.max_logit_difference,
            max_logit_difference_same_codes: self.max_logit_difference_same_codes,
            first_difference: first.or(behind),
            ties: number(self.ties),
            rounded: number(self.rounded),
            unexplained: number(self.unexplained),
            codes_rounded: number(self.codes_rounded),
            images_rounded: number(self.images_rounded),
            widest_tie: self.widest_tie,
        }
    }
}

/// What differs at a site: `[images]` each.
struct Differences {
    /// Codes that are wrong, int64.
    wrong: Tensor,
    /// Codes of values that are a tie, int64.
    ties: Tensor,
    /// How far the farthest of those ties lies from its boundary, as a part of the scale.
    widest: Tensor,
}

fn differences(said: &Said, codes: &Tensor, channels_last: bool, images: i64) -> Result<Differences, LibtorchError> {
    let Said { codes: wanted, scaled, step } = said;
    let values = wanted.numel() as i64 / images.max(1);
    let found = if channels_last || codes.dim() < 3 { codes.shallow_clone() } else { codes.f_movedim_int(1, -1)? };
    let found = found.f_to_kind(Kind::Float)?;
    if found.numel() != wanted.numel() || found.size().last() != wanted.size().last() {
        let all = Tensor::f_full([images], values, (Kind::Int64, wanted.device()))?;
        let none = all.f_zeros_like()?;
        return Ok(Differences { wrong: all, widest: none.f_to_kind(Kind::Float)?, ties: none });
    }
    let found = found.f_reshape(wanted.size())?;
    let apart = wanted.f_sub(&found)?;
    let boundary = wanted.f_add(&found)?.f_mul_scalar(0.5)?;
    let by_image = |t: &Tensor| t.f_reshape([images, values]);
    let scale = by_image(&scaled.f_mul(step)?.f_abs()?)?.f_amax([1_i64].as_slice(), true)?;
    let distance = by_image(&scaled.f_sub(&boundary)?.f_abs()?.f_mul(step)?)?.f_div(&scale)?;
    let tie = distance.f_le(TIE)?.f_logical_and(&by_image(&apart)?.f_abs()?.f_eq(1.0)?)?;
    let wrong = by_image(&apart)?.f_ne(0.0)?.f_logical_and(&tie.f_logical_not()?)?;
    let count = |t: &Tensor| t.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Int64);
    let widest = distance.f_where_self(&tie, &distance.f_zeros_like()?)?.f_amax([1_i64].as_slice(), false)?;
    Ok(Differences { wrong: count(&wrong)?, ties: count(&tie)?, widest })
}
