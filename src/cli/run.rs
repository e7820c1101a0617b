use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{print, report};
use crate::recipe::{Override, Recipe};
use crate::report::{Console, Status, Verbosity, final_table};
use crate::train::{RunOptions, run};

/// Carries out a recipe: trains, calibrates, searches widths, fine-tunes, and writes a run's folder.
#[derive(Debug, Args)]
pub struct Run {
    /// The recipe.
    recipe: PathBuf,
    /// Changes a key: `KEY.PATH=VALUE`, for example `stages.search.target_bits=2.5`. May be given several times.
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    set: Vec<Override>,
    /// Folder of the run; must not hold files yet. Without it, the first free one of runs/NAME, runs/NAME-2, …
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Show warnings and the result alone.
    #[arg(long, short)]
    quiet: bool,
    /// Print the summary as JSON instead of the table.
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let loaded = Recipe::load(&self.recipe, &self.set)?;
        let verbosity = if self.quiet { Verbosity::Quiet } else { Verbosity::Normal };
        let options = RunOptions { out: self.out.clone(), console: Box::new(Console::stderr(verbosity)) };
        let (summary, folder) = run(&loaded, options)?;
        // The run is complete without its page.
        if let Err(error) = report::write_page(&folder) {
            eprintln!("warning: {} was not written: {error}", folder.join("report.html").display());
        }
        if self.json {
            print(&serde_json::to_string_pretty(&summary)?)?;
        } else {
            print(&final_table(&summary))?;
            print(&format!("\n{}", folder.join("summary.json").display()))?;
        }
        Ok(if summary.status == Status::Complete { ExitCode::SUCCESS } else { ExitCode::from(4) })
    }
}
