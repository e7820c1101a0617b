//! Every key of a recipe as a page for people, made from the schema that recipes are checked against.

use std::fmt::Write;

use serde_json::Value as Json;

use super::questions::{Range, branches, constant, words};
use super::schema::complete;

const HEAD: &str = "# Every key of a recipe

Written by `dimbit schema --markdown`; `dimbit schema` prints the same as JSON Schema, for editors. [Recipes by example](recipes.md) explains how
recipes are put together (`extends`, `vars`, `--set`).

Lengths are `8ep` (epochs, `0.5ep` too) or `1200st` (optimizer steps). A key that is not listed here is an error, and `dimbit validate` says where
it stands and what may be meant.
";

/// The page, in Markdown.
pub fn keys_page() -> String {
    let schema = complete();
    let mut page = HEAD.to_owned();
    section(&mut page, "Top level", &schema, None);
    for (key, below) in schema["properties"].as_object().into_iter().flatten() {
        let item = below.get("items");
        let inside = item.unwrap_or(below);
        if let Some((tag, kinds)) = branches(inside) {
            for kind in kinds {
                let name = constant(kind, tag).unwrap_or_default();
                section(&mut page, &format!("`{key}`: `{tag}: {name}`"), kind, Some(tag));
            }
        } else if inside["properties"].is_object() {
            section(&mut page, &format!("`{key}`"), inside, None);
        }
    }
    page
}

/// One mapping: a heading, what it is, and a table of its keys.
fn section(page: &mut String, title: &str, schema: &Json, tag: Option<&str>) {
    // Writing to a string does not fail.
    let _ = write!(page, "\n## {title}\n\n");
    if let Some(about) = schema["description"].as_str() {
        let _ = write!(page, "{}\n\n", parted(&one_line(about)).0);
    }
    page.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
    for (key, below) in schema["properties"].as_object().into_iter().flatten() {
        if Some(key.as_str()) == tag {
            continue;
        }
        let (meaning, default) = parted(&one_line(below["description"].as_str().unwrap_or_default()));
        let choices = choices(below);
        let _ = writeln!(page, "| `{key}` | {} | {default} | {meaning}{choices} |", kind(below));
    }
}

/// A description without its last sentence, which tells the default, and that default.
fn parted(description: &str) -> (String, String) {
    if let Some((meaning, default)) = description.rsplit_once("Default: ") {
        return (meaning.trim_end().to_owned(), default.trim_end_matches('.').to_owned());
    }
    match description.strip_suffix("Required.") {
        Some(meaning) => (meaning.trim_end().to_owned(), "**required**".to_owned()),
        None => (description.to_owned(), String::new()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The words that a key takes, each with its meaning.
fn choices(schema: &Json) -> String {
    let documented = schema["oneOf"].as_array().into_iter().flatten();
    let words: Vec<String> = documented
        .filter_map(|word| {
            let meaning = one_line(word["description"].as_str()?);
            Some(format!("`{}`: {}", word["const"].as_str()?, meaning.trim_end_matches('.')))
        })
        .collect();
    if words.is_empty() { String::new() } else { format!(" {}.", words.join("; ")) }
}

/// The type of a value in words, with its range.
fn kind(schema: &Json) -> String {
    if !words(schema).is_empty() {
        return "word".into();
    }
    if branches(schema).is_some() {
        return "mapping".into();
    }
    let first = match &schema["type"] {
        Json::Array(types) => types.first().and_then(Json::as_str),
        one => one.as_str(),
    };
    let name = match (first, schema["format"].as_str()) {
        (Some("string"), Some("length" | "positive-length")) => "length",
        (Some("string"), Some("portion")) => "length or percentage",
        (Some("string"), Some("shape")) => "`CxHxW`",
        (Some("string"), Some("device")) => "device",
        (Some("string"), _) => "text",
        (Some("integer"), _) => "whole number",
        (Some("number"), _) => "number",
        (Some("boolean"), _) => "`true` or `false`",
        (Some("array"), _) => "list",
        _ => "mapping",
    };
    let range = Range::of(schema).described();
    if range.is_empty() { name.into() } else { format!("{name}, {range}") }
}
