//! How fast a recipe's images come, without a network.

use std::time::Instant;

use serde::Serialize;
use tch::Device;

use super::WARM_UP;
use crate::recipe::{Data, Loaded};
use crate::train::error::TrainError;
use crate::train::validate::feed_of;

/// What loading was measured at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Loading {
    /// The kind of data.
    pub kind: String,
    /// Shape of an image as the network takes it, `CxHxW`.
    pub input: String,
    /// Images of a batch.
    pub batch: usize,
    /// Threads that load.
    pub threads: usize,
    /// Images that were loaded while it was measured.
    pub images: usize,
    /// Seconds that they took.
    pub seconds: f64,
    /// Images a second.
    pub images_per_second: f64,
}

/// Loads `steps` batches of training images, decoded and augmented, after a few that don't count. The network is not needed.
///
/// # Errors
/// [`TrainError::Recipe`] if the data can't be used; see [`crate::data::DataError`].
pub fn bench_loading(loaded: &Loaded, threads: Option<usize>, steps: usize) -> Result<Loading, TrainError> {
    let mut loaded = loaded.clone();
    match &mut loaded.recipe.data {
        Data::Folder(data) if threads.is_some() => data.threads = threads,
        Data::Shards(data) if threads.is_some() => data.threads = threads,
        _ => {}
    }
    let feed = feed_of(&loaded, Device::Cpu)?;
    let recipe = &loaded.recipe;
    let mut images = 0;
    let mut began = Instant::now();
    let mut done = 0;
    'steps: for epoch in 0.. {
        for batch in feed.train_epoch(epoch, 0) {
            let (_, labels) = batch?;
            if done == WARM_UP {
                began = Instant::now();
            } else if done > WARM_UP {
                images += labels.size()[0] as usize;
            }
            done += 1;
            if done > WARM_UP + steps {
                break 'steps;
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Loading {
        kind: recipe.data.kind().to_owned(),
        input: recipe.model.input.to_string(),
        batch: recipe.data.batch_size(),
        threads: feed.threads(),
        images,
        seconds,
        images_per_second: images as f64 / seconds,
    })
}
