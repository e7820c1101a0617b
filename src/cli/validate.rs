use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{SET, failure, print};
use crate::libtorch::set_deterministic;
use crate::recipe::{Override, Recipe};
use crate::train::{sites_left_out, validate};

/// Checks a recipe, first its form, then against its model and its data; prints every finding with file, line and column.
#[derive(Debug, Args)]
pub struct Validate {
    /// The recipe.
    recipe: PathBuf,
    #[arg(long = "set", value_name = "KEY.PATH=VALUE", help = SET)]
    set: Vec<Override>,
    /// Print the findings, or what was found fine, as JSON.
    #[arg(long)]
    json: bool,
}

impl Validate {
    pub(super) fn run(&self) -> Result<ExitCode> {
        match self.checked() {
            Ok(fine) => print(&fine)?,
            // Findings are what this command is for: with --json, all there is to say.
            Err(error) if self.json => {
                failure::print_findings(&failure::findings(&error))?;
                return Ok(ExitCode::from(failure::exit_code(&error)));
            }
            Err(error) => return Err(error),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn checked(&self) -> Result<String> {
        let loaded = Recipe::load(&self.recipe, &self.set)?;
        set_deterministic(loaded.recipe.seed)?;
        let (model, feed, _) = validate(&loaded)?;
        let (mode, all) = (loaded.recipe.mode(), model.sites.len());
        let left_out = sites_left_out(&loaded.recipe, &model).count();
        let (training, validation) = (feed.train_images, feed.validation_images);
        if self.json {
            let fine = json!({
                "findings": [], "omitted": 0, "mode": mode, "sites": all, "sites_left_out": left_out,
                "training_images": training, "validation_images": validation,
            });
            return Ok(format!("{fine:#}"));
        }
        let some = if left_out > 0 { format!("{} of ", all - left_out) } else { String::new() };
        Ok(format!(
            "{}: fine ({mode} mode, {some}{all} sites, {training} training and {validation} validation images)",
            self.recipe.display()
        ))
    }
}
