//! Braces in a path: `{000000..000146}` counts, `{a,b}` enumerates.

use std::path::{Path, PathBuf};

use crate::data::DataError;

/// The most files that a pattern may name.
const MOST_FILES: usize = 100_000;

/// All paths that a pattern names, in its order.
pub(super) fn expand(pattern: &Path) -> Result<Vec<PathBuf>, DataError> {
    let wrong = |reason: &str| DataError::Layout {
        path: pattern.to_owned(),
        reason: reason.to_owned(),
        help: "write a range as `name-{000000..000146}.tar`, or alternatives as `name-{a,b}.tar`".to_owned(),
    };
    let text = pattern.to_str().ok_or_else(|| wrong("is no UTF-8 text"))?;
    let mut paths = vec![String::new()];
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').ok_or_else(|| wrong("has a brace that isn't closed"))?;
        let words = words(inside).ok_or_else(|| wrong("has braces that are neither a range nor alternatives"))?;
        if paths.len().saturating_mul(words.len()) > MOST_FILES {
            return Err(wrong(&format!("names more than {MOST_FILES} files")));
        }
        paths = paths.iter().flat_map(|path| words.iter().map(move |word| format!("{path}{before}{word}"))).collect();
        rest = after;
    }
    Ok(paths.into_iter().map(|path| PathBuf::from(path + rest)).collect())
}

/// What stands between braces; none if it makes no sense.
fn words(inside: &str) -> Option<Vec<String>> {
    let Some((from, to)) = inside.split_once("..") else {
        let words: Vec<String> = inside.split(',').map(str::to_owned).collect();
        return (words.len() > 1).then_some(words);
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    if !digits(from) || !digits(to) {
        return None;
    }
    let (first, last): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
    // As a shell does it: a leading zero asks for all numbers to be as wide as the widest.
    let padded = [from, to].iter().any(|text| text.len() > 1 && text.starts_with('0'));
    let width = if padded { from.len().max(to.len()) } else { 0 };
    (first <= last && last - first < MOST_FILES as u64)
        .then(|| (first..=last).map(|number| format!("{number:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: &str) -> Vec<String> {
        expand(Path::new(pattern)).unwrap().iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn braces_count_and_enumerate() {
        assert_eq!(all("a.tar"), ["a.tar"]);
        assert_eq!(all("d/x-{008..010}.tar"), ["d/x-008.tar", "d/x-009.tar", "d/x-010.tar"]);
        assert_eq!(all("{9..10}"), ["9", "10"]);
        assert_eq!(all("{a,b}{0..1}.tar"), ["a0.tar", "a1.tar", "b0.tar", "b1.tar"]);
    }

    #[test]
    fn braces_that_make_no_sense_say_so() {
        for (pattern, says) in [
            ("x-{0..2.tar", "isn't closed"),
            ("x-{0}.tar", "neither a range nor alternatives"),
            ("x-{2..1}.tar", "neither a range"),
            ("x-{a..c}.tar", "neither a range"),
            ("x-{0..99999999999}.tar", "neither a range"),
            ("{0..999}{0..999}", "more than 100000 files"),
        ] {
            let error = expand(Path::new(pattern)).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("name-{000000..000146}.tar"), "{pattern}: {error}");
        }
    }
}
