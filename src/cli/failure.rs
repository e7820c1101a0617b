//! What went wrong, in words and for programs, and the exit code that it has.

use std::ffi::OsStr;

use anyhow::Result;

use super::{INTERRUPTED, print};
use crate::export::{ExportError, PackError};
use crate::recipe::{Diagnostics, Finding, split_help};
use crate::report::ReportError;
use crate::train::TrainError;

/// Whether the command line asks for JSON: told without parsing it, as it may be what is wrong.
pub(super) fn wants_json() -> bool {
    std::env::args_os().take_while(|argument| argument != OsStr::new("--")).any(|argument| argument == "--json")
}

/// Says an error: in words on stderr and, where JSON is asked for, as findings on stdout.
pub(super) fn say(error: &anyhow::Error, json: bool) -> Result<()> {
    let text = with_causes(error);
    // Findings bring their own `error[code]`.
    if text.starts_with("error") {
        eprintln!("{text}");
    } else {
        eprintln!("error: {text}");
    }
    if json { print_findings(&findings(error)) } else { Ok(()) }
}

/// Prints findings as one JSON object.
pub(super) fn print_findings(findings: &Diagnostics) -> Result<()> {
    print(&serde_json::to_string_pretty(findings)?)
}

/// One finding, about no file in particular.
pub(super) fn finding(code: &'static str, message: String, help: Option<String>) -> Diagnostics {
    vec![Finding::about_file(code, "", message, help)].into()
}

/// An error as findings: those of a recipe with their places, all others with a code and, where there is one, the file or
/// folder.
pub(super) fn findings(error: &anyhow::Error) -> Diagnostics {
    if let Some(findings) = error.downcast_ref::<Diagnostics>() {
        return findings.clone();
    }
    let (code, path) = match train_error(error) {
        Some(TrainError::Recipe(findings)) => return findings.clone(),
        Some(error) => (error.code(), error.path()),
        None => {
            let export = error.downcast_ref::<ExportError>().map(|error| (error.code(), error.path()));
            let pack = || error.downcast_ref::<PackError>().map(|error| (error.code(), error.path()));
            let report = || error.downcast_ref::<ReportError>().map(|error| (error.code(), Some(error.path())));
            export.or_else(pack).or_else(report).unwrap_or(("failed", None))
        }
    };
    let (message, help) = split_help(&with_causes(error));
    let path = path.map_or(String::new(), |path| path.display().to_string());
    vec![Finding::about_file(code, &path, message, help)].into()
}

/// A command line that can't be parsed, as findings.
pub(super) fn usage(error: &clap::Error) -> Diagnostics {
    let text = error.to_string();
    let text = text.trim().trim_start_matches("error: ");
    let (message, help) = text.split_once("\n\n").unwrap_or((text, ""));
    finding("usage", message.to_owned(), Some(help.replace("\n\n", "\n")).filter(|help| !help.is_empty()))
}

/// The exit code of an error: 1 for wrong input, 3 for an interruption, 4 for a run that failed.
pub(super) fn exit_code(error: &anyhow::Error) -> u8 {
    if train_error(error).is_some_and(TrainError::is_interruption) {
        return INTERRUPTED;
    }
    let input = error
        .downcast_ref::<TrainError>()
        .map(TrainError::is_input)
        .or_else(|| error.downcast_ref::<ExportError>().map(ExportError::is_input))
        .or_else(|| error.downcast_ref::<PackError>().map(PackError::is_input));
    if input.unwrap_or(true) { 1 } else { 4 }
}

/// The error of a run, also of one that is to be exported or packed.
fn train_error(error: &anyhow::Error) -> Option<&TrainError> {
    error.downcast_ref::<TrainError>().or_else(|| match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ExportError::Run(error)), _) | (_, Some(PackError::Train(error))) => Some(error),
        _ => None,
    })
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
