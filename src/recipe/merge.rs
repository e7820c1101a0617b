//! Lays a recipe over its base.
//!
//! Mappings merge key by key, `null` takes a key away, anything else replaces what the base has. Under `stages` a list
//! replaces, and a mapping patches the base's stages, named as in an override.

use std::collections::{HashMap, HashSet};

use super::document::{Entry, Node, Place, Value};
use super::findings::{Problem, nearest_word, shown};
use super::overrides::item;

/// The key whose list is patched by a mapping.
const STAGES: &str = "stages";
/// How many keys of a base are looked through for one that was meant; no mapping of a recipe has that many.
const MOST_KEYS: usize = 64;

/// Lays `over` over `base`; what cannot be laid is the problems. Everything keeps its place, a merged mapping that of
/// `over`: what is missing in it is missing there.
pub(super) fn overlay(base: &mut Node, over: Node) -> Vec<Problem> {
    let mut merge = Merge { problems: Vec::new() };
    merge.node(base, over, "");
    merge.problems
}

/// Checks a recipe that has no base: it has nothing to patch.
pub(super) fn check_unbased(root: &mut Node) -> Option<Problem> {
    let Value::Mapping(entries) = &mut root.value else { return None };
    let stages = entries.iter_mut().find(|entry| entry.key == STAGES)?;
    if !matches!(stages.node.value, Value::Mapping(_)) {
        return None;
    }
    stages.node.value = Value::Refused;
    Some(bad_patch(
        stages.key_place,
        STAGES,
        "`stages` is a mapping, which changes the stages of a base, but this file extends none".into(),
        "write the stages as a list, each with its kind (`- stage: train`), or name the base: `extends: base.yaml`"
            .into(),
    ))
}

struct Merge {
    problems: Vec<Problem>,
}

impl Merge {
    fn node(&mut self, base: &mut Node, over: Node, path: &str) {
        match (&mut base.value, over.value) {
            (Value::Sequence(stages), Value::Mapping(patches)) if path == STAGES => {
                base.place = over.place;
                self.stages(stages, patches);
            }
            // No list to patch: the base's own finding says so.
            (_, Value::Mapping(_)) if path == STAGES => {}
            (Value::Mapping(entries), Value::Mapping(changes)) => {
                base.place = over.place;
                self.mapping(entries, changes, path);
            }
            (_, value) => *base = Node { place: over.place, value },
        }
    }

    fn mapping(&mut self, entries: &mut Vec<Entry>, changes: Vec<Entry>, path: &str) {
        let known: HashMap<String, usize> =
            entries.iter().enumerate().map(|(index, entry)| (entry.key.clone(), index)).collect();
        let mut removed = HashSet::new();
        for mut change in changes {
            let path = if path.is_empty() { change.key.clone() } else { format!("{path}.{}", change.key) };
            match known.get(&change.key) {
                Some(&index) if change.node.is_null() => {
                    removed.insert(index);
                }
                Some(&index) => {
                    entries[index].key_place = change.key_place;
                    self.node(&mut entries[index].node, change.node, &path);
                }
                None if change.node.is_null() => {
                    let key = shown(&change.key);
                    let keys = entries[..known.len()].iter().take(MOST_KEYS);
                    let help = match nearest_word(&change.key, keys.map(|entry| entry.key.as_str())) {
                        Some(near) => format!("did you mean `{}`?", shown(near)),
                        None => {
                            "an empty value takes away what the base has: remove this key, or give it a value".into()
                        }
                    };
                    let message = format!("the base has no `{key}` to take away");
                    self.problems.push(bad_patch(change.key_place, &path, message, help));
                }
                None => {
                    if path == STAGES && matches!(change.node.value, Value::Mapping(_)) {
                        change.node.value = Value::Refused;
                        self.problems.push(bad_patch(
                            change.key_place,
                            STAGES,
                            "the base has no `stages` to change".into(),
                            "write the stages as a list, each with its kind: `- stage: train`".into(),
                        ));
                    }
                    entries.push(change);
                }
            }
        }
        retain(entries, &removed);
    }

    fn stages(&mut self, stages: &mut Vec<Node>, patches: Vec<Entry>) {
        // Names and indices are those of the base, whatever the patches change or remove.
        let targets: Vec<_> = patches.iter().map(|patch| item(stages, &patch.key, "the base")).collect();
        let mut removed = HashSet::new();
        for (patch, target) in patches.into_iter().zip(targets) {
            match target {
                Ok(index) if patch.node.is_null() => {
                    removed.insert(index);
                }
                Ok(index) => self.node(&mut stages[index], patch.node, &format!("{STAGES}[{index}]")),
                Err((message, help)) => {
                    let help = format!("{help}. To add a stage, write the whole list");
                    self.problems.push(bad_patch(patch.key_place, &format!("{STAGES}.{}", patch.key), message, help));
                }
            }
        }
        retain(stages, &removed);
    }
}

/// Removes the items of these indices.
fn retain<T>(items: &mut Vec<T>, removed: &HashSet<usize>) {
    let mut index = 0..;
    items.retain(|_| index.next().is_none_or(|index| !removed.contains(&index)));
}

fn bad_patch(place: Place, path: &str, message: String, help: String) -> Problem {
    Problem { place, code: "bad-patch", path: path.into(), message, help: Some(help) }
}
