use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{SET_OF_RUN, print};
use crate::export::{check_run, pack_run};
use crate::recipe::Override;
use crate::report::{folder_of, pack_table};

/// Stores a finished run's activations on validation images bit-packed in a file, reads them back, compares every code, and
/// counts: bytes in the file against claimed bits.
#[derive(Debug, Args)]
pub struct Pack {
    /// Folder of a finished run.
    #[arg(value_name = "RUN_DIR")]
    run: PathBuf,
    /// How many validation images; one evaluation batch without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    images: Option<u32>,
    /// The file to write; activations.dimbit in the run's folder without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Entropy-code the groups that take fewer bytes that way.
    #[arg(long)]
    entropy: bool,
    /// Write nothing: compare an existing container with what the run computes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["images", "out", "entropy"])]
    check: Option<PathBuf>,
    #[arg(long = "set", value_name = "KEY.PATH=VALUE", help = SET_OF_RUN)]
    set: Vec<Override>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Pack {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let report = match &self.check {
            Some(container) => check_run(&self.run, &self.set, container)?,
            None => {
                if let Some(out) = &self.out {
                    folder_of(out)?;
                }
                let out = self.out.clone().unwrap_or_else(|| self.run.join("activations.dimbit"));
                let images = self.images.map(|images| images as usize);
                pack_run(&self.run, &self.set, images, self.entropy, &out)?
            }
        };
        if self.json {
            print(&format!("{:#}", report.json()))?;
        } else {
            print(pack_table(&report).trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
