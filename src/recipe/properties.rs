//! Properties of reading any text.

use proptest::prelude::*;

use super::extends_tests::Files;
use super::tests::{SMALL, VALID};
use super::*;

/// Pieces that YAML, or a recipe, gives a meaning.
const PIECES: &[&str] = &[
    "\n",
    "\r\n",
    "\r",
    "  ",
    "    ",
    "\t",
    "- ",
    ": ",
    ":",
    "? ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "#",
    "&a ",
    "*a",
    "!t ",
    "!!str ",
    "|",
    ">",
    "|2-",
    "\"",
    "'",
    "\\",
    "%",
    "---",
    "...",
    "~",
    "null",
    "true",
    ".nan",
    "-.inf",
    "1e999",
    "0x",
    "18446744073709551616",
    "-1",
    "2.16",
    "stages",
    "stage",
    "search",
    "train",
    "length",
    "8ep",
    "version",
    "1",
    "model",
    "data",
    "kind",
    "idx",
    "path",
    "input",
    "3x32x32",
    "<<",
    "extends: ",
    "base.yaml",
    "é",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\0",
    "\u{1f600}",
];

fn piece() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(PIECES)
}

/// Reads a text, and checks what every answer must fulfil.
fn check(text: &str, overrides: &[Override]) -> Result<(), TestCaseError> {
    check_at(text, "/r/x.yaml", overrides)
}

/// The same of a text that is the file `file`.
fn check_at(text: &str, file: &str, overrides: &[Override]) -> Result<(), TestCaseError> {
    match Recipe::parse(text, file, overrides) {
        Ok(loaded) => {
            let resolved = loaded.recipe.resolved_yaml();
            match Recipe::parse(&resolved, "/other/y.yaml", &[]) {
                Ok(again) => prop_assert_eq!(&again.recipe, &loaded.recipe),
                Err(error) => return Err(TestCaseError::fail(format!("{resolved}\n{error}"))),
            }
            explain(&loaded.recipe, &Ok(1000));
        }
        Err(error) => {
            prop_assert!(!error.findings.is_empty());
            for finding in &error.findings {
                // The form's findings must catch everything that serde would refuse.
                prop_assert_ne!(finding.code, "invalid", "{}", error);
                prop_assert!(finding.column != Some(0));
                if let Some(line) = finding.line.filter(|_| finding.file == file) {
                    prop_assert!((1..=text.len() + 1).contains(&line), "{}", error);
                }
            }
            error.to_string();
        }
    }
    Ok(())
}

#[test]
fn texts_that_are_no_recipe_say_so() {
    for (text, code) in [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("---\n...\n", "empty"),
        ("null", "empty"),
        ("just text", "wrong-type"),
        ("- a\n- b\n", "wrong-type"),
        ("stages: []", "empty-value"),
        ("\t", "empty"),
        ("a: b: c", "syntax"),
        ("{", "syntax"),
        ("a: \"\\q\"", "syntax"),
        ("%YAML 9", "syntax"),
    ] {
        let error = Recipe::parse(text, "x.yaml", &[]).unwrap_err();
        assert!(error.findings.iter().any(|finding| finding.code == code), "{text:?}: {error}");
    }
}

