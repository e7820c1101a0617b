//! The recipes that ship with the program, inside it: whoever has no checkout has them all the same.

use std::collections::BTreeSet;

use super::document;
use super::findings::nearest_word;

/// A file below `recipes/`, as it is in the checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shipped {
    /// Path below `recipes/`, such as `fashion-mnist/modes/mp.yaml`.
    pub name: &'static str,
    /// The file's text.
    pub text: &'static str,
}

/// The schema file that the recipes' first lines point editors to, below `recipes/`.
pub const SCHEMA_FILE: &str = "recipe.schema.json";

/// What editors look for in a recipe's first line.
const EDITOR_LINE: &str = "# yaml-language-server:";

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(Shipped { name: $name, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/", $name)) }),*]
    };
}

/// Every shipped recipe, by name.
pub const SHIPPED: &[Shipped] = shipped![
    "fashion-mnist-mini/resnet18-joint.yaml",
    "fashion-mnist/mobilenet_v2-joint.yaml",
    "fashion-mnist/modes/base.yaml",
    "fashion-mnist/modes/dr_only.yaml",
    "fashion-mnist/modes/dr_then_mp.yaml",
    "fashion-mnist/modes/float.yaml",
    "fashion-mnist/modes/joint.yaml",
    "fashion-mnist/modes/mp.yaml",
    "fashion-mnist/modes/mp_grouped.yaml",
    "fashion-mnist/modes/uniform.yaml",
    "fashion-mnist/resnet18-joint.yaml",
    "imagenet/base.yaml",
    "imagenet/baseline-dr_only.yaml",
    "imagenet/baseline-dr_then_mp.yaml",
    "imagenet/baseline-mp.yaml",
    "imagenet/baseline-mp_grouped.yaml",
    "imagenet/baseline-uniform.yaml",
    "imagenet/mobilenet_v2-joint.yaml",
    "imagenet/resnet18-joint.yaml",
];

/// No shipped recipe has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no shipped recipe `{name}`\n  help: {help}")]
pub struct NotShipped {
    /// The name as given.
    pub name: String,
    /// What could be meant.
    pub help: String,
}

impl Shipped {
    /// The recipe of this name; `.yaml` may be left out, and so may the folders where the rest is enough.
    ///
    /// # Errors
    /// [`NotShipped`] if there is none, or more than one.
    pub fn find(name: &str) -> Result<Self, NotShipped> {
        let whole = if name.ends_with(".yaml") { name.to_owned() } else { format!("{name}.yaml") };
        if let Some(exact) = SHIPPED.iter().find(|recipe| recipe.name == whole) {
            return Ok(*exact);
        }
        let end = format!("/{whole}");
        let ending: Vec<&Self> = SHIPPED.iter().filter(|recipe| recipe.name.ends_with(&end)).collect();
        let help = match ending.as_slice() {
            [one] => return Ok(**one),
            [] => match nearest_word(&whole, SHIPPED.iter().flat_map(|recipe| [recipe.name, recipe.file()])) {
                Some(near) => format!("did you mean `{near}`? `dimbit recipes ls` lists all"),
                None => "`dimbit recipes ls` lists all".to_owned(),
            },
            several => {
                let names: Vec<&str> = several.iter().map(|recipe| recipe.name).collect();
                format!("it could be {}", names.join(" or "))
            }
        };
        Err(NotShipped { name: name.to_owned(), help })
    }

    /// The name without its folders.
    fn file(self) -> &'static str {
        self.name.rsplit('/').next().unwrap_or(self.name)
    }

    /// The recipe and those that it extends, its own first.
    pub fn chain(self) -> Vec<Self> {
        let mut chain = vec![self];
        let mut seen = BTreeSet::from([self.name]);
        while let Some(base) = chain.last().and_then(|last| last.base()) {
            if !seen.insert(base.name) {
                break;
            }
            chain.push(base);
        }
        chain
    }

    fn base(self) -> Option<Self> {
        let (root, _) = document::read(self.text, 0);
        let given = root?.get("extends")?.text()?.to_owned();
        let mut parts: Vec<&str> = self.name.split('/').collect();
        parts.pop();
        for part in given.split('/') {
            match part {
                "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let name = parts.join("/");
        SHIPPED.iter().copied().find(|recipe| recipe.name == name)
    }

    /// What the recipe says of itself: the beginning of its first comment, up to a full stop, colon or semicolon.
    pub fn about(self) -> String {
        let lines = self.text.lines().skip_while(|line| line.starts_with(EDITOR_LINE));
        let comment: Vec<&str> =
            lines.map_while(|line| line.strip_prefix('#')).map(str::trim).take_while(|line| !line.is_empty()).collect();
        let comment = comment.join(" ");
        let ends = [". ", ": ", "; "].iter().filter_map(|end| comment.find(end)).min();
        let end = ends.or_else(|| comment.strip_suffix('.').map(str::len)).unwrap_or(comment.len());
        comment[..end].to_owned()
    }

    /// Where the recipe's first line tells editors to find the schema: seen from its own folder.
    pub fn schema_line(self) -> String {
        let up = "../".repeat(self.name.matches('/').count());
        format!("{EDITOR_LINE} $schema={up}{SCHEMA_FILE}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_found_by_what_is_enough_of_their_names() {
        for name in ["fashion-mnist/modes/mp.yaml", "fashion-mnist/modes/mp", "modes/mp", "mp"] {
            assert_eq!(Shipped::find(name).unwrap().name, "fashion-mnist/modes/mp.yaml", "{name}");
        }
        let error = Shipped::find("resnet18-joint").unwrap_err();
        assert!(
            error.help.contains("fashion-mnist-mini/resnet18-joint.yaml or fashion-mnist/resnet18-joint.yaml"),
            "{error}"
        );
        let error = Shipped::find("mobilenet_v2-jiont").unwrap_err();
        assert!(error.help.contains("did you mean `mobilenet_v2-joint.yaml`?"), "{error}");
        assert!(Shipped::find("zzz").unwrap_err().help.starts_with("`dimbit recipes ls`"));
    }

    #[test]
    fn a_chain_ends_at_the_base_and_every_recipe_says_what_it_is() {
        let names: Vec<&str> = Shipped::find("mp").unwrap().chain().iter().map(|recipe| recipe.name).collect();
        assert_eq!(names, ["fashion-mnist/modes/mp.yaml", "fashion-mnist/modes/base.yaml"]);
        for recipe in SHIPPED {
            assert!(recipe.about().len() > 20, "{}: {}", recipe.name, recipe.about());
            assert!(recipe.text.starts_with(&recipe.schema_line()), "{}", recipe.name);
        }
        let about = Shipped::find("modes/mp").unwrap().about();
        assert_eq!(about, "Mixed precision alone");
    }
}
