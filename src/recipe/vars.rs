//! Variables: `vars: {bits: 2.16}` says a value once, `${bits}` puts it wherever it is wanted.
//!
//! Plain substitution, once, after all files and overrides are laid together; nothing is computed. `${bits}` that is a
//! whole value takes the variable's type, within other text it makes text, and `$${` stands for a plain `${`. What is put
//! in is checked like anything that is written out.

use std::collections::HashSet;

use super::document::{Entry, Node, Place, Scalar, Value};
use super::findings::{Problem, listed, nearest_word, shown};

/// The top-level key that holds the variables.
pub(super) const VARS: &str = "vars";
/// The most variables that a help text lists.
const MOST_LISTED: usize = 12;

/// A value that came from a variable.
#[derive(Debug, Clone)]
pub(super) struct Put {
    /// Where `${…}` stands.
    pub(super) at: Place,
    pub(super) name: String,
    /// The variable's value, for a message.
    pub(super) value: String,
    /// Where the variable got it.
    pub(super) from: Place,
}

/// What a substitution leaves beside the changed document.
#[derive(Debug, Default)]
pub(super) struct Substituted {
    pub(super) put: Vec<Put>,
    pub(super) problems: Vec<Problem>,
}

/// The names of the variables that a document has.
pub(super) fn names(root: &Node) -> HashSet<String> {
    match root.get(VARS).map(|vars| &vars.value) {
        Some(Value::Mapping(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
        _ => HashSet::new(),
    }
}

/// Takes `vars` out of the document and puts their values in. `defined` are the names that its files define: overrides
/// change variables, they don't make new ones.
pub(super) fn substitute(root: &mut Node, defined: &HashSet<String>) -> Substituted {
    let mut work = Work { entries: Vec::new(), done: Substituted::default() };
    if let Some(vars) = root.take(VARS) {
        work.read(vars, defined);
    }
    work.node(root, "");
    work.done
}

struct Work {
    entries: Vec<Entry>,
    done: Substituted,
}

impl Work {
    fn say(&mut self, place: Place, code: &'static str, path: &str, message: String, help: String) {
        self.done.problems.push(Problem { place, code, path: path.into(), message, help: Some(help) });
    }

    /// Checks the variables themselves.
    fn read(&mut self, vars: Node, defined: &HashSet<String>) {
        let place = vars.place;
        let entries = match vars.value {
            Value::Mapping(entries) => entries,
            Value::Refused => return,
            _ if vars.is_taken_away() => return,
            _ => {
                let message = format!("`{VARS}` must be a mapping of names to values, found {}", vars.described());
                return self.say(place, "wrong-type", VARS, message, "for example `vars: {bits: 2.16}`".into());
            }
        };
        for mut entry in entries {
            let (name, path) = (shown(&entry.key), format!("{VARS}.{}", entry.key));
            let undefined = matches!(entry.key_place, Place::Override(_)) && !defined.contains(&entry.key);
            let wrong = match &entry.node.value {
                _ if !is_name(&entry.key) => Some((
                    entry.key_place,
                    "bad-variable",
                    format!("`{name}` is no name of a variable"),
                    "a name begins with a letter; letters, digits and `_` follow".to_string(),
                )),
                _ if undefined => Some((
                    entry.key_place,
                    "unknown-variable",
                    format!("the recipe has no variable `{name}` to set"),
                    known(&entry.key, defined.iter().map(String::as_str)),
                )),
                Value::Refused => None,
                Value::Scalar { kind: Scalar::Null, .. } | Value::Sequence(_) | Value::Mapping(_) => Some((
                    entry.node.place,
                    "wrong-type",
                    format!("the variable `{name}` must be a single value, found {}", entry.node.described()),
                    "a variable is a number, a text, `true` or `false`".to_string(),
                )),
                Value::Scalar { raw, .. } if raw.contains("${") => Some((
                    entry.node.place,
                    "bad-variable",
                    format!("the variable `{name}` refers to another one"),
                    "a variable's value is plain: write it out".to_string(),
                )),
                Value::Scalar { .. } => None,
            };
            if let Some((place, code, message, help)) = wrong {
                self.say(place, code, &path, message, help);
                // It is known, so that its uses are no findings as well.
                entry.node.value = Value::Refused;
            }
            self.entries.push(entry);
        }
    }

    /// Puts the values into everything below a node.
    fn node(&mut self, node: &mut Node, path: &str) {
        match &mut node.value {
            Value::Sequence(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.node(item, &format!("{path}[{index}]"));
                }
            }
            Value::Mapping(entries) => {
                for entry in entries {
                    let below = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                    self.node(&mut entry.node, &below);
                }
            }
            Value::Scalar { raw, kind: Scalar::Text } if raw.contains("${") => {
                let raw = std::mem::take(raw);
                node.value = self.expanded(&raw, node.place, path);
            }
            Value::Scalar { .. } | Value::Refused => {}
        }
    }

    /// The value of a text with variables in it.
    fn expanded(&mut self, raw: &str, at: Place, path: &str) -> Value {
        let whole = raw.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).filter(|name| !name.contains('}'));
        if let Some(name) = whole {
            return self.variable(name, at, path).unwrap_or(Value::Refused);
        }
        let mut text = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some(start) = rest.find("${") {
            let (before, after) = (&rest[..start], &rest[start + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                text.push_str(before);
                text.push_str("${");
                rest = after;
                continue;
            }
            text.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                let help = "write `${name}`, or `$${` where a plain `${` is meant".into();
                self.say(at, "bad-variable", path, format!("`{}` has a `${{` without its `}}`", shown(raw)), help);
                return Value::Refused;
            };
            match self.variable(name, at, path) {
                Some(Value::Scalar { raw, .. }) => text.push_str(&raw),
                _ => return Value::Refused,
            }
            rest = after;
        }
        text.push_str(rest);
        Value::Scalar { raw: text, kind: Scalar::Text }
    }

    /// The value of a variable; none, with a problem, where there is no such variable.
    fn variable(&mut self, name: &str, at: Place, path: &str) -> Option<Value> {
        match self.entries.iter().find(|entry| entry.key == name) {
            Some(Entry { node, .. }) => {
                let value = node.value.clone();
                if let Value::Scalar { raw, .. } = &value {
                    self.done.put.push(Put { at, name: name.into(), value: shown(raw), from: node.place });
                }
                Some(value)
            }
            None => {
                let help = known(name, self.entries.iter().map(|entry| entry.key.as_str()));
                self.say(at, "unknown-variable", path, format!("there is no variable `{}`", shown(name)), help);
                None
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Help for a variable that isn't there.
fn known<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut all: Vec<&str> = names.clone().filter(|name| is_name(name)).collect();
    all.sort_unstable();
    all.truncate(MOST_LISTED);
    let near = nearest_word(name, all.iter().copied());
    match (near, all.is_empty()) {
        (_, true) => "the recipe has no variables; they are defined at its top: `vars: {bits: 2.16}`".into(),
        (Some(near), _) => format!("did you mean `{}`? Variables: {}", shown(near), listed(all)),
        (None, _) => format!("variables: {}", listed(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SMALL, overrides};
    use super::super::*;

    fn with(vars: &str, stages: &str) -> String {
        format!("{}vars: {vars}\n", SMALL.replace("[{stage: train, length: 1ep}]", stages))
    }

    const SEARCH: &str = "\n  - stage: calibrate\n  - stage: search\n    length: ${steps}st\n    target_bits: ${bits}\n    revival: ${back}\n";

    #[test]
    fn a_variable_alone_keeps_its_type_and_within_text_makes_text() {
        let text = with("{bits: 2.5, steps: 40, back: false, word: run}", SEARCH)
            + "name: \"${word}-${bits}, $${plain}\"\nseed: ${steps}\n";
        let recipe = Recipe::parse(&text, "x.yaml", &[]).unwrap_or_else(|error| panic!("{error}")).recipe;
        let search = recipe.search().unwrap();
        assert_eq!((search.length, search.target_bits, search.revival), (Length::Steps(40), 2.5, false));
        assert_eq!((recipe.name.as_deref(), recipe.seed), (Some("run-2.5, ${plain}"), 40));
        // What it resolves to has no variables, and a text that looks like one stays text.
        let resolved = recipe.resolved_yaml();
        assert!(!resolved.contains("vars"), "{resolved}");
        assert_eq!(Recipe::parse(&resolved, "/y.yaml", &[]).unwrap().recipe.name, recipe.name);
        // Within braces YAML wants quotes around it; the type is the variable's all the same.
        let flow =
            with("{n: 3}", "[{stage: train, length: \"${n}ep\", momentum: 0.5}]").replace("1x28x28", "\"${n}x28x28\"");
        assert_eq!(Recipe::parse(&flow, "x.yaml", &[]).unwrap().recipe.model.input.channels, 3);
    }

    #[test]
    fn overrides_change_variables_and_make_none() {
        let text = with("{bits: 2.5, steps: 40, back: true}", SEARCH);
        let set = |text: &str, set: &str| Recipe::parse(text, "x.yaml", &overrides(&[set]));
        assert_eq!(set(&text, "vars.bits=1.5").unwrap().recipe.search().unwrap().target_bits, 1.5);
        assert_eq!(set(&text, "vars={bits: 3, steps: 2, back: true}").unwrap().recipe.target_bits(), Some(3.0));
        for (text, given) in [(text.as_str(), "vars.bts=1.5"), (SMALL, "vars.bits=1.5")] {
            let error = set(text, given).unwrap_err();
            assert_eq!((error.findings.len(), error.findings[0].code), (1, "unknown-variable"), "{error}");
            assert_eq!(error.findings[0].file, format!("--set {given}"));
        }
        // The place is that of the use; the variable's own is named.
        let error = set(&text, "vars.bits=40").unwrap_err();
        let finding = &error.findings[0];
        assert_eq!((finding.code, finding.line, finding.column), ("out-of-range", Some(8), Some(18)), "{error}");
        assert!(error.to_string().contains("`${bits}` is `40`, from --set vars.bits=40"), "{error}");
    }

    #[test]
    fn a_recipe_gives_its_base_other_values() {
        let base = with("{bits: 2.5, steps: 40, back: true}", SEARCH);
        let files = super::super::extends_tests::Files::new(&[("base.yaml", &base)]);
        let recipe = files.parse("extends: base.yaml\nvars: {bits: 1.25}\n", &[]).unwrap().recipe;
        assert_eq!((recipe.search().unwrap().length, recipe.target_bits()), (Length::Steps(40), Some(1.25)));
        // A path from a variable starts where it is put.
        let base = base.replace("path: d", "path: \"${steps}\"");
        let files = super::super::extends_tests::Files::new(&[("sub/base.yaml", &base)]);
        let recipe =
            files.parse("extends: sub/base.yaml\nvars: {steps: images}\nstages: [{stage: train, length: 1ep}]\n", &[]);
        assert_eq!(recipe.unwrap().recipe.data.path(), Some(files.at("sub/images").as_path()));
    }
}
