//! The program `dimbit`: parses the command line, dispatches, prints one error.

use std::process::ExitCode;

fn main() -> ExitCode {
    dimbit::cli::main()
}
