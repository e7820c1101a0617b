//! What lies in the folders of a split, listed once and kept.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::shortened;
use crate::data::DataError;
use crate::data::cache::{self, Changed};

/// Endings of the files that are read.
const READ: [&str; 3] = [".jpg", ".jpeg", ".png"];
/// Endings of images that `ImageFolder` would take as well.
const FOREIGN: [&str; 6] = [".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"];

/// The classes of a split and their files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    /// When a class was last added or removed.
    changed: Changed,
    /// Names in the order of their bytes.
    pub(super) classes: Vec<String>,
    /// All folders with the images right in them, class by class.
    pub(super) folders: Vec<Folder>,
}

/// A class's folder, or one further down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Folder {
    /// From the split's folder on.
    pub(super) path: String,
    /// When a file in it was last added, renamed or removed.
    changed: Changed,
    /// The class's number.
    pub(super) class: usize,
    /// Images in the order of their names.
    pub(super) files: Vec<ImageFile>,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct ImageFile {
    /// Its name.
    pub(super) name: String,
    /// Its bytes when it was listed; 0 as well for a link to nothing.
    pub(super) size: u64,
}

impl Listing {
    /// The list of `root`: the one in `cache` unless a folder has changed, else a new one, which is kept.
    pub(super) fn open(root: &Path, cache: Option<&Path>) -> Result<Self, DataError> {
        let of = format!("folder {}", fs::canonicalize(root).unwrap_or_else(|_| root.to_owned()).display());
        let kept = cache.and_then(|cache| cache::read::<Self>(cache, &of));
        if let Some(kept) = kept.filter(|kept| kept.holds(root)) {
            return Ok(kept);
        }
        let listing = Self::of(root)?;
        if let Some(cache) = cache.filter(|_| listing.changes().all(|(_, changed)| changed.settled())) {
            cache::write(cache, &of, &listing);
        }
        Ok(listing)
    }

    /// Whether nothing was added, renamed or removed.
    fn holds(&self, root: &Path) -> bool {
        self.changes().all(|(path, changed)| changed_at(&root.join(path)).is_ok_and(|now| now == changed))
    }

    fn changes(&self) -> impl Iterator<Item = (&str, Changed)> {
        std::iter::once(("", self.changed)).chain(self.folders.iter().map(|f| (f.path.as_str(), f.changed)))
    }

    fn of(root: &Path) -> Result<Self, DataError> {
        let changed = changed_at(root)?;
        let mut classes = Entries::of(root)?.folders;
        classes.sort_unstable();
        let mut folders = Vec::new();
        let mut foreign = Vec::new();
        for (class, name) in classes.iter().enumerate() {
            let first = folders.len();
            walk(root, name.clone(), class, &mut folders, &mut foreign)?;
            folders[first..].sort_by(|a, b| a.path.cmp(&b.path));
        }
        if let Some(example) = foreign.first() {
            let reason = format!(
                "has {} images of formats that aren't read (JPEG and PNG are), such as {example}",
                foreign.len()
            );
            let help =
                "convert them, or move them away: leaving them out in silence would change the data set".to_owned();
            return Err(DataError::Layout { path: root.to_owned(), reason, help });
        }
        Ok(Self { changed, classes, folders })
    }
}

/// Adds the folder `path` below `root`, and all below it.
fn walk(
    root: &Path,
    path: String,
    class: usize,
    folders: &mut Vec<Folder>,
    foreign: &mut Vec<String>,
) -> Result<(), DataError> {
    let at = root.join(&path);
    // The time comes first: what is added while the folder is listed makes the list stale.
    let changed = changed_at(&at)?;
    let entries = Entries::of(&at)?;
    let mut files = Vec::new();
    for name in entries.files {
        let lower = name.to_lowercase();
        let ends = |endings: &[&str]| endings.iter().any(|ending| lower.ends_with(ending));
        if ends(&READ) {
            let size = fs::metadata(at.join(&name)).map_or(0, |metadata| metadata.len());
            files.push(ImageFile { name, size });
        } else if ends(&FOREIGN) {
            foreign.push(format!("{path}/{name}"));
        }
    }
    files.sort_unstable();
    for below in entries.folders {
        walk(root, format!("{path}/{below}"), class, folders, foreign)?;
    }
    folders.push(Folder { path, changed, class, files });
    Ok(())
}

