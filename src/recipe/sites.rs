//! Which sites a recipe selects, by patterns over their names.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::values::{ValueError, text_value};

/// The sites to compress: those that some `include` pattern matches and no `exclude` pattern does.
///
/// A pattern is a glob over the whole name, in which `*` stands for any run of characters (dots too) and `?` for exactly
/// one; or, between slashes, a regular expression that matches anywhere in the name unless `^` and `$` say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SitePatterns {
    /// Patterns of the site names to compress: globs (`layer4.*`) or regular expressions (`/^layer[34]\./`). Default:
    /// `["*"]`, every site.
    pub include: Vec<SitePattern>,
    /// Patterns of the site names to leave as they are, even where `include` matches. Default: none.
    pub exclude: Vec<SitePattern>,
}

impl Default for SitePatterns {
    fn default() -> Self {
        let everything = SitePattern { text: "*".into(), expression: None };
        Self { include: vec![everything], exclude: Vec::new() }
    }
}

/// A pattern over site names: a glob, or a regular expression between slashes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SitePattern {
    text: String,
    /// None for a glob.
    expression: Option<Regex>,
}

/// The most memory that one compiled expression may take, in bytes: far above any over site names.
const LARGEST_EXPRESSION: usize = 1 << 20;

impl SitePattern {
    /// The pattern as a recipe writes it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches a site's name.
    pub fn matches(&self, name: &str) -> bool {
        match &self.expression {
            Some(expression) => expression.is_match(name),
            None => glob(&self.text, name),
        }
    }
}

impl FromStr for SitePattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason: String| ValueError::Pattern { text: text.into(), reason };
        let Some(inside) = text.strip_prefix('/') else {
            return match text {
                "" => Err(wrong("it is empty".into())),
                _ => Ok(Self { text: text.into(), expression: None }),
            };
        };
        // Site names have no slashes, so a leading one always begins an expression.
        let inside = inside.strip_suffix('/').filter(|inside| !inside.is_empty());
        let inside = inside.ok_or_else(|| wrong("a regular expression stands between two slashes".into()))?;
        let expression = RegexBuilder::new(inside).size_limit(LARGEST_EXPRESSION).build().map_err(|error| {
            // The crate draws a picture of several lines; the last one says what is wrong.
            let text = error.to_string();
            wrong(text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").into())
        })?;
        Ok(Self { text: text.into(), expression: Some(expression) })
    }
}

impl PartialEq for SitePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SitePattern {}

impl fmt::Display for SitePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

text_value!(SitePattern, {
    "type": "string",
    "format": "site-pattern",
    "examples": ["layer4.*", "/^layer[34]\\./"]
});

/// A pattern that matches none of a network's sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmatchedPattern<'a> {
    /// Its key path in the recipe, such as `sites.include[0]`.
    pub path: String,
    /// The pattern itself.
    pub pattern: &'a str,
}

impl SitePatterns {
    /// Whether the site of this name is to be compressed.
    pub fn selects(&self, name: &str) -> bool {
        let any = |patterns: &[SitePattern]| patterns.iter().any(|pattern| pattern.matches(name));
        any(&self.include) && !any(&self.exclude)
    }

    /// The patterns of both lists that match none of `names`, which are all the sites of the network.
    pub fn unmatched(&self, names: &[impl AsRef<str>]) -> Vec<UnmatchedPattern<'_>> {
        [("include", &self.include), ("exclude", &self.exclude)]
            .into_iter()
            .flat_map(|(list, patterns)| {
                let indexed = patterns.iter().enumerate();
                indexed.map(move |(index, pattern)| (list, index, pattern))
            })
            .filter(|(_, _, pattern)| !names.iter().any(|name| pattern.matches(name.as_ref())))
            .map(|(list, index, pattern)| UnmatchedPattern {
                path: format!("sites.{list}[{index}]"),
                pattern: pattern.text(),
            })
            .collect()
    }
}

/// Glob matching without backtracking beyond the last `*`: at most pattern × name comparisons.
fn glob(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Behind the last `*`, and the first character of the name that it doesn't swallow yet.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            p += 1;
            star = Some((p, n));
        } else if pattern.get(p).is_some_and(|&c| c == '?' || c == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((after, swallowed)) = star {
            p = after;
            n = swallowed + 1;
            star = Some((after, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "layer1.0.relu", true),
            ("layer1.*", "layer1.0.relu", true),
            ("layer1.*", "layer10.relu", false),
            ("layer?.*.relu", "layer2.1.relu", true),
            ("*.relu", "layer2.relu.1", false),
            ("*a*b", "aab", true),
            ("*a*b", "ba", false),
            ("relu", "relu1", false),
            ("relu[1]", "relu1", false),
            ("", "x", false),
            ("x**", "x", true),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} on {name}");
        }
        // Would take exponential time by naive recursion.
        assert!(!glob(&"*a".repeat(60), &"b".repeat(4000)));
    }

    fn patterns(texts: &[&str]) -> Vec<SitePattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_expression_between_slashes_matches_anywhere_unless_it_is_anchored() {
        for (pattern, name, expected) in [
            ("/layer[34]/", "net.layer4.relu", true),
            ("/^layer[34]/", "net.layer4.relu", false),
            ("/relu(#2)?$/", "layer1.0.relu#2", true),
            ("/relu$/", "layer1.0.relu#2", false),
        ] {
            assert_eq!(pattern.parse::<SitePattern>().unwrap().matches(name), expected, "{pattern} on {name}");
        }
        for (text, reason) in [
            ("", "empty"),
            ("/", "two slashes"),
            ("//", "two slashes"),
            ("/layer", "two slashes"),
            ("/layer(/", "unclosed group"),
            ("/(?=x)/", "look-around"),
            ("/\\w{1000}{1000}/", "size limit"),
        ] {
            let error = text.parse::<SitePattern>().unwrap_err();
            assert!(error.to_string().contains(reason) && !error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn exclusion_wins_and_idle_patterns_are_named() {
        let sites = SitePatterns { include: patterns(&["layer*", "stem"]), exclude: patterns(&["*.0.*", "head"]) };
        assert!(sites.selects("layer1.1.relu"));
        assert!(!sites.selects("layer1.0.relu"));
        assert!(!sites.selects("relu"));
        let idle = sites.unmatched(&["layer1.0.relu", "layer1.1.relu"]);
        let paths: Vec<_> = idle.iter().map(|p| (p.path.as_str(), p.pattern)).collect();
        assert_eq!(paths, [("sites.include[1]", "stem"), ("sites.exclude[1]", "head")]);
    }
}
