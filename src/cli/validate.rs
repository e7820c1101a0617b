use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::print;
use crate::libtorch::set_deterministic;
use crate::recipe::{Override, Recipe};
use crate::train::{resolve_device, validate};

/// Checks a recipe, first its form, then against its model and its data; prints every finding with file, line and column.
#[derive(Debug, Args)]
pub struct Validate {
    /// The recipe.
    recipe: PathBuf,
    /// Changes a key: `KEY.PATH=VALUE`, for example `stages.search.target_bits=2.5`. May be given several times.
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    set: Vec<Override>,
}

impl Validate {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let loaded = Recipe::load(&self.recipe, &self.set)?;
        set_deterministic(loaded.recipe.seed)?;
        let (model, feed) = validate(&loaded, resolve_device(loaded.recipe.device)?)?;
        print(&format!(
            "{}: fine ({} mode, {} sites, {} training and {} validation images)",
            self.recipe.display(),
            loaded.recipe.mode(),
            model.sites.len(),
            feed.train_images,
            feed.validation_images
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}
