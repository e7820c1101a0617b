use std::fs;
use std::path::Path;

use tempfile::{TempDir, tempdir};

use super::*;

fn data_with(files: &[&str]) -> TempDir {
    let root = tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !file.ends_with('/') {
            fs::write(path, "x").unwrap();
        }
    }
    root
}

fn error(root: &Path, split: Split) -> String {
    FolderSet::open(root, split, None).err().unwrap().to_string()
}

#[test]
fn images_are_numbered_class_by_class() {
    let root = data_with(&["train/cat/2.jpg", "train/cat/1.jpg", "train/ant/1.png", "val/ant/a.jpg", "val/cat/a.jpg"]);
    let train = FolderSet::open(root.path(), Split::Train, None).unwrap();
    assert_eq!(train.classes(), ["ant", "cat"]);
    let all: Vec<_> = (0..train.len()).map(|index| (train.label(index), train.place(index))).collect();
    let at = |name: &str| root.path().join("train").join(name).display().to_string();
    assert_eq!(all, [(0, at("ant/1.png")), (1, at("cat/1.jpg")), (1, at("cat/2.jpg"))]);
    assert_eq!(train.read(1).unwrap(), b"x");
    let validation = FolderSet::open(root.path(), Split::Validation, None).unwrap();
    train.check_same_classes(&validation).unwrap();
    train.check_outputs(2).unwrap();
    let error = train.check_outputs(10).unwrap_err().to_string();
    assert!(error.contains("2 classes") && error.contains("10 outputs"), "{error}");
}

#[test]
fn folders_that_are_not_as_they_should_be_say_so() {
    let root = data_with(&["train/a/1.jpg", "train/b/", "train/c/x.txt", "val/a/1.jpg"]);
    fs::create_dir_all(root.path().join("train/b")).unwrap();
    let text = error(root.path(), Split::Train);
    assert!(text.contains("classes without images: `b`, `c`"), "{text}");
    let text = error(root.path(), Split::Validation);
    assert!(text.contains("one class alone, `a`"), "{text}");
    let root = data_with(&["ILSVRC/Data/CLS-LOC/train/a/1.jpg", "a/1.jpg"]);
    let text = error(root.path(), Split::Train);
    assert!(text.contains("has no folder `train`") && text.contains("ILSVRC/Data/CLS-LOC`"), "{text}");
    assert!(error(&root.path().join("a"), Split::Validation).contains("the layout is train/CLASS/image.jpg"));
    assert!(error(&root.path().join("none"), Split::Train).contains("there is no folder"));
}

#[test]
fn splits_with_other_classes_say_which() {
    let root = data_with(&["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/c/1.jpg"]);
    let open = |split| FolderSet::open(root.path(), split, None).unwrap();
    let error = open(Split::Train).check_same_classes(&open(Split::Validation)).unwrap_err().to_string();
    assert!(error.contains("val lacks classes of") && error.contains("`b`"), "{error}");
}

#[test]
fn flat_validation_images_are_explained() {
    let images = ["val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG"];
    let root = data_with(&images);
    let text = error(root.path(), Split::Validation);
    assert!(text.contains("2 images and no folders of classes") && text.contains("LOC_val_solution.csv"), "{text}");

    let solution = root.path().join("LOC_val_solution.csv");
    let header = "ImageId,PredictionString\nILSVRC2012_val_00000001,n0002 1 2 3 4 \n";
    fs::write(&solution, header).unwrap();
    let text = error(root.path(), Split::Validation);
    assert!(text.contains("holds 2 images") && text.contains("LOC_val_solution.csv has 1"), "{text}");

    fs::write(&solution, format!("{header}ILSVRC2012_val_00000002,n0001 1 2 3 4 n0001 1 2 3 4 \n")).unwrap();
    let text = error(root.path(), Split::Validation);
    let command = text.split("this sorts them: ").nth(1).unwrap();
    // The command does what it says.
    let done = std::process::Command::new("sh").arg("-c").arg(command).status().unwrap();
    assert!(done.success(), "{command}");
    let sorted = FolderSet::open(root.path(), Split::Validation, None).unwrap();
    assert_eq!((sorted.classes(), sorted.len()), (&["n0001".to_owned(), "n0002".to_owned()][..], 2));
    assert!(sorted.place(0).ends_with("n0001/ILSVRC2012_val_00000002.JPEG"));

    let root = data_with(&images);
    fs::write(root.path().join("ILSVRC2012_validation_ground_truth.txt"), "490\n361\n").unwrap();
    let text = error(root.path(), Split::Validation);
    assert!(text.contains("a numbering of its own") && text.contains("torchvision"), "{text}");
}

#[test]
fn empty_files_are_known_before_they_are_read() {
    let root = data_with(&["train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg"]);
    fs::write(root.path().join("train/a/2.jpg"), "").unwrap();
    let set = FolderSet::open(root.path(), Split::Train, None).unwrap();
    assert_eq!(set.empty_files().collect::<Vec<_>>(), [1]);
}
