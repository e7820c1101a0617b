use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::print;
use crate::recipe::{keys_page, schema};

/// Prints the JSON Schema of recipes, for editors.
#[derive(Debug, Args)]
pub struct Schema {
    /// Print a page for people instead: every key with its type, default and meaning, in Markdown.
    #[arg(long)]
    markdown: bool,
}

impl Schema {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let text = if self.markdown { keys_page() } else { serde_json::to_string_pretty(&schema())? };
        print(text.trim_end())?;
        Ok(ExitCode::SUCCESS)
    }
}
