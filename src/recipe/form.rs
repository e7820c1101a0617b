//! The form of a recipe: keys, types, words and ranges, checked against the JSON Schema made from the types.
//!
//! The schema is the one statement of what a recipe may hold; editors, serde and these findings share it.

use std::sync::LazyLock;

use serde_json::Value as Json;

use super::document::{Entry, Node, Place, Scalar, Value};
use super::findings::{Problem, listed, nearest_word, shown};
use super::questions::{Range, branches, catalog, constant, keys, strings, words};
use super::schema::complete;
use super::sites::SitePattern;
use super::values::{Device, InputShape, Length, Portion, ValueError};

static SCHEMA: LazyLock<Json> = LazyLock::new(complete);
static CATALOG: LazyLock<Vec<(String, Vec<&str>)>> = LazyLock::new(|| catalog(&SCHEMA));

/// What the top level of a recipe is called in messages.
const TOP: &str = "the recipe";
/// What a free text is called in messages.
const TEXT: &str = "text (in quotes if it looks like a number)";

/// Every finding about the form of the document.
pub(super) fn check(root: &Node) -> Vec<Problem> {
    let mut form = Form { problems: Vec::new() };
    form.value(root, &SCHEMA, &Spot::top());
    form.problems
}

/// Every finding about the value of a top-level key that is taken out of the document before the rest is checked.
pub(super) fn check_key(key: &str, node: &Node) -> Vec<Problem> {
    let mut form = Form { problems: Vec::new() };
    form.value(node, &SCHEMA["properties"][key], &Spot::top().below(key));
    form.problems
}

/// Where in the recipe the check is, and how to say so.
struct Spot {
    /// Key path, such as `stages[2].target_bits`.
    path: String,
    /// The last key; of a list's item that of the list.
    key: String,
    /// This value in words, such as "`target_bits` in stage `search`".
    name: String,
    /// The inside of this mapping in words, such as "stage `search`".
    inside: String,
}

impl Spot {
    fn top() -> Self {
        Self { path: String::new(), key: String::new(), name: TOP.into(), inside: TOP.into() }
    }

    fn below(&self, key: &str) -> Self {
        let shown = shown(key);
        let top = self.path.is_empty();
        Self {
            path: if top { key.into() } else { format!("{}.{key}", self.path) },
            key: key.into(),
            name: if top { format!("`{shown}`") } else { format!("`{shown}` in {}", self.inside) },
            inside: format!("`{shown}`"),
        }
    }

    fn item(&self, index: usize) -> Self {
        let name = format!("item {} of {}", index + 1, self.name);
        Self { path: format!("{}[{index}]", self.path), key: self.key.clone(), inside: name.clone(), name }
    }
}

struct Form {
    problems: Vec<Problem>,
}

impl Form {
    fn say(&mut self, place: Place, code: &'static str, path: &str, message: String, help: Option<String>) {
        self.problems.push(Problem { place, code, path: path.into(), message, help });
    }

    fn value(&mut self, node: &Node, schema: &Json, spot: &Spot) {
        if matches!(node.value, Value::Refused) {
            return;
        }
        if let Some((tag, branches)) = branches(schema) {
            return self.tagged(node, schema, (tag, branches), spot);
        }
        let words = words(schema);
        let types = &schema["type"];
        let is = |name: &str| types == name || types.as_array().is_some_and(|types| types.iter().any(|t| t == name));
        match &node.value {
            _ if node.is_null() && is("null") => {}
            Value::Mapping(entries) if is("object") => {
                self.mapping(node, entries, schema, spot);
            }
            Value::Sequence(items) if is("array") => self.list(node, items, schema, spot),
            Value::Scalar { raw, kind } => match kind {
                Scalar::Text if !words.is_empty() => self.word(node, raw, &words, spot),
                Scalar::Text if is("string") => self.text(node, raw, schema, spot),
                Scalar::Bool(_) if is("boolean") => {}
                Scalar::Integer(integer) if is("integer") => {
                    self.number(node, *integer as f64, schema, spot);
                    if u64::try_from(*integer).is_err() && *integer > 0 {
                        self.out_of_range(node, spot, "at most 18446744073709551615", None);
                    }
                }
                Scalar::Integer(integer) if is("number") => {
                    self.number(node, *integer as f64, schema, spot);
                }
                Scalar::Float(float) if is("number") => self.number(node, *float, schema, spot),
                _ => self.wrong_type(node, schema, spot),
            },
            _ => self.wrong_type(node, schema, spot),
        }
    }

