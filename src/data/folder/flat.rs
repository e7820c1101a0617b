//! A split without class folders: what it is, and how to sort it.

use std::path::{Path, PathBuf};

use super::listing::Entries;
use crate::data::DataError;

/// The labels of ImageNet's validation images as Kaggle gives them: `ImageId,PredictionString`.
const SOLUTION: &str = "LOC_val_solution.csv";
/// Those of the development kit: one number a line, of its own numbering.
const GROUND_TRUTH: &str = "ILSVRC2012_validation_ground_truth.txt";

/// What is wrong with `root`, a split of the data set in `path` that has no folders of classes.
pub(super) fn explain(path: &Path, root: &Path) -> DataError {
    let layout = |reason: String, help: String| DataError::Layout { path: root.to_owned(), reason, help };
    let files = match Entries::of(root) {
        Ok(entries) => entries.files,
        Err(error) => return error,
    };
    let images = files.iter().filter(|name| name.to_lowercase().ends_with(".jpeg")).count();
    if images == 0 {
        return layout("has no folders of classes".into(), "the layout is CLASS/image.jpg".into());
    }
    let flat = format!("holds {images} images and no folders of classes: ImageNet's validation images as they come");
    // Beside the images, or in one of the folders above them.
    let find = |name: &str| {
        let near = std::iter::once(root).chain(path.ancestors().take(4));
        near.map(|folder| folder.join(name)).find(|file| file.is_file())
    };
    if let Some(labels) = find(SOLUTION) {
        return by_solution(layout, flat, root, &labels, images);
    }
    let devkit = find(GROUND_TRUTH).or_else(|| find(&format!("ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}")));
    if let Some(labels) = devkit {
        let count = match lines(&labels) {
            Ok(lines) => lines.len(),
            Err(error) => return error,
        };
        if count != images {
            return mismatch(layout, &labels, count, images);
        }
        return layout(
            format!("{flat}; {} has their classes, but in a numbering of its own", labels.display()),
            format!(
                "torchvision sorts them, from ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_val.tar in one folder: python -c \"import torchvision; torchvision.datasets.ImageNet('FOLDER', split='val')\"; then name its val in {}",
                path.display()
            ),
        );
    }
    layout(
        flat,
        format!(
            "move each image into a folder of its class; {SOLUTION} (from Kaggle) or {GROUND_TRUTH} (from the development kit) has the classes: with one of them beside `val`, this message gives the command"
        ),
    )
}

fn by_solution(
    layout: impl Fn(String, String) -> DataError,
    flat: String,
    root: &Path,
    labels: &Path,
    images: usize,
) -> DataError {
    let lines = match lines(labels) {
        Ok(lines) => lines,
        Err(error) => return error,
    };
    let named = lines.iter().skip(1).filter(|line| line.contains(",n")).count();
    if named != images {
        return mismatch(layout, labels, named, images);
    }
    let (root, labels) = (root.display(), labels.display());
    layout(
        format!("{flat}; {labels} has their classes"),
        format!(
            "this sorts them: cd '{root}' && tail -n +2 '{labels}' | tr ',' ' ' | while read -r image class rest; do mkdir -p \"$class\" && mv \"$image.JPEG\" \"$class/\"; done"
        ),
    )
}

fn mismatch(layout: impl Fn(String, String) -> DataError, labels: &Path, named: usize, images: usize) -> DataError {
    layout(
        format!("holds {images} images and no folders of classes, but {} has {named}", labels.display()),
        "they don't belong together: get both from one place".into(),
    )
}

fn lines(path: &Path) -> Result<Vec<String>, DataError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| DataError::Read { path: PathBuf::from(path), source })?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}
