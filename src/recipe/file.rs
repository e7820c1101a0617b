//! Reads the text of a recipe's file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::findings::{nearest_word, shown};

/// The most files of a folder that are looked through for one that was meant.
pub(super) const MOST_NAMES: usize = 1000;
/// The largest recipe file in bytes.
const LARGEST_FILE: u64 = 256 * 1024;

/// Why a file gives no text; said of the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("is larger than {LARGEST_FILE} bytes")]
    TooLarge,
    /// `line` and `column` from 1 of the first character that is none.
    #[error("is not UTF-8 text")]
    NotUtf8 { line: usize, column: usize },
}

impl FileError {
    /// The code of a finding about it.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::TooLarge => "too-large",
            Self::NotUtf8 { .. } => "not-utf8",
        }
    }

    /// How to mend it.
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "check the path and its permissions",
            Self::TooLarge => "is this a recipe?",
            Self::NotUtf8 { .. } => "save the file in UTF-8",
        }
    }

    /// How to mend it for a file at `path`, which may be one under nearly that name.
    pub(super) fn help_for(&self, path: &Path) -> String {
        let absent = matches!(self, Self::Unreadable(error) if error.kind() == io::ErrorKind::NotFound);
        let near = if absent { beside(path) } else { None };
        near.map_or(self.help().to_owned(), |near| format!("did you mean {}?", shown(&near.display().to_string())))
    }
}

/// The first names in a folder, sorted; none where it can't be read.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().take(MOST_NAMES);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The file that lies beside `path` under nearly its name.
fn beside(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = names_in(folder);
    let near = nearest_word(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    Some(path.with_file_name(near))
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(FileError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]);
        let line = before.split('\n').count();
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        FileError::NotUtf8 { line, column }
    })
}
