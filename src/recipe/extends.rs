//! The files of a recipe: its own, the one that it `extends`, and so on.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::document::{self, Node, Value};
use super::file::{self, FileError, MOST_NAMES};
use super::findings::{Problem, SourceFile, listed, nearest_word, shown};
use super::form;
use super::merge;

/// The most files that a recipe is put together from.
const MOST_FILES: usize = 8;
/// The most files of a folder that are listed.
const MOST_LISTED: usize = 5;

/// A recipe put together from its files.
pub(super) struct Chain {
    /// Names and texts: the recipe's own first.
    pub(super) files: Vec<SourceFile>,
    /// Where each of the files lies.
    pub(super) origins: Vec<Origin>,
    /// The merged document, without `extends`. None, with at least one problem, where a file gives no whole document.
    pub(super) root: Option<Node>,
    pub(super) problems: Vec<Problem>,
}

/// Where a file lies.
pub(super) struct Origin {
    /// As it was given, or as it is reached from there.
    path: PathBuf,
    /// Its folder seen from the recipe's; empty where they are the same.
    from_recipe: PathBuf,
}

impl Origin {
    /// The absolute folder in which the file lies.
    pub(super) fn folder(&self) -> Result<PathBuf, String> {
        let path = std::path::absolute(&self.path);
        let path = path.map_err(|error| format!("the recipe's folder cannot be told: {error}"))?;
        let folder = path.parent().unwrap_or(&path);
        if folder.to_str().is_none() {
            return Err("the name of the recipe's folder is not UTF-8".into());
        }
        Ok(folder.to_path_buf())
    }

    /// A path of this file as the recipe itself would write it, so that it is the same however the recipe is put
    /// together.
    pub(super) fn seen_from_recipe(&self, path: &Path) -> PathBuf {
        if self.from_recipe.as_os_str().is_empty() {
            return path.to_path_buf();
        }
        let mut seen = PathBuf::new();
        for part in self.from_recipe.join(path).components() {
            match (part, seen.components().next_back()) {
                (Component::CurDir, _) | (Component::ParentDir, Some(Component::RootDir)) => {}
                (Component::ParentDir, Some(Component::Normal(_))) => {
                    seen.pop();
                }
                _ => seen.push(part),
            }
        }
        if seen.as_os_str().is_empty() { ".".into() } else { seen }
    }

    /// The file that `given` names in this one.
    fn base(&self, given: &str) -> Self {
        let given = Path::new(given);
        let folder = |path: &Path| path.parent().unwrap_or(Path::new("")).to_path_buf();
        Self { path: folder(&self.path).join(given), from_recipe: self.from_recipe.join(folder(given)) }
    }

