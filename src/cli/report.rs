use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{SET_OF_RUN, print};
use crate::export::describe_run;
use crate::recipe::Override;
use crate::report::{DRAM_PJ_PER_BIT, Report as Runs, folder_of, report_page, report_table, write_atomically};

/// Reports one finished run, or several side by side: accuracy and bits, memory traffic and its energy, extra compute.
#[derive(Debug, Args)]
pub struct Report {
    /// Folders of finished runs.
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// Write a page with pictures, one file that fetches nothing.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Energy of a bit to or from DRAM in pJ. Without it 20: the lower end of what Horowitz gives (ISSCC 2014).
    #[arg(long, value_name = "PJ", default_value_t = DRAM_PJ_PER_BIT, value_parser = energy, hide_default_value = true)]
    dram_pj_per_bit: f64,
    #[arg(long = "set", value_name = "KEY.PATH=VALUE", help = SET_OF_RUN)]
    set: Vec<Override>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn energy(text: &str) -> Result<f64, String> {
    let energy = text.parse::<f64>().ok().filter(|energy| energy.is_finite() && *energy > 0.0);
    energy.ok_or_else(|| "an energy is a number of pJ above 0".to_owned())
}

impl Report {
    pub(super) fn run(&self) -> Result<ExitCode> {
        if let Some(path) = &self.html {
            folder_of(path)?;
        }
        let described = self.runs.iter().map(|folder| describe_run(folder, &self.set, self.dram_pj_per_bit));
        let report = Runs { runs: described.collect::<Result<_, _>>()?, pj_per_bit: self.dram_pj_per_bit };
        if let Some(path) = &self.html {
            write_atomically(path, report_page(&report).as_bytes())?;
        }
        if self.json {
            print(&format!("{:#}", report.json()))?;
        } else {
            print(report_table(&report).trim_end())?;
            if let Some(path) = &self.html {
                print(&format!("\n{}", path.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes `report.html` into a finished run's folder.
///
/// # Errors
/// If the run can't be opened or the page not be written.
pub(super) fn write_page(folder: &Path) -> Result<()> {
    let run = describe_run(folder, &[], DRAM_PJ_PER_BIT)?;
    let report = Runs { runs: vec![run], pj_per_bit: DRAM_PJ_PER_BIT };
    write_atomically(&folder.join("report.html"), report_page(&report).as_bytes())?;
    Ok(())
}
