use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::print;

/// Prints the JSON Schema of recipes, for editors.
#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    pub(super) fn run(&self) -> Result<ExitCode> {
        print(&serde_json::to_string_pretty(&crate::recipe::schema())?)?;
        Ok(ExitCode::SUCCESS)
    }
}
