//! Photographs in folders and tar files, as a user has them: evaluation, training, and wrong input of every kind.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{dimbit_in, fixture, number, read_json, root, write_recipe};
use serde_json::Value as Json;
use tempfile::{TempDir, tempdir};

const PICTURES: [&str; 8] =
    ["420.jpg", "422.jpg", "444.JPEG", "progressive.jpg", "grey.jpg", "cmyk.jpg", "turned.jpg", "png-inside.jpg"];

fn picture(name: &str) -> Vec<u8> {
    fs::read(root().join("tests/fixtures/pictures").join(name)).unwrap()
}

/// A folder with a data set of `classes` classes, six training and two validation images each.
struct Photographs(TempDir);

impl Photographs {
    fn new(classes: usize) -> Self {
        let photographs = Self(tempdir().unwrap());
        for class in 0..classes {
            for image in 0..8 {
                let split = if image < 6 { "train" } else { "val" };
                let name = PICTURES[(class + image) % PICTURES.len()];
                photographs.put(&format!("data/{split}/class-{class:04}/{image}-{name}"), &picture(name));
            }
        }
        photographs
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes `recipe.yaml`; `keys` are further keys of the data.
    fn recipe(&self, keys: &str) {
        self.recipe_of(&format!("kind: folder, path: data{keys}"));
    }

    fn recipe_of(&self, data: &str) {
        let model = fixture("tiny-scripted.pt");
        write_recipe(
            self.path(),
            &format!(
                "version: 1\nname: photographs\nseed: 3\ndevice: cpu\nmodel: {{path: {}, input: 3x32x32}}\ndata: {{{data}, resize: 36, batch_size: 16, eval_batch_size: 7}}\nstages:\n  - {{stage: train, length: 2ep, learning_rate: 0.01}}\n",
                model.display()
            ),
        );
    }

    fn eval(&self, extra: &[&str]) -> common::Ended {
        let model = fixture("tiny-scripted.pt");
        let fixed = ["eval", model.to_str().unwrap(), "--recipe", "recipe.yaml"];
        dimbit_in(self.path(), &[&fixed, extra].concat())
    }

    /// `validate` must end with 1 and name the causes.
    #[track_caller]
    fn refused(&self, causes: &[&str]) {
        dimbit_in(self.path(), &["validate", "recipe.yaml"]).refused(1, causes);
    }

    fn run(&self) -> common::Ended {
        dimbit_in(self.path(), &["run", "recipe.yaml", "--out", "run", "--quiet"])
    }

    fn events(&self, kind: &str) -> Vec<Json> {
        let text = fs::read_to_string(self.path().join("run/metrics.jsonl")).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
        events.filter(|event| event["event"] == kind).collect()
    }
}

/// The logits that `eval` wrote.
fn logits(path: &Path) -> Vec<f32> {
    let tensors = tch::Tensor::read_safetensors(path).unwrap();
    let logits = tensors.iter().find(|(name, _)| name == "logits").unwrap();
    Vec::try_from(logits.1.flatten(0, -1)).unwrap()
}

#[test]
fn a_folder_is_evaluated_and_trained_on() {
    let photographs = Photographs::new(10);
    photographs.recipe(", threads: 3");
    let json = photographs.eval(&["--json", "--logits", "many.safetensors"]).json();
    assert_eq!(number(&json, "images"), 20.0);
    let explained = dimbit_in(photographs.path(), &["explain", "recipe.yaml"]).fine();
    assert!(explained.contains("batch 16, 60 images, 3 steps an epoch"), "{explained}");
    // One thread or three: the same images in the same places.
    let one = photographs.eval(&["--set", "data.threads=1", "--logits", "one.safetensors"]);
    one.fine();
    let at = |name: &str| photographs.path().join(name);
    assert_eq!(logits(&at("one.safetensors")), logits(&at("many.safetensors")));
    assert_eq!(logits(&at("one.safetensors")).len(), 200);

    photographs.run().fine();
    let steps = photographs.events("step");
    assert_eq!(steps.last().unwrap()["step"], 6);
    for step in &steps {
        assert!((0.0..=1.0).contains(&number(step, "waiting")), "{step}");
    }
    let warnings = photographs.events("warning");
    assert!(warnings.iter().all(|event| !event["message"].to_string().contains("can't be read")), "{warnings:?}");
    let summary = read_json(&at("run/summary.json"));
    let again = dimbit_in(photographs.path(), &["eval", "run", "--json"]).json();
    assert_eq!(again["top1"], summary["top1"]);
}

#[test]
fn tar_files_hold_the_same_images() {
    let photographs = Photographs::new(10);
    for (split, shards) in [("train", 3), ("val", 2)] {
        let mut files = Vec::new();
        for class in 0..10 {
            let folder = photographs.path().join(format!("data/{split}/class-{class:04}"));
            let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            files.extend(names.into_iter().map(|path| (class, path)));
        }
        for (shard, part) in files.chunks(files.len().div_ceil(shards)).enumerate() {
            let file = fs::File::create(photographs.path().join(format!("{split}-{shard:03}.tar"))).unwrap();
            let mut tar = tar::Builder::new(file);
            for (index, (class, path)) in part.iter().enumerate() {
                let ending = path.extension().unwrap().to_str().unwrap().to_lowercase();
                let class = class.to_string().into_bytes();
                for (ending, bytes) in [(ending.as_str(), fs::read(path).unwrap()), ("cls", class)] {
                    let mut header = tar::Header::new_gnu();
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, format!("{index:06}.{ending}"), &bytes[..]).unwrap();
                }
            }
            tar.finish().unwrap();
        }
    }
    photographs.recipe("");
    photographs.eval(&["--logits", "folder.safetensors"]).fine();
    photographs.recipe_of("kind: shards, train: 'train-{000..002}.tar', val: 'val-{000..001}.tar', shuffle_buffer: 8");
    photographs.eval(&["--logits", "shards.safetensors"]).fine();
    let at = |name: &str| logits(&photographs.path().join(name));
    assert_eq!(at("folder.safetensors"), at("shards.safetensors"));
    photographs.run().fine();
    assert_eq!(photographs.events("step").last().unwrap()["step"], 6);