fn changed_at(path: &Path) -> Result<Changed, DataError> {
    let metadata = fs::metadata(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    Ok(Changed::of(&metadata))
}

/// The names in a folder.
pub(super) struct Entries {
    pub(super) folders: Vec<String>,
    pub(super) files: Vec<String>,
}

impl Entries {
    pub(super) fn of(folder: &Path) -> Result<Self, DataError> {
        let read = |source| DataError::Read { path: folder.to_owned(), source };
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        let mut odd: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            let kind = entry.file_type().map_err(read)?;
            // A link is what it leads to.
            let is_folder = if kind.is_symlink() { entry.path().is_dir() } else { kind.is_dir() };
            match entry.file_name().into_string() {
                Ok(name) if is_folder => folders.push(name),
                Ok(name) => files.push(name),
                Err(_) => odd.push(entry.path()),
            }
        }
        if let Some(path) = odd.first() {
            let names: Vec<String> = odd.iter().map(|path| path.display().to_string()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let reason = format!("has names that are no UTF-8 text: {}", shortened(&names));
            let help = "rename them".to_owned();
            return Err(DataError::Layout { path: path.parent().unwrap_or(folder).to_owned(), reason, help });
        }
        Ok(Self { folders, files })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    use tempfile::tempdir;

    use super::*;

    /// Makes a folder look as if nothing had changed for a minute.
    fn age(path: &Path, seconds: u64) {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        File::open(path).unwrap().set_modified(then).unwrap();
    }

    fn root_with(files: &[&str]) -> tempfile::TempDir {
        let root = tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        root
    }

    fn names(listing: &Listing) -> Vec<String> {
        let of = |folder: &Folder| {
            folder
                .files
                .iter()
                .map(|file| format!("{}:{}/{}", folder.class, folder.path, file.name))
                .collect::<Vec<_>>()
        };
        listing.folders.iter().flat_map(of).collect()
    }

    #[test]
    fn files_come_in_image_folders_order() {
        let root = root_with(&[
            "b/2.JPG",
            "b/10.jpeg",
            "b/notes.txt",
            "a/z.PnG",
            "a/c-d/1.jpg",
            "a/c/1.jpg",
            "a/c/e/1.jpg",
            "Z/1.jpg",
            "B.jpg",
            "a/c/.hidden.jpg",
        ]);
        let listing = Listing::open(root.path(), None).unwrap();
        assert_eq!(listing.classes, ["Z", "a", "b"]);
        // As Python sorts: upper case first, `-` before `/`.
        assert_eq!(
            names(&listing),
            [
                "0:Z/1.jpg",
                "1:a/z.PnG",
                "1:a/c/.hidden.jpg",
                "1:a/c/1.jpg",
                "1:a/c-d/1.jpg",
                "1:a/c/e/1.jpg",
                "2:b/10.jpeg",
                "2:b/2.JPG"
            ]
        );
    }

    #[test]
    fn a_kept_list_is_taken_until_a_folder_changes() {
        let (root, cache) = (root_with(&["a/1.jpg", "b/1.jpg"]), tempdir().unwrap());
        let open = || Listing::open(root.path(), Some(cache.path())).unwrap();
        let cached = || fs::read_dir(cache.path()).unwrap().count();
        let first = open();
        assert_eq!(cached(), 0, "too young to be kept");
        for folder in ["", "a", "b"] {
            age(&root.path().join(folder), 60);
        }
        let settled = open();
        assert_eq!((names(&settled), cached()), (names(&first), 1));
        // Taken from the cache: a file that was made bigger in place is no change of its folder.
        fs::write(root.path().join("a/1.jpg"), "longer").unwrap();
        assert_eq!(open(), settled);
        fs::write(root.path().join("b/2.jpg"), "x").unwrap();
        assert_eq!(names(&open()).len(), 3);
        age(&root.path().join("b"), 30);
        assert_eq!(names(&open()).len(), 3);
        fs::create_dir(root.path().join("c")).unwrap();
        assert_eq!(open().classes, ["a", "b", "c"]);
        // A damaged list is no list.
        for entry in fs::read_dir(cache.path()).unwrap() {
            fs::write(entry.unwrap().path(), "{").unwrap();
        }
        assert_eq!(open().classes, ["a", "b", "c"]);
    }

    #[test]
    fn images_of_other_formats_are_named() {
        let root = root_with(&["a/1.jpg", "a/2.webp", "b/1.TIF"]);
        let error = Listing::open(root.path(), None).unwrap_err().to_string();
        assert!(error.contains("has 2 images of formats that aren't read") && error.contains("a/2.webp"), "{error}");
    }
}
