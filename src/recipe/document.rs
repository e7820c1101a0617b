//! A YAML document as a tree that knows the place of everything in it.
//!
//! Built from the parser's events rather than by a ready-made loader: so duplicate keys are found all at once, depth is
//! bounded (a loader recurses as deep as the text says), and aliases, which a recipe has no use for, cannot multiply.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::findings::{Problem, listed, shown};

/// The deepest nesting; a recipe itself needs 4 levels.
pub(super) const DEEPEST: usize = 32;

/// Where something stands. Ordered: the recipe's file from top to bottom, then its base's, and so on, then the
/// overrides as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In the text of a file, 0 being the recipe's own, 1 its base's; `line` and `column` from 1, `length` in
    /// characters.
    Text { file: usize, line: usize, column: usize, length: usize },
    /// In the override of this index.
    Override(usize),
}

impl Place {
    /// The first character of a file.
    pub(super) const fn start(file: usize) -> Self {
        Self::Text { file, line: 1, column: 1, length: 1 }
    }

    fn of(span: Span, file: usize) -> Self {
        Self::Text {
            file,
            line: span.start.line().max(1),
            column: span.start.col() + 1,
            length: span.end.index().saturating_sub(span.start.index()).max(1),
        }
    }
}

/// A value and where it stands; for a list or a mapping under a key, that is where the key stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar {
        raw: String,
        kind: Scalar,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
    /// Something that has its finding already.
    Refused,
}

/// What a scalar means by YAML 1.2's core schema; the text itself stands beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) node: Node,
}

