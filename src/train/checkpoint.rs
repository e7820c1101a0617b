//! The result of a run on disk, and opening it again.
//!
//! `checkpoints/final.safetensors` holds the network's parameters and buffers (`network.<name>`) and the codecs' tensors
//! (`codec.…`), `checkpoints/final.json` the groups and widths: everything that an evaluation needs beside the model file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use super::error::TrainError;
use super::feed::SplitFeed;
use super::folder::{RunFolder, sha256_of_file};
use super::nearby::not_a_run;
use super::resume::on_cpu;
use super::validate::validate_split;
use crate::compress::compressor::Compressor;
use crate::compress::saved::CompressorState;
use crate::data::Split;
use crate::libtorch::{Network, set_deterministic};
use crate::model::Model;
use crate::recipe::{Override, Recipe};
use crate::report::{ReportError, Summary, write_atomically};

#[derive(Serialize, Deserialize)]
struct Manifest {
    dimbit_version: String,
    compressor: Option<CompressorState>,
}

const TENSORS: &str = "checkpoints/final.safetensors";
const MANIFEST: &str = "checkpoints/final.json";

/// Writes the result; each file appears whole or not at all.
///
/// # Errors
/// If it can't be written.
pub fn save(folder: &RunFolder, network: &Network, compressor: Option<&Compressor>) -> Result<(), TrainError> {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for named in network.tensors()? {
        tensors.push((format!("network.{}", named.name), on_cpu(&named.tensor)?));
    }
    let state = match compressor {
        Some(compressor) => {
            let (state, codec) = compressor.save()?;
            for (name, tensor) in codec {
                tensors.push((name, on_cpu(&tensor)?));
            }
            Some(state)
        }
        None => None,
    };
    folder.publish(TENSORS, |partial| Tensor::write_safetensors(&tensors, partial))?;
    let manifest = Manifest { dimbit_version: env!("CARGO_PKG_VERSION").to_owned(), compressor: state };
    let json = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| ReportError::Write { path: folder.file(MANIFEST), source: e.into() })?;
    write_atomically(&folder.file(MANIFEST), &json)?;
    Ok(())
}

/// A finished run, ready to be evaluated.
pub struct OpenedRun {
    /// The fine-tuned network.
    pub model: Model,
    /// Its codecs; none for a float run.
    pub compressor: Option<Compressor>,
    /// The split of the recipe's data that it is looked at with.
    pub feed: SplitFeed,
    /// What the run reached.
    pub summary: Summary,
    /// The resolved recipe as it stands in the folder.
    pub recipe: String,
    tensors: PathBuf,
}

impl OpenedRun {
    /// SHA-256 of the weights and codecs, in hexadecimal digits.
    ///
    /// # Errors
    /// If their file can't be read any more.
    pub fn checkpoint_sha256(&self) -> Result<String, TrainError> {
        sha256_of_file(&self.tensors)
    }
}

/// Opens a finished run's folder. `overrides` change the resolved recipe, for example where data or model lie now;
/// of the data, `split` alone is opened.
///
/// # Errors
/// If a file is missing, damaged, or does not fit the model file.
pub fn open_run(path: &Path, overrides: &[Override], split: Split) -> Result<OpenedRun, TrainError> {
    let folder = RunFolder::at(path);
    if !["run.json", "recipe.resolved.yaml", "summary.json"].iter().any(|name| folder.file(name).is_file()) {
        return Err(not_a_run(path));
    }
    let missing = |file: &Path| TrainError::Folder {
        path: file.to_path_buf(),
        reason: "this file of a finished run is missing".into(),
        help: "a run's summary.json is written last: without it the run has not ended, and `dimbit run --resume --out DIR` goes on with it",
    };
    for name in ["recipe.resolved.yaml", "summary.json", TENSORS, MANIFEST] {
        if !folder.file(name).is_file() {
            return Err(missing(&folder.file(name)));
        }
    }
    let summary = Summary::load(&folder.file("summary.json"))?;
    let mut loaded = Recipe::load(&folder.file("recipe.resolved.yaml"), overrides)?;
    // They have been carried out: what they need is no concern any more.
    loaded.recipe.stages.clear();
    set_deterministic(loaded.recipe.seed)?;
    let (model, feed, device) = validate_split(&loaded, split)?;
    if sha256_of_file(&loaded.recipe.model.path)? != summary.model_sha256 {
        return Err(TrainError::Folder {
            path: loaded.recipe.model.path,
            reason: "the model file is not the one that the run was made with (another SHA-256)".into(),
            help: "give that file by --set model.path=FILE, or run the recipe again",
        });
    }
    let manifest_path = folder.file(MANIFEST);
    let recipe_path = folder.file("recipe.resolved.yaml");
    let damaged = |path: &Path, reason: String| TrainError::Folder {
        path: path.to_path_buf(),
        reason,
        help: "the file is damaged: run the recipe again",
    };
    let recipe = std::fs::read_to_string(&recipe_path).map_err(|e| damaged(&recipe_path, e.to_string()))?;
    let bytes = std::fs::read(&manifest_path).map_err(|e| damaged(&manifest_path, e.to_string()))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| damaged(&manifest_path, e.to_string()))?;
    let tensors_path = folder.file(TENSORS);
    let tensors = Tensor::read_safetensors(&tensors_path).map_err(|e| damaged(&tensors_path, e.to_string()))?;
    let find = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t.shallow_clone());
    for mut named in model.network.tensors()? {
        let saved = find(&format!("network.{}", named.name)).filter(|t| t.size() == named.tensor.size());
        let saved = saved.ok_or_else(|| TrainError::Folder {
            path: tensors_path.clone(),
            reason: format!("it has no fitting tensor for the network's `{}`", named.name),
            help: "the model file changed since the run: give the one it was made with by --set model.path=FILE",
        })?;
        no_grad(|| named.tensor.f_copy_(&saved))?;
    }
    let restore = |state: &CompressorState| {
        Compressor::restore(&model, state, find, device)
            .map_err(|source| TrainError::Restore { path: manifest_path.clone(), source })
    };
    let compressor = manifest.compressor.as_ref().map(restore).transpose()?;
    Ok(OpenedRun { model, compressor, feed, summary, recipe, tensors: tensors_path })
}
