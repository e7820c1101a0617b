//! Overrides: single values of a recipe set from the command line.

use std::str::FromStr;

use super::document::{self, DEEPEST, Entry, Node, Place, Value, segments};
use super::findings::{Problem, listed, nearest_word, shown};

/// One value set over the recipe's own: `KEY.PATH=VALUE`.
///
/// A list item is named by its index from 0, a stage also by its kind if it is the only one of that kind:
/// `stages.2.target_bits=2.5`, `stages.search.target_bits=2.5`. The value is YAML; `null`, or nothing, returns a key to its
/// default and removes an item of a list. Relative paths start at the current folder, unlike those in the recipe. The
/// recipe is checked as a whole after all overrides.
#[derive(Debug, Clone)]
pub struct Override {
    text: String,
    segments: Vec<String>,
    value: Node,
}

/// Why a text is no override.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// There is no `=`, or no key before it, or a path deeper than any recipe.
    #[error("`{text}` is not of the form KEY.PATH=VALUE, for example stages.search.target_bits=2.5")]
    Form {
        /// The override as given.
        text: String,
    },
    /// The value is no YAML that a recipe can hold.
    #[error("the value of `{text}`: {reason}")]
    Value {
        /// The override as given.
        text: String,
        /// What is wrong with the value.
        reason: String,
    },
}

impl FromStr for Override {
    type Err = OverrideError;

    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let form = || OverrideError::Form { text: shown(text) };
        let (path, value) = text.split_once('=').ok_or_else(form)?;
        let segments: Vec<String> = segments(path.trim()).map(String::from).collect();
        if segments.is_empty() || segments.len() > DEEPEST {
            return Err(form());
        }
        let (node, problems) = document::read(value, 0);
        let value = match (node, problems.into_iter().next()) {
            (Some(node), None) => node,
            // `KEY=` and `KEY=null` take the value away.
            (None, Some(problem)) if problem.code == "empty" => Node::null(Place::start(0)),
            (_, problem) => {
                return Err(OverrideError::Value {
                    text: shown(text),
                    reason: problem.map_or(String::new(), |problem| problem.message),
                });
            }
        };
        Ok(Self { text: text.into(), segments, value })
    }
}

impl std::fmt::Display for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Sets every override in `root`, in order; those that have no place to go are the problems.
pub(super) fn apply(root: &mut Node, overrides: &[Override]) -> Vec<Problem> {
    let set = |(index, one): (usize, &Override)| {
        let place = Place::Override(index);
        let mut value = one.value.clone();
        value.put(place);
        let done = match one.segments[0].as_str() {
            // The files are read by now, and an override has no folder to start from.
            "extends" => Err((
                "`extends` cannot be set from the command line".to_string(),
                "write `extends: FILE` in a recipe, or run the other recipe itself".to_string(),
            )),
            _ => set(root, &one.segments, value),
        };
        done.err().map(|(message, help)| Problem {
            place,
            code: "bad-override",
            path: one.segments.join("."),
            message,
            help: Some(help),
        })
    };
    overrides.iter().enumerate().filter_map(set).collect()
}

/// Puts `value` at the path below `node`, making mappings on the way where there is nothing yet.
fn set(node: &mut Node, segments: &[String], value: Node) -> Result<(), (String, String)> {
    let Some((segment, rest)) = segments.split_first() else {
        *node = value;
        return Ok(());
    };
    if node.is_null() {
        node.place = value.place;
        node.value = Value::Mapping(Vec::new());
    }
    match &mut node.value {
        Value::Mapping(entries) => {
            let index = entries.iter().position(|entry| entry.key == *segment);
            let index = index.unwrap_or_else(|| {
                entries.push(Entry { key: segment.clone(), key_place: value.place, node: Node::null(value.place) });
                entries.len() - 1
            });
            set(&mut entries[index].node, rest, value)
        }
        Value::Sequence(items) => {
            let index = item(items, segment, "the recipe")?;
            set(&mut items[index], rest, value)
        }
        Value::Scalar { .. } | Value::Refused => Err((
            format!("nothing lies below a single value, so there is no `{}`", shown(segment)),
            "end the path one key earlier".into(),
        )),
    }
}

/// The index of the item that a segment names, by number or by kind of stage; else message and help. `owner` has the list.
pub(super) fn item(items: &[Node], segment: &str, owner: &str) -> Result<usize, (String, String)> {
    /// How many stages a help text lists.
    const MOST_LISTED: usize = 8;
    let count = items.len();
    if let Ok(index) = segment.parse::<usize>() {
        if index < count {
            return Ok(index);
        }
        return Err((
            format!("there is no item {index}: the list has {count}"),
            format!("items count from 0; only items that {owner} has can be set"),
        ));
    }
    let kind = |index: usize| items[index].get("stage").and_then(Node::text);
    let found: Vec<usize> = (0..count).filter(|&index| kind(index) == Some(segment)).collect();
    match found.as_slice() {
        &[index] => Ok(index),
        [] => {
            let kinds: Vec<&str> = (0..count).filter_map(kind).take(MOST_LISTED).collect();
            let near = nearest_word(segment, kinds.iter().copied());
            let near = near.map_or(String::new(), |near| format!("did you mean `{}`? ", shown(near)));
            let kinds: Vec<String> = kinds.into_iter().map(shown).collect();
            Err((
                format!("{owner} has no stage `{}`", shown(segment)),
                format!(
                    "{near}name one of its stages by its kind ({}), or an item by its index from 0",
                    listed(kinds.iter().map(String::as_str))
                ),
            ))
        }
        several => Err((
            format!("{owner} has {} stages `{}`", several.len(), shown(segment)),
            format!("use the index of the one you mean: {:?}", &several[..several.len().min(MOST_LISTED)]),
        )),
    }
}
