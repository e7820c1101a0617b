use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{SET, print};
use crate::recipe::{Override, Recipe, Uncounted, explain};
use crate::train::training_images;

/// Shows what a recipe means: the resolved recipe, the timeline in epochs and steps, and the budget over the search.
#[derive(Debug, Args)]
pub struct Explain {
    /// The recipe.
    recipe: PathBuf,
    #[arg(long = "set", value_name = "KEY.PATH=VALUE", help = SET)]
    set: Vec<Override>,
}

impl Explain {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let loaded = Recipe::load(&self.recipe, &self.set)?;
        let images = training_images(&loaded).map_err(|(reason, help)| Uncounted { reason, help });
        let extends = match loaded.source.files().as_slice() {
            [_] => String::new(),
            files => format!("extends: {}\n", files.join(" -> ")),
        };
        print(&format!("{}\n{extends}{}", loaded.recipe.resolved_yaml(), explain(&loaded.recipe, &images)))?;
        Ok(ExitCode::SUCCESS)
    }
}