    /// A mapping whose kind stands under the key `tag`.
    fn tagged(&mut self, node: &Node, schema: &Json, (tag, branches): (&str, &[Json]), spot: &Spot) {
        let Value::Mapping(entries) = &node.value else {
            return self.wrong_type(node, schema, spot);
        };
        let kinds: Vec<&str> = branches.iter().filter_map(|b| constant(b, tag)).collect();
        let Some(kind) = node.get(tag) else {
            let help = format!("write one of {}", listed(kinds));
            let message = format!("missing key `{tag}` in {}", spot.name);
            return self.say(node.place, "missing-key", &spot.path, message, Some(help));
        };
        let below = spot.below(tag);
        let known = match kind.text() {
            Some(word) => {
                self.word(kind, word, &kinds, &below);
                // A misspelt kind must not hide the findings below it.
                let meant = kinds.contains(&word).then_some(word);
                meant.or_else(|| nearest_word(word, kinds.iter().copied()))
            }
            None => {
                if !matches!(kind.value, Value::Refused) {
                    self.wrong_word(kind, &kinds, &below);
                }
                None
            }
        };
        let branch = branches.iter().find(|branch| known.is_some() && constant(branch, tag) == known);
        if let (Some(branch), Some(kind)) = (branch, known) {
            let inside = kind_name(tag, kind, spot);
            let spot = Spot { path: spot.path.clone(), key: spot.key.clone(), name: inside.clone(), inside };
            self.mapping(node, entries, branch, &spot);
        }
    }

    fn mapping(&mut self, node: &Node, entries: &[Entry], schema: &Json, spot: &Spot) {
        let mut meant = Vec::new();
        for entry in entries {
            let below = spot.below(&entry.key);
            let required = || strings(&schema["required"]).any(|key| key == entry.key);
            if let Some(schema) = schema["properties"].get(&entry.key) {
                // Taken away by an override, an optional key is at its default.
                if !entry.node.is_taken_away() || required() {
                    self.value(&entry.node, schema, &below);
                }
            } else if let Some(near) = self.unknown_key(entry, schema, spot)
                && node.get(near).is_none()
            {
                // A misspelt key must not hide the findings about its value, nor count as missing as well.
                self.value(&entry.node, &schema["properties"][near], &below);
                meant.push(near);
            }
        }
        for key in strings(&schema["required"]) {
            if node.get(key).is_none() && !meant.contains(&key) {
                let below = spot.below(key);
                self.say(
                    node.place,
                    "missing-key",
                    &below.path,
                    format!("missing key `{key}` in {}", spot.inside),
                    hint(&schema["properties"][key], &below),
                );
            }
        }
    }

