//! The codes of a finished run on validation images, with the layout that a container needs of them.

use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};

use super::container::{GroupLayout, Placement, SiteLayout, whole_codes};
use super::pack_error::PackError;
use crate::compress::codec::{Quantizers, SiteCodec};
use crate::compress::compressor::GroupNow;
use crate::compress::quantizer::levels;
use crate::data::Split;
use crate::libtorch::{LibtorchError, Position};
use crate::recipe::Override;
use crate::train::{OpenedRun, TrainError, open_run};

/// What a run's compressed network stores for some images.
pub(super) struct RunCodes {
    pub images: usize,
    /// A layout for each codec.
    pub sites: Vec<SiteLayout>,
    /// By codec and group `[images, positions, members]`; empty for dropped groups.
    pub codes: Vec<Vec<Vec<i16>>>,
    /// Names and values of one image of sites without a codec.
    pub uncompressed: Vec<(String, u64)>,
    /// Fixed-length bits per value as the run claims them.
    pub bits_per_value: f64,
}

impl RunCodes {
    /// Opens a run and gathers its codes.
    ///
    /// # Errors
    /// If the run can't be opened, has no codec, or has fewer images.
    pub fn of_run(folder: &Path, overrides: &[Override], images: Option<usize>) -> Result<Self, PackError> {
        let mut run = open_run(folder, overrides, Split::Validation)?;
        Self::gather(&mut run, images)?.ok_or_else(|| PackError::NothingToPack { path: folder.to_path_buf() })
    }

    /// Gathers the codes of the first `images` images, or of the first batch; none for a float run.
    ///
    /// # Errors
    /// If there are fewer images, or the network fails.
    pub fn gather(run: &mut OpenedRun, images: Option<usize>) -> Result<Option<Self>, PackError> {
        let OpenedRun { model, compressor: Some(compressor), feed, .. } = run else { return Ok(None) };
        let there = feed.images;
        if let Some(asked) = images.filter(|&asked| asked > there) {
            return Err(PackError::Images { asked, there });
        }
        let bits = compressor.bits()?;
        let now = compressor.groups_now()?;
        let quantizers = no_grad(|| compressor.quantizers())?;
        let layouts = compressor.codecs.iter().zip(&now).map(|(codec, now)| layout(codec, now));
        let sites = layouts.collect::<Result<Vec<_>, _>>()?;
        let columns = compressor.codecs.iter().map(|codec| columns_of_groups(codec, &bits));
        let columns = columns.collect::<Result<Vec<_>, LibtorchError>>()?;
        let mut codes: Vec<Vec<Vec<i16>>> = columns.iter().map(|groups| vec![vec![]; groups.len()]).collect();

        model.network.set_exact_evaluation()?;
        let mut done = 0;
        for batch in feed.all() {
            let (x, _) = batch?;
            let held = x.size().first().map_or(0, |&count| usize::try_from(count).unwrap_or(0));
            let wanted = images.map_or(held, |images| (images - done).min(held));
            let x = x.f_narrow(0, 0, wanted as i64)?;
            let hook = |site: usize, position: Position, value: &Tensor| {
                if let Some(index) = compressor.codec_at(site, position) {
                    let codec = &compressor.codecs[index];
                    gather(codec, value, &quantizers, &columns[index], &mut codes[index])?;
                }
                Ok::<_, PackError>(compressor.hook(site, position, value, &quantizers)?)
            };
            // The codes are gathered on the way; the logits are of no concern.
            let _ = no_grad(|| model.network.forward(&x, hook))?;
            done += wanted;
            if images.is_none_or(|images| done >= images) {
                break;
            }
        }
        let without = model.sites.iter().filter(|site| compressor.codec_of(site.index).is_none());
        Ok(Some(Self {
            images: done,
            sites,
            codes,
            uncompressed: without.map(|site| (site.name.clone(), site.values() as u64)).collect(),
            bits_per_value: compressor.bits_per_value()?,
        }))
    }
}

/// Columns of each group's codes, `[members]`, on the codec's device; none for dropped groups.
fn columns_of_groups(codec: &SiteCodec, bits: &[u32]) -> Result<Vec<Option<Tensor>>, LibtorchError> {
    let device = codec.transform.mean().device();
    let columns = |group: usize| -> Result<Option<Tensor>, LibtorchError> {
        if bits[codec.first_group + group] == 0 {
            return Ok(None);
        }
        Ok(Some(Tensor::from_slice(&codec.code_columns(group)?).f_to_device(device)?))
    };
    (0..codec.groups.len()).map(columns).collect()
}

/// Adds a batch's codes of one site to those of its groups.
fn gather(
    codec: &SiteCodec,
    value: &Tensor,
    quantizers: &Quantizers,
    columns: &[Option<Tensor>],
    codes: &mut [Vec<i16>],
) -> Result<(), PackError> {
    let (all, _) = codec.codes(value, quantizers)?;
    for (group, (columns, codes)) in columns.iter().zip(codes).enumerate() {
        let Some(columns) = columns else { continue };
        let own = all.f_index_select(1, columns)?.f_reshape([-1])?.f_to_device(Device::Cpu)?;
        let found = whole_codes(&Vec::<f32>::try_from(own)?);
        codes.extend(found.map_err(|source| PackError::Codes { site: codec.site.name.clone(), group, source })?);
    }
    Ok(())
}

fn layout(codec: &SiteCodec, now: &[GroupNow]) -> Result<SiteLayout, PackError> {
    let groups = codec.groups.iter().zip(now).map(|(members, now)| {
        let members = members.iter().map(|&member| member as u32).collect();
        match now.bits {
            0 => GroupLayout::dropped(members),
            bits => GroupLayout {
                members,
                step: now.step as f32,
                offset: codec.code_offset(f64::from(now.step as f32)) as f32,
                levels: levels(bits, codec.codes) as u16,
                bits: bits as u8,
                codes: codec.codes,
            },
        }
    });
    Ok(SiteLayout {
        name: codec.site.name.clone(),
        shape: codec.site.shape.iter().map(|&extent| u32::try_from(extent).unwrap_or(0)).collect(),
        transform: codec.transform.name().to_owned(),
        placement: match codec.position() {
            Position::Before => Placement::Before,
            Position::After => Placement::After,
        },
        means: numbers(codec.transform.mean())?,
        basis: codec.synthesis()?.as_ref().map(numbers).transpose()?.unwrap_or_default(),
        groups: groups.collect(),
    })
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>, TrainError> {
    let flat = tensor.f_detach()?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_reshape([-1])?;
    Ok(Vec::<f32>::try_from(flat)?)
}
