//! Layers that keep the codes of what they read train as those that keep its values: to the last bit.

mod common;

use common::{Run, head, stages, tiny};
use dimbit::compress::codec::Quantizers;
use dimbit::data::Split;
use dimbit::libtorch::Saved;
use dimbit::train::{OpenedRun, open_run};
use serde_json::Value as Json;
use tch::{Device, Kind, Tensor};

/// Bits, not values: −0 is not 0.
fn bits(tensor: &Tensor) -> Vec<u32> {
    let flat = tensor.detach().reshape([-1]);
    Vec::<f32>::try_from(flat).unwrap().into_iter().map(f32::to_bits).collect()
}

/// The sites at which layers keep codes, and the bits of the logits and of all gradients, by name.
fn step(run: &mut OpenedRun, saved: Saved, width: f64, freeze_norm: bool) -> (usize, Vec<(String, Vec<u32>)>) {
    let compressor = run.compressor.as_ref().unwrap();
    run.model.network.set_train(true, freeze_norm).unwrap();
    let values: Vec<f32> = (0..6 * 3 * 32 * 32).map(|i| (i as f32 * 12.9898).sin() * 2.0).collect();
    let images = Tensor::from_slice(&values).reshape([6, 3, 32, 32]).set_requires_grad(true);
    let now = compressor.quantizers().unwrap();
    let leaf = |t: Tensor| t.detach().copy().set_requires_grad(true);
    // As in a search: ranges that are no whole number of steps.
    let quantizers = Quantizers { step: leaf(now.step / width), range: leaf(now.range * 1.037) };
    // Dropout draws the same.
    tch::manual_seed(7);
    let (step, range) = (quantizers.step.shallow_clone(), quantizers.range.shallow_clone());
    let mut pass = compressor.training_pass(Quantizers { step, range });
    let forward = run.model.network.forward_training(&images, saved, |site, asked| pass.answer(site, asked));
    let (logits, packed) = forward.unwrap();
    let weights = Tensor::arange(logits.numel() as i64, (Kind::Float, Device::Cpu)).cos().reshape(logits.size());
    (&logits * weights).sum(Kind::Float).backward();
    let mut found = vec![("logits".to_owned(), bits(&logits)), ("images".to_owned(), bits(&images.grad()))];
    found.push(("steps".to_owned(), bits(&quantizers.step.grad())));
    found.push(("ranges".to_owned(), bits(&quantizers.range.grad())));
    for mut named in run.model.network.tensors().unwrap() {
        if named.is_parameter && named.tensor.grad().defined() {
            found.push((named.name.clone(), bits(&named.tensor.grad())));
            named.tensor.zero_grad();
        }
    }
    (packed, found)
}

#[test]
fn gradients_are_bit_for_bit_those_of_kept_values() {
    let pca = tiny().replace("stage: calibrate,", "stage: calibrate, transform: pca,");
    let none = tiny().replace("stage: calibrate,", "stage: calibrate, transform: none,");
    let traced = pca.replace("tiny-scripted.pt", "tiny-traced.pt").replace("  - {stage: train, length: 12st}\n", "");
    for recipe in [pca, none, traced] {
        let run = Run::of(&recipe);
        run.summary();
        let mut opened = open_run(&run.path(), &[], Split::Validation).unwrap();
        for tensor in opened.model.network.tensors().unwrap().into_iter().filter(|t| t.is_parameter) {
            let _ = tensor.tensor.set_requires_grad(true);
        }
        // Widths as they are, and finer by a factor that fills no code exactly.
        for (width, freeze_norm) in [(1.0, false), (5.3, false), (1.0, true)] {
            let (none, full) = step(&mut opened, Saved::Full, width, freeze_norm);
            let (some, packed) = step(&mut opened, Saved::Packed, width, freeze_norm);
            assert_eq!(none, 0);
            assert!(some >= 3, "codes at {some} sites only: {recipe}");
            assert_eq!(full.len(), packed.len());
            for (a, b) in full.iter().zip(&packed) {
                assert!(a == b, "{} differs: {recipe}", a.0);
            }
        }
    }
}

/// `summary.json` without what a clock measured.
fn figures(run: &Run) -> Json {
    let mut summary = run.summary();
    let object = summary.as_object_mut().unwrap();
    object.retain(|key, _| !key.contains("seconds") && !key.contains("recipe") && !key.contains("waiting"));
    summary
}

#[test]
fn a_run_ends_where_it_would_have_ended() {
    let packed = tiny()
        .replace("stage: search,", "stage: search, save_activations: packed,")
        .replace("stage: finetune,", "stage: finetune, save_activations: packed,");
    let (full, packed) = (Run::of(&tiny()), Run::of(&packed));
    assert_eq!(figures(&full)["top1"], figures(&packed)["top1"]);
    let weights = |run: &Run| std::fs::read(run.path().join("checkpoints/final.safetensors")).unwrap();
    assert!(weights(&full) == weights(&packed), "other weights");
}

#[test]
fn sites_whose_values_are_kept_all_the_same_are_told() {
    // SiLU and the like, and layers that are no convolutions.
    let text = head("spellings-scripted.pt")
        + &stages(2.5).replace("stage: search,", "stage: search, save_activations: packed,");
    let ended = Run::of(&text).ended;
    assert!(ended.stderr.contains("`save_activations: packed`: layers keep codes at "), "{ended:?}");
}
