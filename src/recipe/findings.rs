//! Findings: what is wrong with a recipe, where, and how to mend it.

use std::fmt;

use serde::Serialize;

use super::document::{Node, Place};
use super::vars::Put;

/// The widest part of a source line that is shown, in characters.
const WIDEST_LINE: usize = 160;
/// The most findings that are kept; beyond them the text is hardly a recipe.
const MOST_FINDINGS: usize = 200;
/// How much of a too wide line is shown before the finding.
const LEAD: usize = 60;

/// One thing that is wrong with a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of mistake this is, such as `unknown-key`.
    pub code: &'static str,
    /// Key path of what is wrong, such as `stages[2].target_bits`; empty for the whole recipe.
    pub path: String,
    /// Name of the recipe's file as it was given, of one of its bases, or the override (`--set
    /// stages.2.target_bits=0`). Of an error about something else than a recipe the file or folder that it is about;
    /// empty, and `null` as JSON, if it is about none.
    #[serde(serialize_with = "null_if_empty")]
    pub file: String,
    /// Line in the file, from 1; none for overrides and for a file that could not be read.
    pub line: Option<usize>,
    /// Column in the line, from 1, in characters; present where `line` is.
    pub column: Option<usize>,
    /// Number of characters that the finding is about, from `column`.
    pub length: usize,
    /// The whole line of the file.
    pub source_line: Option<String>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl Finding {
    /// A finding about a file or folder as a whole, such as one that cannot be read; `file` may be empty.
    pub(crate) fn about_file(code: &'static str, file: &str, message: String, help: Option<String>) -> Self {
        Self {
            code,
            path: String::new(),
            file: file.into(),
            line: None,
            column: None,
            length: 0,
            source_line: None,
            message,
            help,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}]: {}", self.code, self.message)?;
        let number = self.line.map_or(String::new(), |line| line.to_string());
        let gutter = " ".repeat(number.len().max(1));
        write!(f, "{gutter}--> {}", self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
            if let Some(source) = &self.source_line {
                let total = source.chars().count();
                let before = column.saturating_sub(1);
                let skipped = if total > WIDEST_LINE { before.saturating_sub(LEAD) } else { 0 };
                // A control character would shift the marks below, or drive the terminal.
                let shown: String = source
                    .chars()
                    .skip(skipped)
                    .take(WIDEST_LINE)
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .collect();
                let room = shown.chars().count().saturating_sub(before - skipped);
                let marks = "^".repeat(self.length.min(room).max(1));
                let indent = " ".repeat(before - skipped);
                let shown = shown.trim_end();
                write!(f, "\n{gutter} |\n{number} | {shown}")?;
                write!(f, "\n{gutter} | {indent}{marks}")?;
            }
        }
        if let Some(help) = &self.help {
            write!(f, "\n{gutter} = help: {help}")?;
        }
        Ok(())
    }
}

/// All findings about one recipe, by position; never empty when it is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostics {
    /// The findings: those in the recipe's file by line and column, then those in its bases, then those in overrides.
    pub findings: Vec<Finding>,
    /// How many further findings were left out.
    pub omitted: usize,
}

