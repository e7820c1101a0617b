//! The command line: one file a command, no logic of its own.

mod bench;
mod eval;
mod explain;
mod export;
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

use clap::{Parser, Subcommand};

use crate::export::{ExportError, PackError};
use crate::train::TrainError;

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

/// Carries out a command line. Exit codes: 0 done, 1 the input is wrong, 2 usage, 4 the run failed.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
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
            show(&error);
            ExitCode::from(code_of(&error))
        }
    }
}

fn show(error: &anyhow::Error) {
    let text = with_causes(error);
    // Findings bring their own `error[code]`.
    if text.starts_with("error") {
        eprintln!("{text}");
    } else {
        eprintln!("error: {text}");
    }
}

/// The error and its causes, each said once: many errors name their cause in their own text.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn code_of(error: &anyhow::Error) -> u8 {
    let input = error
        .downcast_ref::<TrainError>()
        .map(TrainError::is_input)
        .or_else(|| error.downcast_ref::<ExportError>().map(ExportError::is_input))
        .or_else(|| error.downcast_ref::<PackError>().map(PackError::is_input));
    if input.unwrap_or(true) { 1 } else { 4 }
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