    // Cut short, after it was complete.
    let shard = photographs.path().join("train-001.tar");
    let whole = fs::read(&shard).unwrap();
    fs::write(&shard, &whole[..whole.len() / 2]).unwrap();
    photographs.refused(&[
        "bad-data",
        "recipe.yaml:6:",
        "train-001.tar",
        "cut short",
        "help: copy or download it again",
    ]);
    fs::remove_file(&shard).unwrap();
    photographs.refused(&["train-001.tar is not there (1 of 3 tar files are missing)"]);
    photographs.recipe_of("kind: shards, train: 'train-{000..000}.tar', val: 'val-{0}.tar'");
    photographs.refused(&["val-{0}.tar", "neither a range nor alternatives"]);
}

#[test]
fn a_network_for_other_classes_is_refused_with_both_numbers() {
    let photographs = Photographs::new(12);
    photographs.recipe("");
    let causes = ["12 classes", "10 outputs", "--classes 12", "bad-data", "recipe.yaml:6:"];
    photographs.refused(&causes);
    photographs.eval(&[]).refused(1, &causes);
    let thousand = Photographs(tempdir().unwrap());
    for class in 0..1000 {
        thousand.put(&format!("data/train/n{class:08}/1.JPEG"), b"x");
        thousand.put(&format!("data/val/n{class:08}/1.JPEG"), b"x");
    }
    thousand.recipe("");
    thousand.refused(&["1000 classes", "10 outputs"]);
}

#[test]
fn an_evaluation_needs_its_own_split_alone() {
    let photographs = Photographs::new(10);
    photographs.recipe("");
    photographs.run().fine();
    let at = |name: &str| photographs.path().join(name);
    fs::rename(at("data/train"), at("data/elsewhere")).unwrap();
    assert_eq!(number(&photographs.eval(&["--json"]).json(), "images"), 20.0);
    let summary = read_json(&at("run/summary.json"));
    let again = dimbit_in(photographs.path(), &["eval", "run", "--json"]).json();
    assert_eq!(again["top1"], summary["top1"]);
    photographs.eval(&["--split", "train"]).refused(1, &["has no folder `train`"]);
    photographs.refused(&["has no folder `train`", "bad-data"]);
    fs::rename(at("data/elsewhere"), at("data/train")).unwrap();
    fs::rename(at("data/val"), at("data/elsewhere")).unwrap();
    assert_eq!(number(&photographs.eval(&["--split", "train", "--json"]).json(), "images"), 60.0);
}

