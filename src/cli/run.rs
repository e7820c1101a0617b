use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{INTERRUPTED, SET, failure, print, report, value};
use crate::recipe::{Length, Override, Recipe};
use crate::report::{Console, Status, Verbosity, final_table};
use crate::train::{Cadence, RunOptions, Stop, recipe_of_run, run};

/// Carries out a recipe: trains, calibrates, searches widths, fine-tunes, and writes a run's folder.
///
/// Ctrl-C, or SIGTERM, ends it behind the step that goes on; `--resume` goes on from there, and from the last checkpoint
/// after any other end.
#[derive(Debug, Args)]
pub struct Run {
    /// The recipe; with --resume it may be left out.
    #[arg(required_unless_present = "resume")]
    recipe: Option<PathBuf>,
    #[arg(long = "set", value_name = "KEY.PATH=VALUE", requires = "recipe", help = SET)]
    set: Vec<Override>,
    /// Folder of the run; must not hold files yet, except with --resume. Without it, the first free one of runs/NAME,
    /// runs/NAME-2, …
    #[arg(long, value_name = "DIR", required_if_eq("resume", "true"))]
    out: Option<PathBuf>,
    /// Go on with the run in DIR, or begin it if there is none yet. A recipe that is given must be that run's.
    #[arg(long)]
    resume: bool,
    /// Write a checkpoint after so many epochs (`1ep`) or steps (`500st`) of a stage. One is written every five minutes, at
    /// the end of a stage and when the run is stopped in any case.
    #[arg(long, value_name = "LENGTH", default_value_t = Cadence::default().every, value_parser = interval)]
    checkpoint_every: Length,
    /// Keep so many checkpoints while the run goes on; beside them the best one that meets the budget.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    keep_checkpoints: u32,
    /// Show warnings and the result alone.
    #[arg(long, short)]
    quiet: bool,
    /// Print the summary, or what went wrong, as JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// A length of more than nothing.
fn interval(text: &str) -> Result<Length, String> {
    let length: Length = value(text)?;
    if length.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(length) }
}

impl Run {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let loaded = match (&self.recipe, &self.out) {
            (Some(recipe), _) => Recipe::load(recipe, &self.set)?,
            (None, Some(out)) => recipe_of_run(out)?,
            (None, None) => anyhow::bail!("give a recipe, or --resume and --out"),
        };
        let verbosity = if self.quiet { Verbosity::Quiet } else { Verbosity::Normal };
        let stop = Stop::default();
        heed_signals(stop.clone(), self.json).context("signals can't be caught")?;
        let options = RunOptions {
            out: self.out.clone(),
            resume: self.resume,
            cadence: Cadence { every: self.checkpoint_every, keep: self.keep_checkpoints as usize },
            stop,
            console: Box::new(Console::stderr(verbosity)),
        };
        let ended = run(&loaded, options)?;
        let (summary, folder) = (ended.summary, ended.folder);
        let page = folder.join("report.html");
        if ended.before {
            eprintln!("the run in {} has ended already: there is nothing to resume", folder.display());
        }
        // The run is complete without its page.
        if !(ended.before && page.exists())
            && let Err(error) = report::write_page(&folder)
        {
            eprintln!("warning: {} was not written: {error}", page.display());
        }
        if self.json {
            print(&serde_json::to_string_pretty(&summary)?)?;
        } else {
            print(final_table(&summary).trim_end())?;
            print(&format!("\n{}", folder.join("summary.json").display()))?;
        }
        Ok(if summary.status == Status::Complete { ExitCode::SUCCESS } else { ExitCode::from(4) })
    }
}

/// The first SIGINT or SIGTERM asks the run to stop, the second ends the process at once.
fn heed_signals(stop: Stop, json: bool) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        for _ in signals.forever() {
            if !stop.ask() {
                eprintln!(
                    "\nstopping when the step, or the batch of a calibration or an evaluation, is done; once more to stop at once"
                );
                continue;
            }
            let (what, help) = match stop.resume_command() {
                Some(command) => (
                    "stopped at once: what came after the last checkpoint is not kept",
                    Some(format!("resume: {command}")),
                ),
                None => ("stopped before anything was written", None),
            };
            eprintln!("\n{what}");
            if let Some(help) = &help {
                eprintln!("  {help}");
            }
            if json {
                let _ = failure::print_findings(&failure::finding("interrupted", what.to_owned(), help));
            }
            // No destructors: threads of libtorch may be at work.
            signal_hook::low_level::exit(INTERRUPTED.into());
        }
    });
    Ok(())
}
