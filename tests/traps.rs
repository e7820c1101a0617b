//! Mistakes that other code of this kind makes, each with a test that would find it here.
//!
//! Beside these: that a basis is of all batches and not of the first is a test of `compress::basis`, that bits are counted
//! over the original values is one of every run (`tests/run.rs`, `tests/modes.rs`), and preprocessing is tested byte by byte
//! in `data`.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use common::{Run, fixture, head, images, number, stages, tiny};
use tch::Tensor;

/// The running statistics of batch normalisation in a checkpoint.
fn statistics(run: &Run) -> BTreeMap<String, Vec<f64>> {
    let tensors = Tensor::read_safetensors(run.path().join("checkpoints/final.safetensors")).unwrap();
    let running = tensors.into_iter().filter(|(name, _)| name.contains("running_"));
    running.map(|(name, t)| (name, Vec::<f64>::try_from(t.to_kind(tch::Kind::Double)).unwrap())).collect()
}

#[test]
fn no_site_is_left_without_a_coefficient_while_anything_else_can_give_way() {
    let summary = Run::of(&(head("tiny-scripted.pt") + &stages(0.5))).summary();
    assert!(number(&summary, "dropped_fraction") > 0.3);
    for site in summary["sites"].as_array().unwrap() {
        assert!(site["groups"].as_array().unwrap().iter().any(|group| group["bits"] != 0), "{site}");
    }
}

/// The images of `from` in `to`, with every pixel of the validation images inverted.
fn with_other_validation_images(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("t10k-images") {
            fs::copy(&path, to.join(&name)).unwrap();
            continue;
        }
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(fs::File::open(&path).unwrap()).read_to_end(&mut bytes).unwrap();
        bytes[16..].iter_mut().for_each(|pixel| *pixel = 255 - *pixel);
        let file = fs::File::create(to.join(&name)).unwrap();
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packed.write_all(&bytes).unwrap();
        packed.finish().unwrap();
    }
}

#[test]
fn nothing_is_learned_from_validation_images() {
    let folder = tempfile::tempdir().unwrap();
    with_other_validation_images(&images(), folder.path());
    let other = tiny().replace(images().to_str().unwrap(), folder.path().to_str().unwrap());
    let (here, there) = (Run::of(&tiny()).summary(), Run::of(&other).summary());
    assert_ne!(here["top1"], there["top1"]);
    // Transforms, groups, widths, steps and ranges to the last digit.
    assert_eq!(here["sites"], there["sites"]);
}

#[test]
fn frozen_batch_normalisation_keeps_its_statistics() {
    let recipe = |policy: &str| {
        let stages = stages(2.5).replace("  - {stage: train, length: 12st}\n", "");
        let stages = stages.replace("20st,", &format!("20st, batch_norm: {policy},"));
        Run::of(
            &(head("tiny-scripted.pt") + &stages.replace("length: 8st", &format!("length: 8st, batch_norm: {policy}"))),
        )
    };
    let mut module = tch::CModule::load(fixture("tiny-scripted.pt")).unwrap();
    module.set_eval();
    let (frozen, train) = (statistics(&recipe("frozen")), statistics(&recipe("train")));
    assert_eq!(frozen.keys().collect::<Vec<_>>(), train.keys().collect::<Vec<_>>());
    assert!(frozen.len() >= 8);
    for (name, values) in &frozen {
        let mut before = original(&fixture("tiny-scripted.pt"));
        let before = before.remove(name).unwrap();
        assert_eq!(values, &before, "{name} drifted");
        assert_ne!(values, &train[name], "{name} is to follow the compressed activations");
    }
}

/// The running statistics in a network's file.
fn original(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let network = dimbit::libtorch::Network::load(path).unwrap();
    let tensors = network.tensors().unwrap().into_iter().filter(|named| named.name.contains("running_"));
    tensors
        .map(|named| {
            (format!("network.{}", named.name), Vec::<f64>::try_from(named.tensor.to_kind(tch::Kind::Double)).unwrap())
        })
        .collect()
}

#[test]
fn reestimated_statistics_are_those_of_the_weights_as_they_stand() {
    // Weights and quantizers stand still, so only the estimate can differ.
    let recipe = |policy: &str, length: &str| {
        let calibrate =
            "{stage: calibrate, images: 128, sensitivity_images: 64, transform: none, max_groups: 1, bits: 4}";
        let finetune = format!(
            "{{stage: finetune, length: {length}, learning_rate: 0, quantizer_learning_rate: 0, batch_norm: {policy}}}"
        );
        Run::of(&format!("{}stages:\n  - {calibrate}\n  - {finetune}\n", head("tiny-scripted.pt")))
    };
    let (short, long) = (recipe("reestimated", "3st"), recipe("reestimated", "9st"));
    assert_eq!(statistics(&short), statistics(&long));
    assert_ne!(statistics(&recipe("train", "3st")), statistics(&recipe("train", "9st")));
    assert_eq!(short.eval()["top1"], short.summary()["top1"]);
    // A window that has seen many batches comes near the average over them.
    let followed = statistics(&recipe("train", "300st"));
    for (name, values) in statistics(&short) {
        let scale = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        for (estimate, window) in values.iter().zip(&followed[&name]) {
            assert!((estimate - window).abs() < 0.2 * scale, "{name}: {estimate} against {window}");
        }
    }
}

#[test]
fn steps_and_ranges_have_no_weight_decay() {
    let steps = |decay: f64| {
        let stages = stages(2.5)
            .replace("length: 8st", &format!("length: 8st, weight_decay: {decay}, quantizer_learning_rate: 0"));
        let summary = Run::of(&(head("tiny-scripted.pt") + &stages)).summary();
        let sites = summary["sites"].as_array().unwrap().clone();
        (sites, summary["top1"].clone())
    };
    let (without, with) = (steps(0.0), steps(5.0));
    assert_eq!(without.0, with.0);
    assert_ne!(without.1, with.1, "the weights do decay");
}
