use super::*;
pub(super) const VALID: &str = r#"version: 1
name: fashion-mnist-mini/resnet18-joint
seed: 7
device: auto
model:
  path: ../../models/resnet18-32px.pt
  input: 3x32x32
data:
  kind: idx
  path: ../../data/fashion-mnist-mini
  batch_size: 64
  eval_batch_size: 250
  crop_padding: 2
  horizontal_flip: true
  mean: 0.2860
  std: 0.3530
sites:
  include: ["*"]
  exclude: []
stages:
  - stage: train
    length: 8ep
    learning_rate: 0.1
    warmup: 1ep
    momentum: 0.9
    weight_decay: 0.0005
    label_smoothing: 0.0
  - stage: calibrate
    images: 2048
    sensitivity_images: 1024
    transform: auto
    placement: before
    max_mac_overhead: 30
    max_groups: 8
  - stage: search
    length: 6ep
    target_bits: 2.16
    start_bits: 8
    anneal: cosine
    learning_rate: 0.01
    quantizer_learning_rate: 0.02
    batch_norm: train
    distillation: 0.5
  - stage: finetune
    length: 3ep
"#;
pub(super) fn load(text: &str) -> Recipe {
    Recipe::parse(text, "recipes/x.yaml", &[])
        .unwrap_or_else(|e| panic!("{e}"))
        .recipe
}
#[test]
fn show() {
    println!("{}", load(VALID).resolved_yaml());
    println!("{}", explain(&load(VALID), Some(4000)));
    for bad in [
        "",
        "version: 2\nlenght: 3\nmodel:\ndata: {kind: idxx, path: 3, batch_size: 0, mean: .nan}\nbatch_size: 3\nstages:\n  - stage: train\n    lenght: 3ep\n    target_bits: 3\n  - stage: serch\n    length: 8\n    target_bits: 40\n  - \n  - length: 3ep\n  - foo\nseed: 1\nseed: 2\n",
        "a: [1\nb: 3",
        "a: *x",
        "a: &x 1\nb: *x\nc: !foo 3\n? [a]\n: 3\n\tq: 3",
    ] {
        if let Err(e) = Recipe::parse(
            bad,
            "recipes/x.yaml",
            &[
                "stages.1.target_bits=0".parse().unwrap(),
                "sites.foo=3".parse().unwrap(),
            ],
        ) {
            println!("{e}\n==============");
        }
    }
}
