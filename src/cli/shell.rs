//! What shells and `man` want to know of the command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, print};

/// Prints a shell's completions, to be sourced or put where the shell looks for them.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "dimbit", &mut script);
        print(String::from_utf8(script)?.trim_end())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints the manual page: `dimbit man | man -l -`.
#[derive(Debug, Args)]
pub struct Man {
    /// The command that the page is about; all of them without it.
    command: Option<String>,
}

impl Man {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let mut all = Cli::command();
        all.build();
        let page = match &self.command {
            None => all,
            Some(name) => match all.find_subcommand(name) {
                Some(command) => command.clone(),
                None => anyhow::bail!("there is no command `{name}`\n  help: `dimbit --help` lists them"),
            },
        };
        let mut text = Vec::new();
        clap_mangen::Man::new(page).render(&mut text)?;
        print(String::from_utf8(text)?.trim_end())?;
        Ok(ExitCode::SUCCESS)
    }
}
