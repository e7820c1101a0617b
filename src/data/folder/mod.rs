//! ImageNet's layout: `train/CLASS/…` and `val/CLASS/…`, as torchvision's `ImageFolder` reads it.
//!
//! Classes are the folders' names in their order as bytes; a class's images are all below its folder whose names end like
//! those of images, in the order of the folders' and files' names.

mod flat;
mod listing;

use std::path::{Path, PathBuf};

use listing::Listing;

use super::{DataError, Split, Store, Stored};

/// One split: the images of every class.
#[derive(Clone, Debug)]
pub struct FolderSet {
    root: PathBuf,
    listing: Listing,
    /// Folder and file of each image.
    images: Vec<(u32, u32)>,
}

impl FolderSet {
    /// Lists a split of the data set in `path`; a list that was kept in the folder `cache` is taken if no folder has
    /// changed since.
    ///
    /// # Errors
    /// Folders that are missing or can't be listed, classes without images, images of other formats, and a flat folder of
    /// validation images.
    pub fn open(path: &Path, split: Split, cache: Option<&Path>) -> Result<Self, DataError> {
        let name = match split {
            Split::Train => "train",
            Split::Validation => "val",
        };
        if !path.is_dir() {
            return Err(DataError::FolderMissing { path: path.to_owned() });
        }
        let root = path.join(name);
        if !root.is_dir() {
            return Err(missing(path, name));
        }
        let listing = Listing::open(&root, cache)?;
        if listing.classes.is_empty() {
            return Err(flat::explain(path, &root));
        }
        let mut of_class = vec![0_usize; listing.classes.len()];
        let mut images = Vec::new();
        for (at, folder) in listing.folders.iter().enumerate() {
            of_class[folder.class] += folder.files.len();
            images.extend((0..folder.files.len()).map(|file| (at as u32, file as u32)));
        }
        let empty: Vec<&str> =
            of_class.iter().zip(&listing.classes).filter(|(n, _)| **n == 0).map(|(_, class)| class.as_str()).collect();
        if !empty.is_empty() {
            let what = if empty.len() == 1 { "a class without images" } else { "classes without images" };
            let reason = format!("has {what}: {}", shortened(&empty));
            let help = "put JPEG or PNG images there, or remove the folder (from train and val alike)".to_owned();
            return Err(DataError::Layout { path: root, reason, help });
        }
        if let [class] = listing.classes.as_slice() {
            let reason = format!("has one class alone, `{class}`: there is nothing to tell apart");
            let help = format!("the layout is {name}/CLASS/image.jpg; name the folder above `{name}` in `path`");
            return Err(DataError::Layout { path: root, reason, help });
        }
        Ok(Self { root, listing, images })
    }

    /// The names of the classes, in their order.
    pub fn classes(&self) -> &[String] {
        &self.listing.classes
    }

    /// Checks that `other`, the validation split, has the same classes.
    ///
    /// # Errors
    /// [`DataError::Layout`] with those that one of them lacks.
    pub fn check_same_classes(&self, other: &Self) -> Result<(), DataError> {
        let lacking = |here: &Self, there: &Self| -> Vec<String> {
            here.classes().iter().filter(|c| there.classes().binary_search(c).is_err()).cloned().collect()
        };
        for (here, there) in [(self, other), (other, self)] {
            let lacks = lacking(here, there);
            if !lacks.is_empty() {
                let names: Vec<&str> = lacks.iter().map(String::as_str).collect();
                let reason = format!("lacks classes of {}: {}", here.root.display(), shortened(&names));
                let help = "classes are numbered by their names: both must have the same folders".to_owned();
                return Err(DataError::Layout { path: there.root.clone(), reason, help });
            }
        }
        Ok(())
    }

    /// Checks that the network has an output for each class, and no other.
    ///
    /// # Errors
    /// [`DataError::Classes`] with both numbers.
    pub fn check_outputs(&self, outputs: usize) -> Result<(), DataError> {
        let classes = self.classes().len();
        if classes == outputs {
            return Ok(());
        }
        Err(DataError::Classes { path: self.root.clone(), classes, outputs })
    }

    /// The files that are empty, by index.
    pub fn empty_files(&self) -> impl Iterator<Item = usize> {
        let size = |&(folder, file): &(u32, u32)| self.listing.folders[folder as usize].files[file as usize].size;
        self.images.iter().enumerate().filter(move |(_, image)| size(image) == 0).map(|(index, _)| index)
    }

    fn file(&self, index: usize) -> PathBuf {
        let (folder, file) = self.images[index];
        let folder = &self.listing.folders[folder as usize];
        self.root.join(&folder.path).join(&folder.files[file as usize].name)
    }
}

impl Store for FolderSet {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn label(&self, index: usize) -> i64 {
        self.listing.folders[self.images[index].0 as usize].class as i64
    }

    fn place(&self, index: usize) -> String {
        self.file(index).display().to_string()
    }

    fn read(&self, index: usize) -> Result<Stored, String> {
        std::fs::read(self.file(index)).map_err(|error| format!("it can't be read: {error}"))
    }
}

/// There is no `train` or no `val`.
fn missing(path: &Path, name: &str) -> DataError {
    let reason = format!("has no folder `{name}`");
    let kaggle = path.join("ILSVRC/Data/CLS-LOC");
    let help = if kaggle.join(name).is_dir() {
        format!("it is further down: write `path: {}`", kaggle.display())
    } else {
        "the layout is train/CLASS/image.jpg and val/CLASS/image.jpg".to_owned()
    };
    DataError::Layout { path: path.to_owned(), reason, help }
}

/// The first few of many names.
fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests;