impl Node {
    /// An absent value.
    pub(super) fn null(place: Place) -> Self {
        let (raw, kind) = (String::new(), Scalar::Null);
        Self { place, value: Value::Scalar { raw, kind } }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar { kind: Scalar::Null, .. })
    }

    /// Whether an override has set this to nothing, which takes it away.
    pub(super) fn is_taken_away(&self) -> bool {
        self.is_null() && matches!(self.place, Place::Override(_))
    }

    /// Takes the items of lists away that overrides have set to nothing.
    pub(super) fn drop_items(&mut self) {
        match &mut self.value {
            Value::Sequence(items) => {
                items.retain(|item| !item.is_taken_away());
                items.iter_mut().for_each(Self::drop_items);
            }
            Value::Mapping(entries) => entries.iter_mut().for_each(|entry| entry.node.drop_items()),
            Value::Scalar { .. } | Value::Refused => {}
        }
    }

    /// Takes the keys away that overrides have set to nothing.
    pub(super) fn drop_keys(&mut self) {
        match &mut self.value {
            Value::Sequence(items) => items.iter_mut().for_each(Self::drop_keys),
            Value::Mapping(entries) => {
                entries.retain(|entry| !entry.node.is_taken_away());
                entries.iter_mut().for_each(|entry| entry.node.drop_keys());
            }
            Value::Scalar { .. } | Value::Refused => {}
        }
    }

    /// The text of a scalar that is text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { raw, kind: Scalar::Text } => Some(raw),
            _ => None,
        }
    }

    /// The value under a key of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Mapping(entries) = &self.value else {
            return None;
        };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// Takes a key out of a mapping.
    pub(super) fn take(&mut self, key: &str) -> Option<Self> {
        let Value::Mapping(entries) = &mut self.value else { return None };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index).node)
    }

    /// The items of a list; none if this is no list.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }

    /// The node at a key path or, where the document ends before it, the last one on the way.
    pub(super) fn nearest(&self, path: &str) -> &Self {
        let mut node = self;
        for segment in segments(path) {
            let next = match segment.parse::<usize>() {
                Ok(index) => node.items().get(index),
                Err(_) => node.get(segment),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// Gives this node and all below it one place.
    pub(super) fn put(&mut self, place: Place) {
        self.place = place;
        match &mut self.value {
            Value::Sequence(items) => items.iter_mut().for_each(|item| item.put(place)),
            Value::Mapping(entries) => {
                for entry in entries {
                    entry.key_place = place;
                    entry.node.put(place);
                }
            }
            Value::Scalar { .. } | Value::Refused => {}
        }
    }

    /// The same value without places. What JSON cannot hold (a number that isn't finite) becomes null.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::{Number, Value as Json};
        match &self.value {
            Value::Refused => Json::Null,
            Value::Sequence(items) => items.iter().map(Self::to_json).collect(),
            Value::Mapping(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
            Value::Scalar { raw, kind } => match *kind {
                Scalar::Null => Json::Null,
                Scalar::Bool(truth) => Json::Bool(truth),
                Scalar::Integer(integer) => Number::from_i128(integer)
                    // Beyond 64 bits only a number with a fraction can be meant.
                    .or_else(|| Number::from_f64(integer as f64))
                    .map_or(Json::Null, Json::Number),

                Scalar::Float(float) => Number::from_f64(float).map_or(Json::Null, Json::Number),
                Scalar::Text => Json::String(raw.clone()),
            },
        }
    }

    /// What this is, in words for a message.
    pub(super) fn described(&self) -> String {
        match &self.value {
            Value::Sequence(_) => "a list".into(),
            Value::Mapping(_) => "a mapping".into(),
            Value::Refused => "something else".into(),
            Value::Scalar { raw, kind } => {
                let raw = shown(raw);
                match kind {
                    Scalar::Null => "nothing".into(),
                    Scalar::Bool(_) => format!("the truth value `{raw}`"),
                    Scalar::Integer(_) | Scalar::Float(_) => format!("the number `{raw}`"),
                    Scalar::Text => format!("the text `{raw}`"),
                }
            }
        }
    }
}

/// The keys and indices of a path: `stages[2].length` and `stages.2.length` alike.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '['])
        .map(|segment| segment.strip_suffix(']').unwrap_or(segment))
        .filter(|segment| !segment.is_empty())
}

/// Reads the one document of a text, which is that of the file of this index. `None`, with at least one problem, where
/// there is no whole document.
pub(super) fn read(text: &str, file: usize) -> (Option<Node>, Vec<Problem>) {
    let mut reader = Reader { parser: Parser::new_from_str(text), file, problems: Vec::new() };
    let root = match reader.document() {
        Ok(root) => root,
        Err(problem) => {
            reader.problems.push(*problem);
            None
        }
    };
    (root, reader.problems)
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    file: usize,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Option<Node>, Box<Problem>> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if root.is_some() => {
                    self.unsupported(
                        span,
                        "a second document begins here".into(),
                        "a recipe is one document: remove `---` and what follows it",
                    );
                    break;
                }
                Event::DocumentStart(_) => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        if root.as_ref().is_none_or(Node::is_null) {
            return Err(Box::new(problem(
                Place::start(self.file),
                "empty",
                "the recipe is empty".into(),
                Some("start with `version: 1`, then `model`, `data` and `stages`".into()),
            )));
        }
        Ok(root)
    }

    fn place(&self, span: Span) -> Place {
        Place::of(span, self.file)
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Box<Problem>> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(Box::new(problem(
                self.place(Span::empty(*error.marker())),
                "syntax",
                format!("not valid YAML: {}", error.info()),
                Some("YAML indents by spaces (no tabs), writes `key: value`, and wants quotes around text with `: ` or ` #` in it, and around `${name}` within `[]` or `{}`".into()),
            ))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Box<Problem>> {
        let place = self.place(span);
        if depth > DEEPEST {
            return Err(Box::new(problem(
                place,
                "unsupported-yaml",
                format!("nested more than {DEEPEST} levels deep"),
                Some("no key of a recipe lies deeper than 4 levels".into()),
            )));
        }
        let value = match event {
            Event::Scalar(raw, style, _, tag) => {
                self.refuse_tag(tag, span);
                let kind = resolve(&raw, style);
                let raw = raw.into_owned();
                Value::Scalar { raw, kind }
            }
            Event::SequenceStart(_, tag) => {
                self.refuse_tag(tag, span);
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd | Event::StreamEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                Value::Sequence(items)
            }
            Event::MappingStart(_, tag) => {
                self.refuse_tag(tag, span);
                Value::Mapping(self.entries(depth)?)
            }
            Event::Alias(_) => {
                self.unsupported(span, "a recipe has no aliases (`*name`)".into(), "write the value out here");
                Value::Refused
            }
            // The parser sends no other event inside a document.
            _ => Value::Refused,
        };
        let place = match &value {
            // Where a mapping starts there is its first key: mark the whole of it.
            Value::Mapping(entries) => entries.first().map_or(place, |entry| entry.key_place),
            _ => place,
        };
        Ok(Node { place, value })
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Box<Problem>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd | Event::StreamEnd => break,
                Event::Scalar(raw, _, _, tag) => {
                    self.refuse_tag(tag, span);
                    Some(raw.into_owned())
                }
                event => {
                    self.node(event, span, depth + 1)?;
                    self.unsupported(span, "a key that is not plain text".into(), "every key of a recipe is one word");
                    None
                }
            };
            let key_place = self.place(span);
            let (event, value_span) = self.next()?;
            let mut node = self.node(event, value_span, depth + 1)?;
            // An absent value has no place of its own, and a list or mapping is best shown by its key.
            if node.is_null() || matches!(node.value, Value::Sequence(_) | Value::Mapping(_)) {
                node.place = key_place;
            }
            let Some(key) = key else { continue };
            if let Some(first) = lines.get(&key) {
                self.problems.push(problem(
                    key_place,
                    "duplicate-key",
                    format!("duplicate key `{}`", shown(&key)),
                    Some(format!("it stands on line {first} already: keep one of them")),
                ));
                continue;
            }
            lines.insert(key.clone(), span.start.line());
            entries.push(Entry { key, key_place, node });
        }
        Ok(entries)
    }

    fn refuse_tag(&mut self, tag: Option<Cow<'_, Tag>>, span: Span) {
        if let Some(tag) = tag {
            let suffix = shown(&tag.suffix);
            self.unsupported(
                span,
                format!("a recipe has no tags, found {}", listed([suffix.as_str()])),
                "remove the tag; put quotes around a value that is text",
            );
        }
    }

    fn unsupported(&mut self, span: Span, message: String, help: &str) {
        let place = self.place(span);
        let help = Some(help.into());
        self.problems.push(problem(place, "unsupported-yaml", message, help));
    }
}

/// A problem of the document as such: it has no key path.
fn problem(place: Place, code: &'static str, message: String, help: Option<String>) -> Problem {
    Problem { place, code, path: String::new(), message, help }
}

/// The core schema of YAML 1.2 (section 10.3.2).
fn resolve(raw: &str, style: ScalarStyle) -> Scalar {
    if style != ScalarStyle::Plain {
        return Scalar::Text;
    }
    match raw {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        _ => {}
    }
    let unsigned = raw.strip_prefix(['-', '+']).unwrap_or(raw);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Scalar::Float(if raw.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = raw.strip_prefix(prefix)
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
            && let Ok(integer) = i128::from_str_radix(digits, radix)
        {
            return Scalar::Integer(integer);
        }
    }
    if let Ok(integer) = raw.parse() {
        return Scalar::Integer(integer);
    }
    // Rust's parser knows words such as `infinity`, which YAML doesn't.
    let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    match raw.parse() {
        // One too large for a double is none, to writers of YAML as well, so they put no quotes around it.
        Ok(float) if raw.bytes().all(numeric) && f64::is_finite(float) => Scalar::Float(float),
        _ => Scalar::Text,
    }
}
