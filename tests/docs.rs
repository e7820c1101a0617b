//! The documents: every link leads somewhere, every command that they show exists, and the book's contents are complete.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::{dimbit, root};
use dimbit::recipe::Recipe;

/// The README and all pages of `docs` and its folders.
fn pages() -> Vec<PathBuf> {
    let mut found = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        let (inner, files): (Vec<PathBuf>, Vec<PathBuf>) =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).partition(|path| path.is_dir());
        folders.extend(inner);
        found.extend(files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    found.sort();
    found
}

/// A page's text without its blocks and spans of code, in which brackets mean something else.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence && !line.starts_with("    ")
    });
    let lines: Vec<String> = lines
        .map(|line| line.split('`').enumerate().map(|(part, text)| if part % 2 == 0 { text } else { "x" }).collect())
        .collect();
    lines.join("\n")
}

/// Where the links of a page lead.
fn links(page: &Path) -> Vec<String> {
    let text = prose(page);
    let inline = text.match_indices("](").filter_map(|(at, _)| Some(text[at + 2..].split_once(')')?.0.to_owned()));
    inline.collect()
}

/// The anchors of a page's headings, as forges make them.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for page in pages() {
        for link in links(&page) {
            if link.starts_with("https://") {
                continue;
            }
            checked += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let right = target.exists() && (anchor.is_empty() || anchors(&target).contains(anchor));
            if !right {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty() && checked > 30, "{checked} links, wrong are\n{}", wrong.join("\n"));
}

#[test]
fn the_contents_name_every_page() {
    let contents = root().join("docs/README.md");
    let named: BTreeSet<PathBuf> = links(&contents).into_iter().map(|link| contents.with_file_name(link)).collect();
    for page in pages().into_iter().filter(|page| page.starts_with(root().join("docs")) && *page != contents) {
        assert!(named.contains(&page), "docs/README.md doesn't name {}", page.display());
    }
}

#[test]
fn every_command_that_the_documents_show_exists() {
    let help = dimbit(&["--help"]).fine();
    let commands: BTreeSet<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?.split_whitespace().next())
        .collect();
    assert!(commands.contains("run") && commands.contains("completions"), "{commands:?}");
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for line in text.lines().filter(|line| line.starts_with("    ") && line.contains("dimbit ")) {
            let command = line.split("dimbit ").nth(1).unwrap().split_whitespace().next().unwrap_or_default();
            let plain = command.bytes().all(|b| b.is_ascii_lowercase());
            assert!(!plain || command.is_empty() || commands.contains(command), "{}: {line}", page.display());
        }
    }
}

#[test]
fn whole_recipes_in_the_documents_load() {
    let mut whole = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            if !block.lines().any(|line| line.starts_with("version:")) {
                continue;
            }
            whole += 1;
            if let Err(error) = Recipe::parse(block, "recipe.yaml", &[]) {
                panic!("{}: {error}", page.display());
            }
        }
    }
    assert!(whole >= 3, "{whole}");
}
