use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::print;
use crate::data::{Dataset, FolderSet, IdxDataset, ShardSet, Split, Store, cache_folder};
use crate::recipe::{Data, Override, Recipe, explain};

/// Shows what a recipe means: the resolved recipe, the timeline in epochs and steps, and the budget over the search.
#[derive(Debug, Args)]
pub struct Explain {
    /// The recipe.
    recipe: PathBuf,
    /// Changes a key: `KEY.PATH=VALUE`. May be given several times.
    #[arg(long = "set", value_name = "KEY.PATH=VALUE")]
    set: Vec<Override>,
}

impl Explain {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let loaded = Recipe::load(&self.recipe, &self.set)?;
        let images = match &loaded.recipe.data {
            // Without the data only the lengths in steps are unknown.
            Data::Idx(data) => IdxDataset::open(&data.path, Split::Train).map(|set| set.len()).ok(),
            Data::Folder(data) => {
                FolderSet::open(&data.path, Split::Train, cache_folder().as_deref()).map(|set| set.len()).ok()
            }
            Data::Shards(data) => {
                let set = ShardSet::open(&data.train, data.shuffle_buffer, cache_folder().as_deref());
                set.map(|set| set.len()).ok()
            }
            Data::Synthetic(data) => Some(data.images),
        };
        let extends = match loaded.source.files().as_slice() {
            [_] => String::new(),
            files => format!("extends: {}\n", files.join(" -> ")),
        };
        print(&format!("{}\n{extends}{}", loaded.recipe.resolved_yaml(), explain(&loaded.recipe, images)))?;
        Ok(ExitCode::SUCCESS)
    }
}