#[test]
fn folders_that_are_no_data_set_are_refused() {
    let photographs = Photographs::new(10);
    photographs.recipe("");
    let at = |name: &str| photographs.path().join(name);
    fs::create_dir(at("data/val/class-0010")).unwrap();
    photographs.refused(&["data/val", "a class without images: `class-0010`", "bad-data", "recipe.yaml:6:"]);
    fs::remove_dir(at("data/val/class-0010")).unwrap();
    photographs.put("data/train/other/1.jpg", b"x");
    photographs.refused(&["data/val lacks classes of", "`other`"]);
    fs::remove_dir_all(at("data/train/other")).unwrap();
    photographs.put("data/train/class-0003/x.webp", b"x");
    photographs.refused(&["1 images of formats that aren't read", "class-0003/x.webp"]);
    fs::remove_file(at("data/train/class-0003/x.webp")).unwrap();
    fs::rename(at("data/val"), at("data/elsewhere")).unwrap();
    photographs.refused(&["has no folder `val`", "val/CLASS/image.jpg"]);
    photographs.put("data/val/ILSVRC2012_val_00000001.JPEG", b"x");
    photographs.refused(&["1 images and no folders of classes", "LOC_val_solution.csv"]);
    photographs.put("data/LOC_val_solution.csv", b"ImageId,PredictionString\nx,n1 1 1 1 1\ny,n2 1 1 1 1\n");
    photographs.refused(&["holds 1 images", "LOC_val_solution.csv has 2", "don't belong together"]);
    let single = Photographs::new(1);
    single.recipe("");
    single.refused(&["one class alone, `class-0000`"]);
}

#[test]
fn images_that_can_not_be_read_are_left_out_up_to_the_limit() {
    let photographs = Photographs::new(10);
    let torn = picture("420.jpg");
    photographs.put("data/val/class-0002/torn.jpg", &torn[..torn.len() / 2]);
    photographs.put("data/val/class-0005/letter.jpeg", b"Dear image,");
    photographs.put("data/train/class-0001/torn.jpg", &torn[..torn.len() - 100]);
    photographs.recipe("");
    photographs.eval(&[]).refused(1, &["1 image can't be read", "torn.jpg: it is cut short", "`max_unreadable` (0)"]);
    photographs.run().refused(1, &["can't be read", "max_unreadable"]);
    fs::remove_dir_all(photographs.path().join("run")).unwrap();

    photographs.recipe(", max_unreadable: 1");
    let causes = ["2 images can't be read", "torn.jpg", "letter.jpeg: it is neither a JPEG nor a PNG"];
    photographs.eval(&[]).refused(1, &causes);
    photographs.recipe(", max_unreadable: 2");
    let ended = photographs.eval(&["--json"]);
    assert!(ended.stderr.contains("warning: 2 images can't be read and are left out"), "{ended:?}");
    assert_eq!(number(&ended.json(), "images"), 20.0);
    photographs.run().fine();
    let warnings: String = photographs.events("warning").iter().map(|event| event["message"].to_string()).collect();
    for name in ["class-0002/torn.jpg", "letter.jpeg", "class-0001/torn.jpg"] {
        assert_eq!(warnings.matches(name).count(), 1, "{warnings}");
    }
    // Known before anything is decoded.
    photographs.put("data/val/class-0005/letter.jpeg", b"");
    photographs.put("data/val/class-0006/nothing.jpeg", b"");
    photographs.put("data/val/class-0007/nothing.jpeg", b"");
    photographs.refused(&["3 images can't be read", "nothing.jpeg: the file is empty"]);
}

#[test]
fn images_of_any_size_are_read() {
    let photographs = Photographs::new(10);
    photographs.put("data/val/class-0000/one.jpg", &picture("one.jpg"));
    photographs.put("data/train/class-0000/one.jpg", &picture("one.jpg"));
    photographs.put("data/val/class-0001/flat.png", &picture("flat.png"));
    // 12,000 x 12,000 grey pixels, most of them equal.
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 12_000, 12_000);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![0x55; 1500 * 12_000]).unwrap();
    drop(writer);
    photographs.put("data/val/class-0002/large.png", &bytes);
    photographs.recipe("");
    assert_eq!(number(&photographs.eval(&["--json"]).json(), "images"), 23.0);
}

#[test]
fn loading_is_measured_without_a_network() {
    let photographs = Photographs::new(3);
    photographs.recipe("");
    let json =
        dimbit_in(photographs.path(), &["bench", "--data", "recipe.yaml", "--steps", "5", "--threads", "2", "--json"])
            .json();
    assert_eq!((&json["kind"], &json["input"], &json["threads"]), (&"folder".into(), &"3x32x32".into(), &2.into()));
    assert_eq!(number(&json, "images"), 80.0);
    assert!(number(&json, "images_per_second") > 0.0, "{json}");
    dimbit_in(photographs.path(), &["bench", "--data", "recipe.yaml", "--input", "3x32x32"]).refused(2, &["--input"]);
    dimbit_in(photographs.path(), &["bench"]).refused(2, &["MODEL"]);
}
