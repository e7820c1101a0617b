use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::print;
use crate::libtorch::set_deterministic;
use crate::recipe::{Override, Recipe};
use crate::train::{TrainError, resolve_device, validate};

/// Checks a recipe, first its form, then against its model and its data; prints every finding with file, line and column.
#[derive(Debug, Args)]
pub struct Validate {
    /// The recipe.
    recipe: PathBuf,
    /// Changes a key: `KEY.PATH=VALUE`, for example `stages.search.target_bits=2.5`. May be given several times.
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    set: Vec<Override>,
    /// Print the findings, or what was found fine, as JSON.
    #[arg(long)]
    json: bool,
}

impl Validate {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let loaded = Recipe::load(&self.recipe, &self.set).map_err(TrainError::from);
        let checked = loaded.and_then(|loaded| {
            let device = resolve_device(loaded.recipe.device)?;
            set_deterministic(loaded.recipe.seed)?;
            let (model, feed) = validate(&loaded, device)?;
            Ok((loaded, model, feed))
        });
        match checked {
            Ok((loaded, model, feed)) if self.json => print(&format!(
                "{:#}",
                json!({
                    "findings": [], "omitted": 0, "mode": loaded.recipe.mode(), "sites": model.sites.len(),
                    "training_images": feed.train_images, "validation_images": feed.validation_images,
                })
            ))?,
            Ok((loaded, model, feed)) => print(&format!(
                "{}: fine ({} mode, {} sites, {} training and {} validation images)",
                self.recipe.display(),
                loaded.recipe.mode(),
                model.sites.len(),
                feed.train_images,
                feed.validation_images
            ))?,
            Err(TrainError::Recipe(diagnostics)) if self.json => {
                print(&serde_json::to_string_pretty(&diagnostics)?)?;
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
