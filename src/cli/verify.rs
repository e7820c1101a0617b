use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::eval::SplitName;
use super::{SET_OF_RUN, print};
use crate::export::{open, verify};
use crate::recipe::Override;
use crate::train::open_run;

/// Runs a finished run and an export of it on the same images, and names the first site that differs.
#[derive(Debug, Args)]
pub struct Verify {
    /// Folder of a finished run.
    run: PathBuf,
    /// The exported file.
    #[arg(long, value_name = "FILE")]
    against: PathBuf,
    /// Compare on the first N images alone.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    images: Option<u64>,
    /// The images to compare on.
    #[arg(long, value_enum, default_value_t = SplitName::Val)]
    split: SplitName,
    #[arg(long = "set", value_name = "KEY.PATH=VALUE", help = SET_OF_RUN)]
    set: Vec<Override>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let mut run = open_run(&self.run, &self.set, self.split.split())?;
        let mut file = open(&self.against, &run)?;
        let limit = self.images.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let verdict = verify(&mut run, file.as_mut(), limit)?;
        let text = if self.json { serde_json::to_string_pretty(&verdict)? } else { verdict.to_string() };
        print(&text)?;
        Ok(if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::from(4) })
    }
}
