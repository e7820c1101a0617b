//! A compressor on disk: its state and tensors, and the way back.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor, no_grad};

use super::compressor::{Compressor, GroupStart, PlannedSite};
use super::quantizer::MAX_BITS;
use super::transform::{Block, Pca, Transform};
use crate::libtorch::{Codes, LibtorchError, Position};
use crate::model::Model;

/// Everything but tensors that restores a [`Compressor`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompressorState {
    pub(super) sites: Vec<SiteState>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SiteState {
    pub(super) name: String,
    transform: String,
    placement: String,
    /// Channels of a block, of a block-diagonal basis.
    #[serde(default)]
    block: Option<usize>,
    /// Transform and inverse were learned apart.
    #[serde(default)]
    apart: bool,
    codes: Codes,
    pub(super) groups: Vec<GroupStart>,
}

/// A saved compressor does not fit the network.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A site is missing.
    #[error("the checkpoint compresses site `{site}`, which the network doesn't have")]
    UnknownSite {
        /// Name of the site.
        site: String,
    },
    /// A tensor is missing or has another shape.
    #[error("the checkpoint has no fitting tensor `{name}`")]
    MissingTensor {
        /// Name of the tensor.
        name: String,
    },
    /// A word is not known.
    #[error("the checkpoint's {key} of site `{site}` is `{value}`, which this version doesn't know")]
    UnknownWord {
        /// Name of the site.
        site: String,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// The groups are no partition of the site's channels.
    #[error("the checkpoint's groups of site `{site}` are no partition of its {channels} channels")]
    NoPartition {
        /// Name of the site.
        site: String,
        /// Channels of the site.
        channels: usize,
    },
    /// libtorch failed.
    #[error(transparent)]
    Libtorch(#[from] LibtorchError),
}

impl Compressor {
    /// State and tensors for a checkpoint. Tensor names are `codec.<site>.<what>` and `codec.log_step`, `codec.log_range`.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn save(&self) -> Result<(CompressorState, Vec<(String, Tensor)>), LibtorchError> {
        let now = self.groups_now()?;
        let mut tensors = vec![
            ("codec.log_step".to_owned(), self.log_step.f_detach()?),
            ("codec.log_range".to_owned(), self.log_range.f_detach()?),
        ];
        let mut sites = Vec::new();
        for (codec, now) in self.codecs.iter().zip(&now) {
            let name = |what: &str| format!("codec.{}.{what}", codec.site.name);
            tensors.push((name("mean"), codec.transform.mean().shallow_clone()));
            let pca = match &codec.transform {
                Transform::Pca(pca) => Some(pca),
                Transform::None { .. } => None,
            };
            if let Some(pca) = pca {
                tensors.push((name("basis"), pca.basis.f_detach()?));
                if let Some(inverse) = &pca.inverse {
                    tensors.push((name("inverse"), inverse.f_detach()?));
                }
            }
            let groups = codec.groups.iter().zip(now).enumerate().map(|(index, (members, now))| GroupStart {
                members: members.clone(),
                step: now.step,
                range: now.range,
                bits: now.bits,
                cost: self.groups[codec.first_group + index].cost.clone(),
                steps: self.best_steps[codec.first_group + index].clone(),
                anchor: self.groups[codec.first_group + index].anchor,
            });
            sites.push(SiteState {
                name: codec.site.name.clone(),
                transform: codec.transform.name().to_owned(),
                placement: if codec.position() == Position::Before { "before" } else { "after" }.to_owned(),
                block: pca.and_then(|pca| pca.block.as_ref()).map(|block| block.channels),
                apart: pca.is_some_and(|pca| pca.inverse.is_some()),
                codes: codec.codes,
                groups: groups.collect(),
            });
        }
        Ok((CompressorState { sites }, tensors))
    }

    /// Restores a compressor with frozen widths.
    ///
    /// # Errors
    /// [`RestoreError`] if the state does not fit the network.
    pub fn restore(
        model: &Model,
        state: &CompressorState,
        tensor: impl Fn(&str) -> Option<Tensor>,
        device: Device,
    ) -> Result<Self, RestoreError> {
        let mut compressor = Self::restore_learning(model, state, tensor, device)?;
        compressor.frozen = Some(state.sites.iter().flat_map(|site| site.groups.iter().map(|g| g.bits)).collect());
        Ok(compressor)
    }

    /// Restores a compressor whose widths are not frozen yet.
    ///
    /// # Errors
    /// [`RestoreError`] if the state does not fit the network.
    pub fn restore_learning(
        model: &Model,
        state: &CompressorState,
        tensor: impl Fn(&str) -> Option<Tensor>,
        device: Device,
    ) -> Result<Self, RestoreError> {
        let find = |name: String, shape: &[i64]| {
            let found = tensor(&name).filter(|t| t.size() == shape);
            let found = found.ok_or(RestoreError::MissingTensor { name })?;
            Ok::<_, RestoreError>(found.f_to_device(device).map_err(LibtorchError::from)?)
        };
        let mut planned = Vec::new();
        for saved in &state.sites {
            let site = model.sites.iter().find(|s| s.name == saved.name);
            let site = site.ok_or_else(|| RestoreError::UnknownSite { site: saved.name.clone() })?.clone();
            let channels = site.channels();
            let mut members: Vec<usize> = saved.groups.iter().flat_map(|g| g.members.clone()).collect();
            members.sort_unstable();
            let entries = MAX_BITS as usize + 1;
            let costs_fit =
                saved.groups.iter().all(|g| g.cost.len() == entries && g.steps.len() == entries && g.bits <= MAX_BITS);
            if members != (0..channels).collect::<Vec<_>>() || !costs_fit {
                return Err(RestoreError::NoPartition { site: site.name, channels });
            }
            let c = channels as i64;
            let mean = find(format!("codec.{}.mean", saved.name), &[c])?;
            let unknown =
                |key, value: &str| RestoreError::UnknownWord { site: saved.name.clone(), key, value: value.to_owned() };
            let position = match saved.placement.as_str() {
                "before" => Position::Before,
                "after" => Position::After,
                other => return Err(unknown("placement", other)),
            };
            let transform = match saved.transform.as_str() {
                "none" => Transform::None { mean },
                "pca" | "block" => {
                    let basis = find(format!("codec.{}.basis", saved.name), &[c, c])?;
                    let inverse = saved.apart.then(|| find(format!("codec.{}.inverse", saved.name), &[c, c]));
                    let block = saved.block.map(|channels| Block::of(&basis, channels)).transpose()?;
                    Transform::Pca(Pca { basis, inverse: inverse.transpose()?, mean, position, block })
                }
                other => return Err(unknown("transform", other)),
            };
            planned.push(PlannedSite { site, transform, codes: saved.codes, groups: saved.groups.clone() });
        }
        let count = planned.iter().map(|p| p.groups.len() as i64).sum();
        let mut compressor = Self::new(model, planned, device)?;
        for (name, leaf) in
            [("codec.log_step", &mut compressor.log_step), ("codec.log_range", &mut compressor.log_range)]
        {
            let saved = find(name.to_owned(), &[count])?;
            no_grad(|| leaf.f_copy_(&saved)).map_err(LibtorchError::from)?;
        }
        Ok(compressor)
    }
}
