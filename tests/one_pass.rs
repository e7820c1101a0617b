//! A codec that takes the place of its activation function gives what the two give one after the other.

mod common;

use common::{Run, head, stages, tiny};
use dimbit::data::Split;
use dimbit::libtorch::{Hooked, LibtorchError};
use dimbit::train::{OpenedRun, open_run};
use tch::{Kind, Tensor};

/// Logits of a batch, and the gradients of its images, of all steps and of all ranges.
fn carried_out(run: &OpenedRun, activated: bool) -> [Tensor; 4] {
    let compressor = run.compressor.as_ref().unwrap();
    tch::manual_seed(5);
    let images = Tensor::randn([6, 3, 32, 32], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
    let quantizers = compressor.quantizers().unwrap();
    let leaf = |t: &Tensor| t.detach().copy().set_requires_grad(true);
    let quantizers =
        dimbit::compress::codec::Quantizers { step: leaf(&quantizers.step), range: leaf(&quantizers.range) };
    let mut skipped = 0;
    let logits = run
        .model
        .network
        .forward(&images, |site, position, x| {
            let hooked = match activated {
                true => compressor.hook_activated(site, position, x, &quantizers)?,
                false => {
                    let codec = compressor.codec_at(site, position).map(|index| &compressor.codecs[index]);
                    codec.map(|codec| codec.apply_in_one_pass(x, &quantizers)).transpose()?.into()
                }
            };
            skipped += usize::from(matches!(hooked, Hooked::Activated(_)));
            Ok::<_, LibtorchError>(hooked)
        })
        .unwrap();
    assert_eq!(skipped > 0, activated);
    let weights = Tensor::randn_like(&logits);
    (&logits * weights).sum(Kind::Float).backward();
    [logits.detach(), images.grad(), quantizers.step.grad(), quantizers.range.grad()]
}

#[test]
fn one_pass_is_bit_for_bit_the_two_passes() {
    let pca = tiny().replace("stage: calibrate,", "stage: calibrate, transform: pca,");
    let none = tiny().replace("stage: calibrate,", "stage: calibrate, transform: none,");
    let other = (head("spellings-scripted.pt") + &stages(2.5))
        .replace("stage: train, length: 12st", "stage: train, length: 2st");
    for recipe in [pca, none, other] {
        let run = Run::of(&recipe);
        run.summary();
        let mut opened = open_run(&run.path(), &[], Split::Validation).unwrap();
        opened.model.network.set_train(false, false).unwrap();
        for (one, two) in carried_out(&opened, true).iter().zip(&carried_out(&opened, false)) {
            assert_eq!(one, two, "{recipe}");
        }
    }
}
