//! One split of a recipe's data: opened, checked, and as images that a loader takes.

use std::sync::Arc;

use crate::data::{
    Augmentation, Canvas, CanvasOptions, DataError, Dataset, FolderSet, IdxDataset, Interpolation, Pictures,
    Preprocessing, Samples, ShardSet, Split, Store, SyntheticDataset, Transform, Unreadable, cache_folder,
};
use crate::recipe::{self, Data, Photographs, Recipe};

/// A split that was opened: of the kind that the recipe says.
pub(super) enum Source {
    Idx(IdxDataset),
    Synthetic(SyntheticDataset),
    Folder(FolderSet),
    Shards(ShardSet),
}

/// The images of a split, ready to be loaded.
pub(super) struct Images {
    /// As they are.
    pub plain: Arc<dyn Samples>,
    /// As they are trained on.
    pub augmented: Arc<dyn Samples>,
    /// Mean of pixels in 0 to 1 that is subtracted: one value, or one a channel.
    pub mean: Vec<f32>,
    /// Standard deviation of pixels in 0 to 1 that is divided by: one value, or one a channel.
    pub std: Vec<f32>,
    /// Images of a batch that is evaluated.
    pub eval_batch_size: usize,
    /// Threads that load, if the recipe says how many.
    pub threads: Option<usize>,
    /// Images that can't be read, where there may be such.
    pub unreadable: Option<Arc<Unreadable>>,
}

impl Source {
    /// Opens a split. `classes`: the network's outputs, `usize::MAX` if that is not known.
    pub fn open(recipe: &Recipe, classes: usize, split: Split) -> Result<Self, DataError> {
        Ok(match &recipe.data {
            Data::Idx(data) => Self::Idx(IdxDataset::open(&data.path, split)?),
            Data::Synthetic(data) => {
                let input = input(recipe);
                Self::Synthetic(SyntheticDataset::new(data.images, input, classes, split, recipe.seed))
            }
            Data::Folder(data) => Self::Folder(FolderSet::open(&data.path, split, cache_folder().as_deref())?),
            Data::Shards(data) => {
                let pattern = match split {
                    Split::Train => &data.train,
                    Split::Validation => &data.val,
                };
                Self::Shards(ShardSet::open(pattern, data.shuffle_buffer, cache_folder().as_deref())?)
            }
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        match self {
            Self::Idx(set) => set.len(),
            Self::Synthetic(set) => set.len(),
            Self::Folder(set) => set.len(),
            Self::Shards(set) => set.len(),
        }
    }

    /// Checks that the other split numbers its classes alike.
    pub fn check_same_classes(&self, other: &Self) -> Result<(), DataError> {
        match (self, other) {
            (Self::Folder(set), Self::Folder(other)) => set.check_same_classes(other),
            _ => Ok(()),
        }
    }

    /// Checks that the network has an output for each class.
    pub fn check_classes(&self, classes: usize) -> Result<(), DataError> {
        match self {
            Self::Idx(set) => set.check_labels(classes),
            Self::Folder(set) if classes != usize::MAX => set.check_outputs(classes),
            Self::Shards(set) => set.check_outputs(classes),
            Self::Folder(_) | Self::Synthetic(_) => Ok(()),
        }
    }

    /// The images on the network's input.
    pub fn images(self, recipe: &Recipe) -> Result<Images, DataError> {
        let input = input(recipe);
        match (self, &recipe.data) {
            (Self::Idx(set), Data::Idx(data)) => {
                let options = CanvasOptions {
                    input,
                    mean: vec![data.mean as f32],
                    std: vec![data.std as f32],
                    crop_padding: data.crop_padding,
                    horizontal_flip: data.horizontal_flip,
                };
                on_canvas(Arc::new(set), options, data.eval_batch_size)
            }
            (Self::Synthetic(set), Data::Synthetic(data)) => {
                let options =
                    CanvasOptions { input, mean: vec![0.5], std: vec![0.25], crop_padding: 0, horizontal_flip: false };
                on_canvas(Arc::new(set), options, data.eval_batch_size)
            }
            (Self::Folder(set), data) => {
                let empty = set.empty_files().collect();
                photographs(data, input, Arc::new(set), empty)
            }
            (Self::Shards(set), data) => photographs(data, input, Arc::new(set), Vec::new()),
            _ => Err(DataError::Empty),
        }
    }
}

fn input(recipe: &Recipe) -> [usize; 3] {
    let shape = recipe.model.input;
    [shape.channels, shape.height, shape.width]
}

fn on_canvas(dataset: Arc<dyn Dataset>, options: CanvasOptions, eval_batch_size: usize) -> Result<Images, DataError> {
    let plain = CanvasOptions { crop_padding: 0, horizontal_flip: false, ..options.clone() };
    Ok(Images {
        mean: options.mean.clone(),
        std: options.std.clone(),
        augmented: Arc::new(Canvas::new(Arc::clone(&dataset), options)?),
        plain: Arc::new(Canvas::new(dataset, plain)?),
        eval_batch_size,
        // So little work that a second thread would be in the way.
        threads: Some(1),
        unreadable: None,
    })
}

/// `empty`: the images that are known to be unreadable, their files being empty.
fn photographs(data: &Data, input: [usize; 3], store: Arc<dyn Store>, empty: Vec<usize>) -> Result<Images, DataError> {
    let [channels, height, width] = input;
    if channels != 3 {
        return Err(DataError::Channels { channels });
    }
    let Some(keys) = data.photographs() else { return Err(DataError::Empty) };
    let Photographs { scale, ratio, horizontal_flip, scaled_decoding, .. } = keys;
    let preprocessing = Preprocessing {
        input: [height, width],
        resize: keys.resize,
        interpolation: match keys.interpolation {
            recipe::Interpolation::Bilinear => Interpolation::Bilinear,
            recipe::Interpolation::Bicubic => Interpolation::Bicubic,
        },
        mean: keys.mean.map(|value| value as f32),
        std: keys.std.map(|value| value as f32),
    };
    let (mean, std) = (preprocessing.mean.to_vec(), preprocessing.std.to_vec());
    let augmentation = Augmentation { scale, ratio, horizontal_flip, scaled_decoding };
    let transform = Transform::new(preprocessing, Some(augmentation))?;
    let unreadable = Arc::new(Unreadable::new(keys.max_unreadable));
    for index in empty {
        unreadable.add(index, format!("{}: the file is empty", store.place(index)))?;
    }
    let plain = Pictures::new(store, transform.plain(), Arc::clone(&unreadable));
    Ok(Images {
        augmented: Arc::new(plain.with(transform)),
        plain: Arc::new(plain),
        mean,
        std,
        eval_batch_size: keys.eval_batch_size,
        threads: keys.threads,
        unreadable: Some(unreadable),
    })
}