#[test]
fn hostile_texts_end_quickly_in_findings() {
    let bomb: String = (1..30).map(|n| format!("k{n}: &k{n} [*k{0}, *k{0}, *k{0}]\n", n - 1)).collect();
    let long_key = format!("{}: 1", "k".repeat(200_000));
    for text in [
        format!("k0: &k0 x\n{bomb}"),
        "- ".repeat(50_000),
        "[".repeat(50_000),
        "{a: ".repeat(50_000),
        "? ".repeat(50_000),
        "a:\n".to_string() + &(0..3000).map(|n| " ".repeat(n % 80) + "a:\n").collect::<String>(),
        "x: 1\n".repeat(40_000),
        format!("stages: [{}]", "{}, ".repeat(40_000)),
        format!("stages: [{}]", "{stage: finetune}, ".repeat(10_000)),
        format!("name: {}\u{1b}[31m", "n".repeat(100_000)),
        long_key,
    ] {
        let error = Recipe::parse(&text, "x.yaml", &[]).unwrap_err();
        assert!((1..=200).contains(&error.findings.len()));
        // A terminal shows what it is told: no line of it may be driven by the recipe, nor be endless.
        let shown = error.to_string();
        assert!(!shown.contains('\u{1b}'));
        assert!(shown.lines().all(|line| line.chars().count() < 500));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_without_panic(text in any::<String>()) {
        check(&text, &[])?;
    }

    #[test]
    fn any_pieces_of_yaml_are_read_without_panic(pieces in proptest::collection::vec(piece(), 0..40)) {
        check(&pieces.concat(), &[])?;
    }

    #[test]
    fn any_damage_to_a_recipe_is_found_or_harmless(
        small in any::<bool>(), at in any::<prop::sample::Index>(), cut in 0usize..12, pieces in proptest::collection::vec(piece(), 0..3),
    ) {
        let text: Vec<char> = if small { SMALL } else { VALID }.chars().collect();
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        let damaged = text[..at].iter().collect::<String>() + &pieces.concat() + &text[end..].iter().collect::<String>();
        check(&damaged, &[])?;
    }

    #[test]
    fn any_value_of_any_key_is_found_or_loads(
        line in 0usize..43, value in prop_oneof![
            any::<f64>().prop_map(|v| v.to_string()), any::<i128>().prop_map(|v| v.to_string()), piece().prop_map(String::from), "\\PC{0,8}",
        ],
    ) {
        let lines: Vec<&str> = VALID.lines().collect();
        let Some((key, _)) = lines[line].split_once(": ") else { return Ok(()) };
        let changed = format!("{key}: {value}");
        check(&VALID.replacen(lines[line], &changed, 1), &[])?;
    }

    #[test]
    fn any_override_is_refused_or_checked(path in "(stages|data|seed|x)(\\.(search|0|9|kind|length|stages)){0,3}", value in piece()) {
        if let Ok(one) = format!("{path}={value}").parse::<Override>() {
            check(VALID, &[one])?;
        }
    }

    #[test]
    fn anything_laid_over_a_base_is_read_without_panic(small in any::<bool>(), pieces in proptest::collection::vec(piece(), 0..30)) {
        let files = Files::new(&[("base.yaml", if small { SMALL } else { VALID })]);
        let own = files.at("x.yaml");
        for text in [format!("extends: base.yaml\n{}", pieces.concat()), format!("extends: {}", pieces.concat())] {
            check_at(&text, own.to_str().unwrap(), &[])?;
        }
    }

    #[test]
    fn any_base_is_read_without_panic(
        at in any::<prop::sample::Index>(), cut in 0usize..12, pieces in proptest::collection::vec(piece(), 0..3), any in any::<String>(),
    ) {
        let at = at.index(VALID.len());
        let damaged = VALID[..at].to_string() + &pieces.concat() + &VALID[(at + cut).min(VALID.len())..];
        let over = "extends: base.yaml\nseed: 1\ndata: {std: 0.5}\nstages: {search: {length: 1ep}, finetune: }\n";
        for base in [damaged, any] {
            let files = Files::new(&[("base.yaml", &base)]);
            let own = files.at("x.yaml");
            check_at(over, own.to_str().unwrap(), &[])?;
        }
    }

    #[test]
    fn a_recipe_laid_over_itself_is_itself(small in any::<bool>()) {
        let text = if small { SMALL } else { VALID };
        let files = Files::new(&[("base.yaml", text)]);
        let loaded = files.parse(&format!("extends: base.yaml\n{text}"), &[]).unwrap();
        let base = Recipe::load(&files.at("base.yaml"), &[]).unwrap();
        prop_assert_eq!((loaded.recipe, loaded.canonical), (base.recipe, base.canonical));
    }

    #[test]
    fn any_name_survives_the_resolved_recipe(name in prop_oneof![any::<String>(), "[0-9]{30,50}", "[-+]?(0[xob])?[0-9_]{0,4}[.eE]?[0-9a-f]{0,3}", piece().prop_map(String::from)]) {
        let name: String = name.chars().filter(|&c| !c.is_control() && !"\u{2028}\u{2029}\u{feff}".contains(c)).collect();
        let mut recipe = Recipe::parse(SMALL, "/r/x.yaml", &[]).unwrap().recipe;
        recipe.name = Some(name);
        let resolved = recipe.resolved_yaml();
        match Recipe::parse(&resolved, "/r/x.yaml", &[]) {
            Ok(again) => prop_assert_eq!(again.recipe, recipe),
            Err(error) => return Err(TestCaseError::fail(format!("{resolved}\n{error}"))),
        }
    }
}
