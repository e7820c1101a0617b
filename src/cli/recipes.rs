use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::print;
use crate::recipe::{Recipe, SCHEMA_FILE, SHIPPED, Shipped, schema};
use crate::report::write_atomically;

/// Lists, shows and copies the recipes that come with the program.
#[derive(Debug, Args)]
pub struct Recipes {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists them, one a line: name, what it does.
    Ls,
    /// Prints one.
    Cat {
        /// Its name, or as much of its end as tells it from the others: `modes/mp`.
        name: String,
    },
    /// Copies one, with what it extends and the schema for editors, into a folder, below which it keeps its name.
    Cp {
        /// Its name, or as much of its end as tells it from the others: `modes/mp`.
        name: String,
        /// The folder.
        #[arg(default_value = "recipes")]
        folder: PathBuf,
    },
}

impl Recipes {
    pub(super) fn run(&self) -> Result<ExitCode> {
        match &self.what {
            What::Ls => {
                let width = SHIPPED.iter().map(|recipe| recipe.name.len()).max().unwrap_or(0);
                let lines: Vec<String> =
                    SHIPPED.iter().map(|recipe| format!("{:width$}  {}", recipe.name, recipe.about())).collect();
                print(&lines.join("\n"))?;
            }
            What::Cat { name } => print(Shipped::find(name)?.text.trim_end())?,
            What::Cp { name, folder } => copy(Shipped::find(name)?, folder)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the recipe, its bases and the schema below `folder`; a file that is there with another content stays, and nothing
/// is written then.
fn copy(recipe: Shipped, folder: &Path) -> Result<()> {
    let schema = format!("{:#}\n", schema());
    let chain = recipe.chain();
    let mut files: Vec<(PathBuf, &str)> = chain.iter().map(|file| (folder.join(file.name), file.text)).collect();
    files.push((folder.join(SCHEMA_FILE), &schema));
    // The recipe itself and its bases may have been edited; the schema belongs to the program.
    for (path, text) in &files[..chain.len()] {
        if path.exists() && std::fs::read_to_string(path).ok().as_deref() != Some(text) {
            bail!(
                "{} is there already, with another content\n  help: give another folder, or move it away",
                path.display()
            );
        }
    }
    for (path, text) in &files {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("{} can't be made", parent.display()))?;
        }
        write_atomically(path, text.as_bytes())?;
        print(&path.display().to_string())?;
    }
    let own = folder.join(recipe.name);
    let loaded = Recipe::load(&own, &[])?.recipe;
    let tidy = |path: &Path| tidied(path).display().to_string();
    print(&format!("\nIt reads the model {}", tidy(&loaded.model.path)))?;
    if let Some(data) = loaded.data.path() {
        print(&format!("and the images in {}", tidy(data)))?;
    }
    print("(change them in the recipe, or with --set model.path=FILE --set data.path=FOLDER)")
}

/// The path without `..`, and from the current folder on where it lies below that.
fn tidied(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(tidy.pop()),
            part => tidy.push(part),
        }
    }
    match std::env::current_dir() {
        Ok(here) => tidy.strip_prefix(&here).map(Path::to_path_buf).unwrap_or(tidy),
        Err(_) => tidy,
    }
}
