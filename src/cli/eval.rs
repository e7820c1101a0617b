use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{SET, print};
use crate::data::Split;
use crate::libtorch::set_deterministic;
use crate::recipe::{Override, Recipe};
use crate::report::folder_of;
use crate::train::{Measured, left_out, measure_model, measure_run};

/// Measures accuracy and bits: of a finished run's folder, or of a plain TorchScript file on a recipe's data.
#[derive(Debug, Args)]
pub struct Eval {
    /// Folder of a finished run, or a TorchScript file.
    what: PathBuf,
    /// The recipe whose data, input shape and device a TorchScript file is measured with; its model, sites and stages don't
    /// matter.
    #[arg(long)]
    recipe: Option<PathBuf>,
    #[arg(long = "set", value_name = "KEY.PATH=VALUE", help = SET)]
    set: Vec<Override>,
    /// The images to measure on.
    #[arg(long, value_enum, default_value_t = SplitName::Val)]
    split: SplitName,
    /// Write the logits of every image, with its label, into this safetensors file.
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum SplitName {
    /// The validation images.
    Val,
    /// The training images, without augmentation.
    Train,
}

impl SplitName {
    pub(super) fn split(self) -> Split {
        match self {
            Self::Val => Split::Validation,
            Self::Train => Split::Train,
        }
    }
}

impl Eval {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let split = self.split.split();
        if let Some(path) = &self.logits {
            folder_of(path)?;
        }
        // Where there is nothing, a run's folder was most likely meant.
        let measured = if self.what.is_dir() || (self.recipe.is_none() && !self.what.exists()) {
            if self.recipe.is_some() {
                bail!("--recipe goes with a TorchScript file: a run's folder has its own recipe");
            }
            measure_run(&self.what, &self.set, split, self.logits.as_deref())?
        } else {
            let Some(recipe) = &self.recipe else {
                bail!(
                    "{} is no run's folder\n  help: for a TorchScript file, add --recipe FILE: its data and input shape are used",
                    self.what.display()
                );
            };
            let loaded = Recipe::load(recipe, &self.set)?;
            set_deterministic(loaded.recipe.seed)?;
            measure_model(&self.what, &loaded, split, self.logits.as_deref())?
        };
        let Measured { top1, images, bits_per_value, bits_per_value_stored, bits_per_value_entropy, unreadable } =
            measured;
        if let Some(warning) = left_out(&unreadable) {
            eprintln!("warning: {warning}");
        }
        if self.json {
            print(&format!(
                "{:#}",
                json!({
                    "top1": top1, "images": images, "bits_per_value": bits_per_value,
                    "bits_per_value_stored": bits_per_value_stored, "bits_per_value_entropy": bits_per_value_entropy,
                })
            ))?;
        } else {
            let entropy = bits_per_value_entropy.map(|b| format!(", {b:.4} entropy-coded")).unwrap_or_default();
            print(&format!(
                "top-1 {top1:.2} % on {images} images, {bits_per_value:.4} bits per value{entropy}, {bits_per_value_stored:.4} in the stored convention"
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