    /// Returns the key that was meant, if one is near.
    fn unknown_key<'s>(&mut self, entry: &Entry, schema: &'s Json, spot: &Spot) -> Option<&'s str> {
        let known: Vec<&str> = keys(schema).collect();
        let elsewhere: Vec<&str> =
            CATALOG.iter().filter(|(_, keys)| keys.contains(&&*entry.key)).map(|(owner, _)| owner.as_str()).collect();
        let key = shown(&entry.key);
        let all = listed(known.iter().copied());
        let near = if elsewhere.is_empty() { nearest_word(&entry.key, known) } else { None };
        let help = if !elsewhere.is_empty() {
            format!("`{key}` belongs in {}. Known keys here: {all}", elsewhere.join(" or "))
        } else if let Some(near) = near {
            format!("did you mean `{near}`? Known keys: {all}")
        } else {
            format!("known keys: {all}")
        };
        self.say(
            entry.key_place,
            "unknown-key",
            &spot.below(&entry.key).path,
            format!("unknown key `{key}` in {}", spot.inside),
            Some(help),
        );
        near
    }

    fn list(&mut self, node: &Node, items: &[Node], schema: &Json, spot: &Spot) {
        if items.is_empty() && schema["minItems"].as_u64() > Some(0) {
            let message = format!("{} is empty", spot.name);
            let help = "give it at least one item".to_string();
            self.say(node.place, "empty-value", &spot.path, message, Some(help));
        } else if let (Some(least), Some(most)) = (schema["minItems"].as_u64(), schema["maxItems"].as_u64())
            && !(least..=most).contains(&(items.len() as u64))
        {
            let message = format!("{} must have {most} items, found {}", spot.name, items.len());
            self.say(node.place, "wrong-length", &spot.path, message, hint(schema, spot));
        }
        for (index, item) in items.iter().enumerate() {
            self.value(item, &schema["items"], &spot.item(index));
        }
    }

    fn word(&mut self, node: &Node, word: &str, words: &[&str], spot: &Spot) {
        if words.contains(&word) {
            return;
        }
        let all = listed(words.iter().copied());
        let help = match nearest_word(word, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? Known values: {all}"),
            None => format!("known values: {all}"),
        };
        let message = format!("unknown value `{}` for {}", shown(word), spot.name);
        self.say(node.place, "unknown-value", &spot.path, message, Some(help));
    }

    fn wrong_word(&mut self, node: &Node, words: &[&str], spot: &Spot) {
        let message = format!("{} must be a word, found {}", spot.name, node.described());
        let help = format!("write one of {}", listed(words.iter().copied()));
        self.say(node.place, "wrong-type", &spot.path, message, Some(help));
    }

    fn text(&mut self, node: &Node, text: &str, schema: &Json, spot: &Spot) {
        let parsed = match schema["format"].as_str() {
            Some("length") => text.parse::<Length>().map(|_| ()),
            Some("positive-length") => match text.parse::<Length>() {
                Ok(length) if length.is_zero() => {
                    return self.out_of_range(node, spot, "more than 0", None);
                }
                parsed => parsed.map(|_| ()),
            },
            Some("portion") => text.parse::<Portion>().map(|_| ()),
            Some("shape") => text.parse::<InputShape>().map(|_| ()),
            Some("device") => text.parse::<Device>().map(|_| ()),
            Some("site-pattern") => text.parse::<SitePattern>().map(|_| ()),
            _ => Ok(()),
        };
        if text.chars().any(breaks_lines) {
            let message = format!("{} must be one line without control characters", spot.name);
            let help = hint(schema, spot);
            self.say(node.place, "bad-text", &spot.path, message, help);
        } else if let Err(error) = parsed {
            self.bad_text(node, text, &error, spot);
        } else if text.is_empty() && schema["minLength"].as_u64() > Some(0) {
            let message = format!("{} is empty", spot.name);
            let help = hint(schema, spot);
            self.say(node.place, "empty-value", &spot.path, message, help);
        }
    }

    fn bad_text(&mut self, node: &Node, text: &str, error: &ValueError, spot: &Spot) {
        let what = match error {
            ValueError::Length { .. } => "a length",
            ValueError::Portion { .. } => "a length or a percentage",
            ValueError::Shape { .. } => "an input shape",
            ValueError::Device { .. } => "a device",
            ValueError::Pattern { .. } => "a pattern of site names",
        };
        let reason = match error {
            ValueError::Pattern { reason, .. } => format!(": {}", shown(reason)),
            _ => String::new(),
        };
        let message = format!("{} must be {what}, found `{}`{reason}", spot.name, shown(text));
        let help = Some(error.help().into());
        self.say(node.place, error.code(), &spot.path, message, help);
    }

    fn number(&mut self, node: &Node, number: f64, schema: &Json, spot: &Spot) {
        if !number.is_finite() {
            let message = format!("{} must be finite, found {}", spot.name, node.described());
            let help = hint(schema, spot);
            return self.say(node.place, "not-finite", &spot.path, message, help);
        }
        let range = Range::of(schema);
        if !range.holds(number) {
            self.out_of_range(node, spot, &range.described(), schema["x-why"].as_str());
        }
    }

    fn out_of_range(&mut self, node: &Node, spot: &Spot, range: &str, why: Option<&str>) {
        let found = match &node.value {
            Value::Scalar { raw, .. } => shown(raw),
            _ => node.described(),
        };
        let message = format!("{} is out of range: {found}", spot.name);
        let why = why.map_or(String::new(), |why| format!("; {why}"));
        let help = Some(format!("valid is {range}{why}"));
        self.say(node.place, "out-of-range", &spot.path, message, help);
    }

    fn wrong_type(&mut self, node: &Node, schema: &Json, spot: &Spot) {
        let words = words(schema);
        if !words.is_empty() {
            return self.wrong_word(node, &words, spot);
        }
        let first = match &schema["type"] {
            Json::Array(types) => types.first().and_then(Json::as_str),
            one => one.as_str(),
        };
        let expected = match (first, schema["format"].as_str()) {
            (Some("string"), Some("length" | "positive-length")) => "a length",
            (Some("string"), Some("portion")) => "a length or a percentage",
            (Some("string"), Some("shape")) => "an input shape",
            (Some("string"), Some("device")) => "a device",
            (Some("string"), _) => TEXT,
            (Some("integer"), _) => "a whole number",
            (Some("number"), _) => "a number",
            (Some("boolean"), _) => "`true` or `false`",
            (Some("array"), _) => "a list",
            _ => "a mapping of keys to values",
        };
        let found = node.described();
        let message = format!("{} must be {expected}, found {found}", spot.name);
        let help = match &node.value {
            Value::Scalar { raw, kind } if expected == TEXT && *kind != Scalar::Null => {
                Some(format!("write `\"{}\"`", shown(raw)))
            }
            _ => hint(schema, spot),
        };
        self.say(node.place, "wrong-type", &spot.path, message, help);
    }
}