    /// What is equal for two paths to one file.
    fn identity(&self) -> PathBuf {
        let found = fs::canonicalize(&self.path).or_else(|_| std::path::absolute(&self.path));
        found.unwrap_or_else(|_| self.path.clone())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Reads the files that `text`, of the file at `path`, extends, and lays each over its base.
pub(super) fn read(text: String, path: &Path) -> Chain {
    let mut chain = Chain { files: Vec::new(), origins: Vec::new(), root: None, problems: Vec::new() };
    let own = Origin { path: path.to_path_buf(), from_recipe: PathBuf::new() };
    if let Some(mut documents) = chain.documents(text, own) {
        let mut root = documents.pop();
        if let Some(root) = &mut root {
            chain.problems.extend(merge::check_unbased(root));
            for over in documents.into_iter().rev() {
                chain.problems.extend(merge::overlay(root, over));
            }
        }
        chain.root = root;
    }
    chain
}

impl Chain {
    /// The documents of all files, without `extends`; none if one of them is not to be had.
    fn documents(&mut self, mut text: String, mut origin: Origin) -> Option<Vec<Node>> {
        let mut documents = Vec::new();
        loop {
            // A byte order mark is no part of the first key, and would shift the columns of the first line.
            if let Some(rest) = text.strip_prefix('\u{feff}') {
                text = rest.into();
            }
            let (root, problems) = document::read(&text, self.files.len());
            self.problems.extend(problems);
            self.files.push(SourceFile { name: origin.name(), text });
            self.origins.push(origin);
            let mut root = root?;
            // The recipe's own document is checked in any case; that of a base would be replaced.
            if self.files.len() > 1 && !matches!(root.value, Value::Mapping(_)) {
                self.problems.extend(form::check(&root));
                return None;
            }
            let extends = root.take("extends");
            documents.push(root);
            let Some(extends) = extends else { return Some(documents) };
            (text, origin) = self.base(&extends)?;
        }
    }

    /// The file that the last one extends.
    fn base(&mut self, extends: &Node) -> Option<(String, Origin)> {
        let wrong = form::check_key("extends", extends);
        let sound = wrong.is_empty();
        self.problems.extend(wrong);
        // A value that is refused has its finding already.
        let given = extends.text().filter(|_| sound)?;
        let base = self.origins.last()?.base(given);
        match self.open(given, &base) {
            Ok(text) => Some((text, base)),
            Err((code, message, help)) => {
                let (place, path) = (extends.place, "extends".into());
                self.problems.push(Problem { place, code, path, message, help: Some(help) });
                None
            }
        }
    }

    /// The text of a base; else code, message and help.
    fn open(&self, given: &str, base: &Origin) -> Result<String, (&'static str, String, String)> {
        let identity = base.identity();
        if let Some(first) = self.origins.iter().position(|origin| origin.identity() == identity) {
            let circle: Vec<String> = self.files[first..]
                .iter()
                .map(|file| &file.name)
                .chain([&base.name()])
                .map(|name| shown(name))
                .collect();
            let message = format!("`extends` goes round in a circle: {}", circle.join(" -> "));
            return Err(("circle", message, "a base must not lead back: remove one `extends` of the circle".into()));
        }
        if self.files.len() == MOST_FILES {
            return Err((
                "too-deep",
                format!("`extends` leads through more than {MOST_FILES} files"),
                "join some of the bases into one file".into(),
            ));
        }
        let name = shown(&base.name());
        // Opening a pipe or a device could wait for ever.
        let text = match fs::metadata(&base.path) {
            Ok(file) if !file.is_file() => Err(io::Error::other("it is no file").into()),
            Ok(_) => file::read(&base.path),
            Err(error) => Err(error.into()),
        };
        text.map_err(|error| match error {
            FileError::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
                ("no-base", format!("there is no file `{name}`"), self.meant(given, base))
            }
            FileError::NotUtf8 { line, column } => {
                (error.code(), format!("the base `{name}` {error} (line {line}, column {column})"), error.help().into())
            }
            error => (error.code(), format!("the base `{name}` {error}"), error.help().into()),
        })
    }

    /// Help for a base that is not there: the files that could be meant.
    fn meant(&self, given: &str, base: &Origin) -> String {
        const START: &str = "a relative path starts at the folder of the file that says it";
        let folder = base.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(entries) = fs::read_dir(folder) else {
            return format!("there is no folder `{}`; {START}", shown(&folder.display().to_string()));
        };
        let used: Vec<PathBuf> = self.origins.iter().map(Origin::identity).collect();
        let mut names: Vec<String> = entries
            .take(MOST_NAMES)
            .filter_map(Result::ok)
            .filter(|entry| {
                entry.path().is_file() && fs::canonicalize(entry.path()).is_ok_and(|path| !used.contains(&path))
            })
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        let wanted = Path::new(given).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let written = |name: &str| shown(&Path::new(given).with_file_name(name).display().to_string());
        if let Some(near) = nearest_word(wanted, names.iter().map(String::as_str)) {
            return format!("did you mean `{}`? {START}", written(near));
        }
        let recipes = names.iter().filter(|name| name.ends_with(".yaml") || name.ends_with(".yml"));
        let recipes: Vec<String> = recipes.take(MOST_LISTED).map(|name| written(name)).collect();
        match recipes.as_slice() {
            [] => START.into(),
            recipes => format!("for example {}; {START}", listed(recipes.iter().map(String::as_str))),
        }
    }
}
