//! The command line: one file a command, no logic of its own.

mod bench;
mod eval;
mod explain;
mod export;
mod failure;
mod inspect;
mod pack;
mod recipes;
mod report;
mod run;
mod schema;
mod shell;
mod validate;
mod verify;

use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, Subcommand};

use crate::recipe::ValueError;

/// Compresses the activations of convolutional networks: joint PCA dimension reduction and learnable mixed-precision
/// quantization of TorchScript networks, driven by a recipe.
#[derive(Debug, Parser)]
#[command(name = "dimbit", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Inspect),
    Validate(validate::Validate),
    Explain(explain::Explain),
    Run(run::Run),
    Eval(eval::Eval),
    Export(export::Export),
    Verify(verify::Verify),
    Pack(pack::Pack),
    Report(report::Report),
    Bench(bench::Bench),
    Schema(schema::Schema),
    Recipes(recipes::Recipes),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// What `--set` does to a recipe.
const SET: &str = "Changes a key of the recipe: `KEY.PATH=VALUE`, for example `stages.search.target_bits=2.5`; `null` returns \
    a key to its default. Relative paths here start at the current folder, those in a recipe at the recipe's. May be given \
    several times";

/// What `--set` does to a finished run.
const SET_OF_RUN: &str = "Changes a key of the run's recipe, such as where model or data lie now: `model.path=FILE`. Relative \
    paths start at the current folder. May be given several times";

/// The exit code of a run that was interrupted and can be resumed.
const INTERRUPTED: u8 = 3;

/// Carries out a command line. Exit codes: 0 done, 1 the input is wrong, 2 usage, 3 interrupted, 4 the run failed.
pub fn main() -> ExitCode {
    let json = failure::wants_json();
    let line = Cli::try_parse().unwrap_or_else(|error| {
        // Help and version come as errors, too.
        if json && error.use_stderr() {
            let _ = failure::print_findings(&failure::usage(&error));
        }
        error.exit()
    });
    let outcome = match line.command {
        Command::Inspect(command) => command.run(),
        Command::Validate(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Pack(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::Recipes(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // A closed stdout changes nothing about the error.
            let _ = failure::say(&error, json);
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

/// A value of a recipe on the command line; what is wrong with it comes with what to write.
fn value<T: FromStr<Err = ValueError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: ValueError| format!("{error}: {}", error.help()))
}

/// Writes a result to stdout. A reader that went away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
