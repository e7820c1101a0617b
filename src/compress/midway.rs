//! A compressor in the middle of a search: beside what a finished one needs ([`saved`](super::saved)) all that its next step
//! depends on.
//!
//! Costs and best steps are stored as tensors, so that they come back to the last bit and may be infinite.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::compressor::Compressor;
use super::quantizer::MAX_BITS;
use super::saved::{CompressorState, RestoreError};
use super::transform::Transform;
use crate::libtorch::LibtorchError;
use crate::model::Model;

/// Everything but tensors that brings a [`Compressor`] back as it stood.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MidwayState {
    compressor: CompressorState,
    /// The widths are frozen.
    frozen: bool,
    /// The least width that each group has had.
    lowest: Vec<u32>,
    /// Whether each codec's basis learns.
    learned: Vec<bool>,
}

const COST: &str = "codec.cost";
const BEST_STEPS: &str = "codec.best_steps";

fn mask_name(site: &str) -> String {
    format!("codec.{site}.mask")
}

impl Compressor {
    /// State and tensors as they stand. Beside the tensors of [`Self::save`] there are `codec.cost` and `codec.best_steps`
    /// (`[groups, 9]`, float64), and `codec.<site>.mask` of block-diagonal bases.
    ///
    /// # Errors
    /// If libtorch fails.
    pub fn save_midway(&self) -> Result<(MidwayState, Vec<(String, Tensor)>), LibtorchError> {
        let (mut state, mut tensors) = self.save()?;
        for group in state.sites.iter_mut().flat_map(|site| &mut site.groups) {
            (group.cost, group.steps) = (Vec::new(), Vec::new());
        }
        let table = |rows: Vec<&Vec<f64>>| -> Result<Tensor, LibtorchError> {
            let numbers: Vec<f64> = rows.iter().flat_map(|row| row.iter().copied()).collect();
            Ok(Tensor::f_from_slice(&numbers)?.f_reshape([rows.len() as i64, -1])?)
        };
        tensors.push((COST.to_owned(), table(self.groups.iter().map(|group| &group.cost).collect())?));
        tensors.push((BEST_STEPS.to_owned(), table(self.best_steps.iter().collect())?));
        let mut learned = Vec::with_capacity(self.codecs.len());
        for codec in &self.codecs {
            let pca = match &codec.transform {
                Transform::Pca(pca) => Some(pca),
                Transform::None { .. } => None,
            };
            learned.push(pca.is_some_and(super::transform::Pca::is_learned));
            // The zeros of a basis that learns don't tell its blocks: some within them may be zero by chance.
            if let Some(block) = pca.and_then(|pca| pca.block.as_ref()) {
                tensors.push((mask_name(&codec.site.name), block.mask.shallow_clone()));
            }
        }
        let frozen = self.frozen.is_some();
        Ok((MidwayState { compressor: state, frozen, lowest: self.lowest.clone(), learned }, tensors))
    }

    /// The way back from [`Self::save_midway`].
    ///
    /// # Errors
    /// [`RestoreError`] if the state does not fit the network.
    pub fn restore_midway(
        model: &Model,
        state: &MidwayState,
        tensor: impl Fn(&str) -> Option<Tensor>,
        device: Device,
    ) -> Result<Self, RestoreError> {
        let mut filled = state.compressor.clone();
        let count: usize = filled.sites.iter().map(|site| site.groups.len()).sum();
        let missing = |name: &str| RestoreError::MissingTensor { name: name.to_owned() };
        if state.lowest.len() != count || state.learned.len() != filled.sites.len() {
            return Err(missing("codec.log_step"));
        }
        let table = |name: &str| -> Result<Vec<Vec<f64>>, RestoreError> {
            let columns = i64::from(MAX_BITS) + 1;
            let fits = |t: &Tensor| t.size() == [count as i64, columns] && t.kind() == Kind::Double;
            let found = tensor(name).filter(fits).ok_or_else(|| missing(name))?;
            let numbers = found.f_reshape([-1]).and_then(Vec::<f64>::try_from).map_err(LibtorchError::from)?;
            Ok(numbers.chunks(columns as usize).map(<[f64]>::to_vec).collect())
        };
        let (cost, steps) = (table(COST)?, table(BEST_STEPS)?);
        let rows = cost.into_iter().zip(steps);
        for (group, row) in filled.sites.iter_mut().flat_map(|site| &mut site.groups).zip(rows) {
            (group.cost, group.steps) = row;
        }
        let mut compressor = Self::restore_learning(model, &filled, &tensor, device)?;
        compressor.lowest.clone_from(&state.lowest);
        if state.frozen {
            compressor.frozen = Some(filled.sites.iter().flat_map(|site| site.groups.iter().map(|g| g.bits)).collect());
        }
        for (codec, &learned) in compressor.codecs.iter_mut().zip(&state.learned) {
            let Transform::Pca(pca) = &mut codec.transform else { continue };
            if let Some(block) = &mut pca.block {
                let name = mask_name(&codec.site.name);
                let saved = tensor(&name).filter(|t| t.size() == block.mask.size() && t.kind() == Kind::Float);
                let saved = saved.ok_or(RestoreError::MissingTensor { name })?;
                block.mask = saved.f_to_device(device).map_err(LibtorchError::from)?;
            }
            if learned {
                codec.learn()?;
            }
        }
        Ok(compressor)
    }
}
