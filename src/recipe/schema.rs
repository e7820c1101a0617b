//! The JSON Schema of recipes: of a complete one, and of what a file may hold that extends another.

use serde_json::{Map, Value as Json, json};

use super::language::type_schema;
use super::questions::{branches, constant, words};
use super::vars::VARS;

/// The JSON Schema (draft 2020-12) of a recipe's file, for editors.
///
/// With the key `extends` nothing is required, `null` takes a value away, and `stages` may be a mapping that patches
/// those of the base; without it the recipe must be complete. Beyond the standard it has the formats `length`,
/// `positive-length`, `shape` and `device`, and under `x-why` the reason for a range.
pub fn schema() -> Json {
    let complete = complete();
    let extending = with_variables(&extending(&complete));
    let mut schema = Map::new();
    for key in ["$schema", "title", "description", "type"] {
        schema.insert(key.into(), complete[key].clone());
    }
    // Here, too: an editor offers it before it is there.
    let offered = json!({ "extends": complete["properties"]["extends"], VARS: complete["properties"][VARS] });
    schema.insert("properties".into(), offered);
    schema.insert("if".into(), json!({ "required": ["extends"] }));
    schema.insert("then".into(), extending);
    let whole = without(&complete, &["$schema", "title", "description"]);
    schema.insert("else".into(), with_variables(&whole));
    Json::Object(schema)
}

/// The same schema, with a text that has a variable in it allowed wherever a value of another form is asked for.
fn with_variables(schema: &Json) -> Json {
    let Some(entries) = schema.as_object() else { return schema.clone() };
    let kind = schema.get("const").is_some();
    let words = !kind && !words(schema).is_empty();
    let plain = ["integer", "number", "boolean"];
    let is = |names: &[&str]| match &schema["type"] {
        Json::Array(types) => types.iter().any(|t| t.as_str().is_some_and(|t| names.contains(&t))),
        one => one.as_str().is_some_and(|t| names.contains(&t)),
    };
    let formed = is(&["string"]) && (schema.get("pattern").is_some() || schema.get("format").is_some());
    if words || (!kind && is(&plain)) || formed {
        let mut either = Map::new();
        for key in ["description", "default", "examples"] {
            if let Some(value) = schema.get(key) {
                either.insert(key.into(), value.clone());
            }
        }
        let variable = json!({ "type": "string", "pattern": "\\$\\{[A-Za-z][A-Za-z0-9_]*\\}" });
        either.insert("anyOf".into(), json!([without(schema, &["description", "default", "examples"]), variable]));
        return Json::Object(either);
    }
    let changed = entries.iter().map(|(key, value)| {
        let value = match (key.as_str(), value) {
            ("properties" | "patternProperties", Json::Object(below)) => {
                let free = |name: &str| key == "properties" && (name == VARS || name == "extends");
                below
                    .iter()
                    .map(|(name, below)| (name.clone(), if free(name) { below.clone() } else { with_variables(below) }))
                    .collect()
            }
            ("oneOf" | "anyOf", Json::Array(all)) => all.iter().map(with_variables).collect(),
            ("items", below) => with_variables(below),
            _ => value.clone(),
        };
        (key.clone(), value)
    });
    Json::Object(changed.collect())
}

/// The schema of a complete recipe, which the form of every recipe is checked against after it is put together.
///
/// `extends` and `vars` are gone by then; here they make the keys known wherever keys are named.
pub(super) fn complete() -> Json {
    let mut schema = type_schema();
    let types = schema["properties"].take();
    let mut properties = Map::new();
    properties.insert(
        "extends".into(),
        json!({
            "description": "Recipe that this one is laid over: its keys hold unless they are written here, too; a relative path starts at this file's folder. Default: none.",
            "type": "string",
            "minLength": 1,
            "examples": ["base.yaml"]
        }),
    );
    properties.insert(
        VARS.into(),
        json!({
            "description": "Variables: `${name}` anywhere in the recipe is replaced by the value of that name, which a recipe that extends this one, or `--set vars.name=VALUE`, may change. Default: none.",
            "type": "object",
            "additionalProperties": { "type": ["number", "string", "boolean"] },
            "examples": ["{bits: 2.16}"]
        }),
    );
    if let Json::Object(types) = types {
        properties.extend(types);
    }
    schema["properties"] = Json::Object(properties);
    schema
}

/// The schema of a file that extends another, from that of a complete recipe.
fn extending(complete: &Json) -> Json {
    let mut schema = without(&partial(complete), &["$schema", "title", "description"]);
    let properties = &mut schema["properties"];
    properties["extends"] = complete["properties"]["extends"].clone();
    properties[VARS]["anyOf"][0]["additionalProperties"]["type"] = json!(["number", "string", "boolean", "null"]);
    let list = &complete["properties"]["stages"];
    let (tag, kinds) = branches(&list["items"]).unwrap_or_default();
    let patches: Map<String, Json> =
        kinds.iter().filter_map(|kind| Some((constant(kind, tag)?.into(), nullable(&partial(kind))))).collect();
    let by_index: Vec<Json> = patches.values().cloned().collect();
    properties["stages"] = json!({
        "description": list["description"],
        "anyOf": [
            list,
            {
                "description": "Changes of the base's stages, by kind, or by index from 0 where there are several of a kind; `null` removes the stage.",
                "type": "object",
                "properties": patches,
                "patternProperties": { "^[0-9]+$": { "anyOf": by_index } },
                "additionalProperties": false
            }
        ]
    });
    schema
}

/// A schema of mappings, with nothing required and `null` allowed under every key; that of any other value as it is.
fn partial(schema: &Json) -> Json {
    if let Some((_, kinds)) = branches(schema) {
        let mut changed = without(schema, &["oneOf"]);
        // Without required keys a mapping may fit several kinds.
        changed["anyOf"] = kinds.iter().map(partial).collect();
        return changed;
    }
    let Some(properties) = schema["properties"].as_object() else {
        return schema.clone();
    };
    let mut changed = without(schema, &["required"]);
    changed["properties"] =
        properties.iter().map(|(key, value)| (key.clone(), nullable(&partial(value)))).collect::<Map<_, _>>().into();
    changed
}

/// The schema of the same values and `null`; of a kind's own name as it is.
fn nullable(schema: &Json) -> Json {
    if schema.get("const").is_some() {
        return schema.clone();
    }
    let mut both = Map::new();
    if let Some(description) = schema.get("description") {
        both.insert("description".into(), description.clone());
    }
    both.insert("anyOf".into(), json!([schema, { "type": "null" }]));
    Json::Object(both)
}

/// A copy of an object without some keys.
fn without(schema: &Json, keys: &[&str]) -> Json {
    let entries = schema.as_object().into_iter().flatten();
    entries
        .filter(|(key, _)| !keys.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<Map<_, _>>()
        .into()
}
