//! Which sites a recipe selects, by glob patterns over their names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The sites to compress: those that some `include` pattern matches and no `exclude` pattern does.
///
/// In a pattern `*` stands for any run of characters (dots too) and `?` for exactly one; all else is literal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SitePatterns {
    /// Patterns of the site names to compress. Default: `["*"]`, every site.
    pub include: Vec<String>,
    /// Patterns of the site names to leave as they are, even where `include` matches. Default: none.
    pub exclude: Vec<String>,
}

impl Default for SitePatterns {
    fn default() -> Self {
        Self { include: vec!["*".into()], exclude: Vec::new() }
    }
}

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
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
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
            .filter(|(_, _, pattern)| !names.iter().any(|name| matches(pattern, name.as_ref())))
            .map(|(list, index, pattern)| UnmatchedPattern { path: format!("sites.{list}[{index}]"), pattern })
            .collect()
    }
}

/// Glob matching without backtracking beyond the last `*`: at most pattern × name comparisons.
fn matches(pattern: &str, name: &str) -> bool {
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
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
        // Would take exponential time by naive recursion.
        assert!(!matches(&"*a".repeat(60), &"b".repeat(4000)));
    }

    #[test]
    fn exclusion_wins_and_idle_patterns_are_named() {
        let sites = SitePatterns {
            include: vec!["layer*".into(), "stem".into()],
            exclude: vec!["*.0.*".into(), "head".into()],
        };
        assert!(sites.selects("layer1.1.relu"));
        assert!(!sites.selects("layer1.0.relu"));
        assert!(!sites.selects("relu"));
        let idle = sites.unmatched(&["layer1.0.relu", "layer1.1.relu"]);
        let paths: Vec<_> = idle.iter().map(|p| (p.path.as_str(), p.pattern)).collect();
        assert_eq!(paths, [("sites.include[1]", "stem"), ("sites.exclude[1]", "head")]);
    }
}
