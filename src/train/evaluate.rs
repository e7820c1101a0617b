//! Accuracy on a split, and the entropy of the codes.

use tch::{Kind, Reduction, Tensor, no_grad};

use super::error::TrainError;
use super::feed::SplitFeed;
use crate::compress::compressor::Compressor;
use crate::libtorch::{LibtorchError, Position};
use crate::model::Model;
use crate::report::SiteHistogram;

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Top-1 accuracy in percent.
    pub top1: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Number of images.
    pub images: usize,
    /// Shannon entropy of the codes in bits per value of the original tensors, if it was measured.
    pub entropy: Option<f64>,
    /// How often each code occurred, site by site; empty if the entropy was not measured.
    pub codes: Vec<SiteHistogram>,
}

/// Codes of a signed group of 8 bits lie within ±127, of an unsigned one within 255.
const SYMBOLS: i64 = 512;
const ZERO: f64 = 128.0;

/// Counts of each code in each group.
struct Histograms {
    /// Per codec: `[groups · SYMBOLS]`, int64.
    counts: Vec<Option<Tensor>>,
}

impl Histograms {
    fn add(
        &mut self,
        compressor: &Compressor,
        index: usize,
        codes: &Tensor,
        group: &Tensor,
    ) -> Result<(), LibtorchError> {
        let codec = &compressor.codecs[index];
        if codes.numel() == 0 {
            return Ok(());
        }
        let base = group.f_sub_scalar(codec.first_group as i64)?.f_mul_scalar(SYMBOLS)?;
        let symbol = codes.f_add_scalar(ZERO)?.f_to_kind(Kind::Int)?.f_add(&base)?;
        let length = codec.groups.len() as i64 * SYMBOLS;
        let counts = symbol.f_reshape([-1])?.f_bincount(None::<&Tensor>, length)?;
        self.counts[index] = Some(match self.counts[index].take() {
            None => counts,
            Some(before) => before.f_add(&counts)?,
        });
        Ok(())
    }

    /// Total bits of an ideal entropy coder with one table a group: `Σ −log2 p(code)`.
    fn bits(&self, compressor: &Compressor) -> Result<f64, LibtorchError> {
        let widths = compressor.bits()?;
        let mut bits = 0.0;
        for (codec, counts) in compressor.codecs.iter().zip(&self.counts) {
            let Some(counts) = counts else { continue };
            let counts = Vec::<i64>::try_from(counts.f_to_device(tch::Device::Cpu)?)?;
            for (index, group) in counts.chunks(SYMBOLS as usize).enumerate() {
                // Dropped channels without a transform are carried along as zeros that nobody stores.
                if widths[codec.first_group + index] == 0 {
                    continue;
                }
                let total: i64 = group.iter().sum();
                let of = |&count: &i64| count as f64 * (total as f64 / count as f64).log2();
                bits += group.iter().filter(|&&count| count > 0).map(of).sum::<f64>();
            }
        }
        Ok(bits)
    }

    /// Counts of each site's codes over its groups, without dropped ones.
    fn of_sites(&self, compressor: &Compressor) -> Result<Vec<SiteHistogram>, LibtorchError> {
        let widths = compressor.bits()?;
        let mut sites = Vec::new();
        for (codec, counts) in compressor.codecs.iter().zip(&self.counts) {
            let Some(counts) = counts else { continue };
            let counts = Vec::<i64>::try_from(counts.f_to_device(tch::Device::Cpu)?)?;
            let mut all = vec![0_u64; SYMBOLS as usize];
            let kept = counts.chunks(SYMBOLS as usize).zip(&widths[codec.first_group..]).filter(|(_, bits)| **bits > 0);
            for (group, _) in kept {
                all.iter_mut().zip(group).for_each(|(sum, &count)| *sum += count.unsigned_abs());
            }
            let first = all.iter().position(|&count| count > 0).unwrap_or(0);
            let end = all.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
            let least = first as i16 - ZERO as i16;
            sites.push(SiteHistogram {
                site: codec.site.name.clone(),
                least,
                counts: all[first..end.max(first)].to_vec(),
            });
        }
        Ok(sites)
    }
}

/// Evaluates on a whole split of the data, in evaluation mode. `seen((done, total), logits, labels)` is called after each
/// batch.
///
/// # Errors
/// If the network or the data fail.
pub fn evaluate(
    model: &mut Model,
    compressor: Option<&Compressor>,
    feed: &SplitFeed,
    with_entropy: bool,
    mut seen: impl FnMut((u64, u64), &Tensor, &Tensor) -> Result<(), TrainError>,
) -> Result<Evaluation, TrainError> {
    model.network.set_exact_evaluation()?;
    let quantizers = compressor.map(|c| no_grad(|| c.quantizers())).transpose()?;
    let mut histograms =
        Histograms { counts: compressor.map(|c| c.codecs.iter().map(|_| None).collect()).unwrap_or_default() };
    let (mut correct, mut loss, mut images) = (0.0, 0.0, 0_usize);
    for batch in feed.all() {
        let (x, y) = batch?;
        let logits = no_grad(|| match (compressor, &quantizers) {
            (Some(compressor), Some(quantizers)) => model.network.forward(&x, |site, position: Position, value| {
                if with_entropy && let Some(index) = compressor.codec_at(site, position) {
                    let (codes, group) = compressor.codecs[index].codes(value, quantizers)?;
                    histograms.add(compressor, index, &codes, group)?;
                }
                compressor.hook(site, position, value, quantizers)
            }),
            _ => model.network.forward(&x, |_, _, _| Ok::<_, LibtorchError>(None)),
        })?;
        correct += logits.f_argmax(1, false)?.f_eq_tensor(&y)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        loss += logits.f_cross_entropy_loss(&y, None::<&Tensor>, Reduction::Sum, -100, 0.0)?.f_double_value(&[])?;
        images += y.size()[0] as usize;
        seen((images as u64, feed.images as u64), &logits, &y)?;
    }
    let count = images.max(1) as f64;
    let entropy = match compressor {
        Some(compressor) if with_entropy => {
            let floats: usize =
                model.sites.iter().filter(|s| compressor.codec_of(s.index).is_none()).map(|s| s.values()).sum();
            let coded = histograms.bits(compressor)? / count + 32.0 * floats as f64;
            Some(coded / model.values() as f64)
        }
        _ => None,
    };
    let codes = match compressor {
        Some(compressor) if with_entropy => histograms.of_sites(compressor)?,
        _ => Vec::new(),
    };
    Ok(Evaluation { top1: 100.0 * correct / count, loss: loss / count, images, entropy, codes })
}
