//! Questions to a JSON Schema as schemars makes it from the recipe's types.

use serde_json::Value as Json;

/// The tag key and the branches of a schema for a mapping of several kinds.
pub(super) fn branches(schema: &Json) -> Option<(&str, &[Json])> {
    let branches = schema["oneOf"].as_array()?;
    let (tag, _) =
        branches.first()?.get("properties")?.as_object()?.iter().find(|(_, value)| value.get("const").is_some())?;
    Some((tag, branches))
}

/// The value that a branch wants under its tag key.
pub(super) fn constant<'a>(branch: &'a Json, tag: &str) -> Option<&'a str> {
    branch["properties"][tag]["const"].as_str()
}

/// The words of a schema for a value out of a few; empty for any other.
pub(super) fn words(schema: &Json) -> Vec<&str> {
    let documented = schema["oneOf"].as_array().into_iter().flatten();
    let documented = documented.filter_map(|branch| branch["const"].as_str());
    documented.chain(strings(&schema["enum"])).collect()
}

pub(super) fn strings(list: &Json) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Json::as_str)
}

pub(super) fn keys(schema: &Json) -> impl Iterator<Item = &str> {
    let properties = schema["properties"].as_object();
    properties.into_iter().flatten().map(|(key, _)| key.as_str())
}

/// The keys that a recipe has anywhere, by the name of the mapping that they belong in.
pub(super) fn catalog(schema: &'static Json) -> Vec<(String, Vec<&'static str>)> {
    let mut found = vec![("the top level of the recipe".into(), keys(schema).collect())];
    let properties = schema["properties"].as_object().into_iter().flatten();
    for (key, below) in properties {
        let (below, item) = match below.get("items") {
            Some(items) => (items, true),
            None => (below, false),
        };
        match branches(below) {
            Some((tag, branches)) => {
                for branch in branches {
                    let kind = constant(branch, tag).unwrap_or_default();
                    let name = if item { format!("{tag} `{kind}`") } else { format!("`{key}` of the {tag} `{kind}`") };
                    found.push((name, keys(branch).collect()));
                }
            }
            None => found.push((format!("`{key}`"), keys(below).collect())),
        }
    }
    found
}

/// The numbers that a schema allows.
pub(super) struct Range {
    least: Option<f64>,
    above: Option<f64>,
    most: Option<f64>,
    below: Option<f64>,
}

impl Range {
    pub(super) fn of(schema: &Json) -> Self {
        let bound = |key: &str| schema[key].as_f64();
        Self {
            least: bound("minimum"),
            above: bound("exclusiveMinimum"),
            most: bound("maximum"),
            below: bound("exclusiveMaximum"),
        }
    }

    pub(super) fn holds(&self, number: f64) -> bool {
        self.least.is_none_or(|least| number >= least)
            && self.above.is_none_or(|above| number > above)
            && self.most.is_none_or(|most| number <= most)
            && self.below.is_none_or(|below| number < below)
    }

    pub(super) fn described(&self) -> String {
        if self.least.is_some() && self.least == self.most {
            return format!("only {}", self.least.unwrap_or_default());
        }
        let parts: Vec<String> =
            [(self.least, "at least"), (self.above, "more than"), (self.most, "at most"), (self.below, "less than")]
                .into_iter()
                .filter_map(|(bound, words)| bound.map(|bound| format!("{words} {bound}")))
                .collect();
        parts.join(" and ")
    }
}