impl From<Vec<Finding>> for Diagnostics {
    fn from(findings: Vec<Finding>) -> Self {
        Self { findings, omitted: 0 }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            finding.fmt(f)?;
        }
        if self.omitted > 0 {
            write!(f, "\n\n... and {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A finding before it is tied to the text: its place is inside the document.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) place: Place,
    pub(super) code: &'static str,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// One of the files that a recipe is put together from.
#[derive(Debug, Clone)]
pub(super) struct SourceFile {
    /// As it is shown in findings.
    pub(super) name: String,
    pub(super) text: String,
}

/// A recipe's texts and the place of every key in them, so that later checks can locate their findings, too.
#[derive(Debug, Clone)]
pub struct Source {
    /// The recipe's own file, its base, the base's base; never empty.
    files: Vec<SourceFile>,
    overrides: Vec<String>,
    pub(super) root: Node,
    /// What came from variables.
    pub(super) put: Vec<Put>,
}

impl Source {
    pub(super) fn new(files: Vec<SourceFile>, overrides: Vec<String>, root: Node) -> Self {
        Self { files, overrides, root, put: Vec::new() }
    }

    /// The recipe file's name, as it was given.
    pub fn file(&self) -> &str {
        &self.files[0].name
    }

    /// The names of all files that the recipe is put together from: its own, then what that `extends`, and so on.
    pub fn files(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.name.as_str()).collect()
    }

    /// The text of the recipe file, without its bases and the overrides.
    pub fn text(&self) -> &str {
        &self.files[0].text
    }

    /// File name, line and column (from 1) of the value at a key path such as `stages[2].target_bits`.
    ///
    /// For a list or a mapping that is where its key stands. Where the recipe leaves a key out it is the place of
    /// what would hold it. `None` if the value came from an override.
    pub fn locate(&self, path: &str) -> Option<(&str, usize, usize)> {
        match self.root.nearest(path).place {
            Place::Text { file, line, column, .. } => Some((&self.files[file].name, line, column)),
            Place::Override(_) => None,
        }
    }

    /// A finding about the value at a key path such as `stages[2].target_bits`; see [`Source::locate`].
    pub fn finding(&self, code: &'static str, path: &str, message: impl Into<String>, help: Option<String>) -> Finding {
        let place = self.root.nearest(path).place;
        self.tie(Problem { place, code, path: path.into(), message: message.into(), help })
    }

    /// Orders problems by place and turns them into findings.
    pub(super) fn diagnostics(&self, mut problems: Vec<Problem>) -> Diagnostics {
        problems.sort_by_key(|problem| problem.place);
        let omitted = problems.len().saturating_sub(MOST_FINDINGS);
        problems.truncate(MOST_FINDINGS);
        Diagnostics { omitted, findings: problems.into_iter().map(|problem| self.tie(problem)).collect() }
    }

    fn tie(&self, mut problem: Problem) -> Finding {
        for put in self.put.iter().filter(|put| put.at == problem.place) {
            let from = match put.from {
                Place::Text { file, line, column, .. } => format!("{}:{line}:{column}", self.files[file].name),
                Place::Override(index) => format!("--set {}", shown(&self.overrides[index])),
            };
            let note = format!("`${{{}}}` is `{}`, from {from}", put.name, put.value);
            problem.help =
                Some(problem.help.map_or(note.clone(), |help| format!("{}; {note}", help.trim_end_matches('.'))));
        }
        let (name, position) = match problem.place {
            Place::Text { file, line, column, length } => {
                (self.files[file].name.clone(), Some((file, line, column, length)))
            }
            Place::Override(index) => (format!("--set {}", self.overrides[index]), None),
        };
        let mut finding = Finding::about_file(problem.code, &name, problem.message, problem.help);
        finding.path = problem.path;
        if let Some((file, line, column, length)) = position {
            finding.line = Some(line);
            finding.column = Some(column);
            finding.length = length;
            finding.source_line = lines(&self.files[file].text).nth(line - 1).map(String::from);
        }
        finding
    }
}

/// Splits at every line break that YAML knows; `str::lines` leaves out a lone carriage return.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// Text from a recipe for use in a message: one line, not too long.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let clean: String = text.chars().take(LONGEST).flat_map(escaped).collect();
    if text.chars().nth(LONGEST).is_some() { format!("{clean}…") } else { clean }
}

fn escaped(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

fn null_if_empty<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    (!text.is_empty()).then_some(text).serialize(serializer)
}

/// The text of an error and what it says behind it of what to do, which a finding has a place of its own for.
pub(crate) fn split_help(text: &str) -> (String, Option<String>) {
    const MARKS: [(&str, &str); 3] = [("\n  help: ", ""), ("\n  kept: ", "kept: "), ("\n  saved: ", "saved: ")];
    let found = MARKS.iter().filter_map(|(mark, kept)| Some((text.find(mark)?, mark, kept))).min();
    match found {
        Some((at, mark, kept)) => {
            let help = text[at + mark.len()..].replace("\n  ", "; ");
            (text[..at].to_owned(), Some(format!("{kept}{help}")))
        }
        None => (text.to_owned(), None),
    }
}

/// `a, b, c`, each in backquotes.
pub(super) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// The `count` words that are most like `given`, the nearest first.
pub(crate) fn nearest_words<'a>(given: &str, words: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<&'a str> {
    /// The longest beginning of a word that is compared, in characters.
    const COMPARED: usize = 256;
    let start = |text: &str| text.chars().take(COMPARED).collect::<String>();
    let given = start(given);
    let likeness = |word: &str| strsim::normalized_damerau_levenshtein(&given, &start(word));
    let mut ranked: Vec<(f64, &str)> = words.into_iter().map(|word| (likeness(word), word)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.into_iter().take(count).map(|(_, word)| word).collect()
}

/// The word that `given` was most likely meant to be, if any is close.
pub(crate) fn nearest_word<'a>(given: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = given.chars().count();
    // Far longer than any key: nothing can be near, and measuring would cost.
    if letters > 64 {
        return None;
    }
    words
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(given, word), word))
        .filter(|&(distance, _)| distance <= (letters / 3).max(1) && distance < letters)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}