/// Characters that have no place in a name or a path: they would garble reports, and YAML's versions disagree on them.
fn breaks_lines(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// How a kind of mapping is called: a stage by its kind, the data set by its key.
fn kind_name(tag: &str, kind: &str, spot: &Spot) -> String {
    if spot.path.ends_with(']') { format!("{tag} `{kind}`") } else { spot.inside.clone() }
}

/// An example of a value, and what the value means.
fn hint(schema: &Json, spot: &Spot) -> Option<String> {
    let example = schema["examples"].get(0).or_else(|| schema.get("default"));
    let example = example.map(|value| match value.as_str() {
        Some(text) => text.to_string(),
        None => value.to_string(),
    });
    let key = &spot.key;
    let example = match example {
        Some(value) => Some(format!("for example `{key}: {value}`")),
        None => {
            if let Some((tag, branches)) = branches(schema) {
                let kinds = branches.iter().filter_map(|branch| constant(branch, tag));
                Some(format!("it has a key `{tag}`: {}", listed(kinds)))
            } else {
                let known = listed(keys(schema));
                (!known.is_empty()).then(|| format!("its keys: {known}"))
            }
        }
    };
    let meaning = schema["description"].as_str();
    let meaning = meaning.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    match (example, meaning) {
        (Some(example), Some(meaning)) => Some(format!("{example}. {meaning}")),
        (example, meaning) => example.or(meaning),
    }
}
