//! Layers that carry out half of a codec's transform in training give what layer and codec give one after the other.

mod common;

use std::collections::BTreeSet;

use common::{Run, head};
use dimbit::compress::codec::Quantizers;
use dimbit::data::Split;
use dimbit::libtorch::{Asked, Hooked, LibtorchError, Saved};
use dimbit::train::{OpenedRun, open_run};
use tch::{Kind, Tensor};

/// A run with a codec of principal components at every site, with all of the bits that it wants.
fn opened(model: &str, placement: &str, keys: &str) -> (Run, OpenedRun) {
    let calibrate =
        format!("stages:\n  - {{stage: calibrate, images: 128, transform: pca, placement: {placement}{keys}}}\n");
    let search = "  - {stage: search, length: 4st, target_bits: 5, batch_norm: frozen}\n";
    let run = Run::of(&(head(model) + &calibrate + search));
    run.summary();
    let opened = open_run(&run.path(), &[], Split::Validation).unwrap();
    (run, opened)
}

/// Names of the sites of which half is folded, logits, and the gradients of images, steps, ranges and weights.
fn carried_out(run: &OpenedRun, folds: bool) -> (BTreeSet<String>, Vec<(String, Tensor)>) {
    let compressor = run.compressor.as_ref().unwrap();
    tch::manual_seed(8);
    let images = Tensor::randn([6, 3, 32, 32], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
    let weights = Tensor::randn([6, 10], (Kind::Float, tch::Device::Cpu));
    let parameters: Vec<_> = run.model.network.tensors().unwrap().into_iter().filter(|t| t.is_parameter).collect();
    for named in &parameters {
        let mut leaf = named.tensor.set_requires_grad(true);
        leaf.zero_grad();
    }
    let now = compressor.quantizers().unwrap();
    let (step, range) = [now.step, now.range].map(|t| t.detach().copy().set_requires_grad(true)).into();
    let leaves = || Quantizers { step: step.shallow_clone(), range: range.shallow_clone() };
    let (mut names, mut pass, quantizers) = (BTreeSet::new(), compressor.training_pass(leaves()), leaves());
    let (logits, _) = run
        .model
        .network
        .forward_training(&images, Saved::Full, |site, asked| {
            let answer = match (folds, asked) {
                (true, asked) => pass.answer(site, asked)?,
                (false, Asked::Tensor(position, x)) => compressor.hook_activated(site, position, x, &quantizers)?,
                (false, Asked::Fold(_)) => Hooked::Unchanged,
            };
            if let (Asked::Fold(_), Hooked::Replaced(_)) = (asked, &answer) {
                names.insert(run.model.sites.iter().find(|s| s.index == site).unwrap().name.clone());
            }
            Ok::<_, LibtorchError>(answer)
        })
        .unwrap();
    (&logits * weights).sum(Kind::Float).backward();
    let mut found = vec![("logits".to_owned(), logits.detach()), ("images".to_owned(), images.grad())];
    found.extend([("steps".to_owned(), step.grad()), ("ranges".to_owned(), range.grad())]);
    found.extend(parameters.iter().map(|p| (p.name.clone(), p.tensor.grad().copy())));
    (names, found)
}

fn agrees(run: &OpenedRun, expected: &[&str]) {
    let (names, folded) = carried_out(run, true);
    assert_eq!(names, expected.iter().map(|name| (*name).to_owned()).collect());
    let (none, apart) = carried_out(run, false);
    assert!(none.is_empty());
    assert!(folded.len() > 30);
    let largest = |t: &Tensor| t.abs().max().double_value(&[]);
    // In front of a normalisation that trains, a bias has no gradient but for rounding.
    let least = 0.01 * apart.iter().map(|(_, t)| largest(t)).fold(0.0, f64::max);
    for ((name, one), (_, other)) in folded.iter().zip(&apart) {
        let scale = largest(other).max(least);
        let difference = largest(&(one - other)) / scale;
        // Sums in another order; a coefficient that they let fall on the other side of a tie moves by a step, of which a
        // code of five bits has 32. A wrong fold is as large as the gradient.
        assert!(difference < 2e-3, "{name}: {difference:e}");
    }
}

#[test]
fn layers_carry_out_halves_of_transforms() {
    // One after the other: dropout draws from the one generator of the process.
    the_layer_in_front_carries_out_the_transform();
    the_readers_carry_out_the_way_back();
}

fn the_layer_in_front_carries_out_the_transform() {
    for model in ["absorbs-scripted.pt", "absorbs-traced.pt"] {
        for keys in ["", ", basis: tied"] {
            let (_run, mut opened) = opened(model, "before", keys);
            opened.model.network.set_train(true, true).unwrap();
            // Behind sums and the normalisation of features there is no single layer.
            let single = ["stem", "unpadded", "valid", "padded", "pooled", "tokens", "tokens_pooled", "logits"];
            agrees(&opened, &single);
            if model == "absorbs-scripted.pt" {
                // Normalisation that trains stands between layer and codec.
                opened.model.network.set_train(true, false).unwrap();
                agrees(&opened, &["unpadded", "padded", "pooled", "tokens", "tokens_pooled", "logits"]);
            }
        }
    }
}

fn the_readers_carry_out_the_way_back() {
    for model in ["absorbs-scripted.pt", "absorbs-traced.pt"] {
        let (_run, mut opened) = opened(model, "after", "");
        for frozen in [true, false] {
            opened.model.network.set_train(true, frozen).unwrap();
            // The others have padding, a skip, a pooling or a dropout behind them, or are read as a transposed matrix.
            agrees(&opened, &["stem", "valid", "projected", "tokens"]);
        }
    }
}
