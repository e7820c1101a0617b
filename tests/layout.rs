//! A network's tensors lie channels last in memory, its files do not.

mod common;

use common::fixture;
use dimbit::libtorch::{LibtorchError, Network, Position};
use tch::{CModule, Device, Kind, Tensor, no_grad};

fn images() -> Tensor {
    let values: Vec<f32> = (0..2 * 3 * 32 * 32).map(|i| (i as f32 * 12.9898).sin()).collect();
    Tensor::from_slice(&values).reshape([2, 3, 32, 32])
}

fn is_channels_last(tensor: &Tensor) -> bool {
    tensor.permute([0, 2, 3, 1]).is_contiguous()
}

#[test]
fn every_site_sees_channels_last_forward_and_backward() {
    for name in ["tiny-scripted.pt", "tiny-traced.pt"] {
        let network = Network::load(&fixture(name)).unwrap();
        let images = images();
        // As it comes, laid out by the caller already, and both with gaps.
        let wide = Tensor::zeros([2, 3, 32, 64], (Kind::Float, Device::Cpu));
        wide.slice(3, 0, 64, 2).copy_(&images);
        let laid_out = images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let wider = Tensor::zeros([2, 32, 64, 3], (Kind::Float, Device::Cpu));
        wider.slice(2, 0, 32, 1).copy_(&images.permute([0, 2, 3, 1]));
        let gaps = wider.slice(2, 0, 32, 1).permute([0, 3, 1, 2]);
        for x in [images, laid_out, wide.slice(3, 0, 64, 2), gaps] {
            let mut seen = Vec::new();
            let visit = |_: usize, position: Position, t: &Tensor| {
                assert!(is_channels_last(t), "{name}: {:?} {:?}", t.size(), t.stride());
                if position == Position::After {
                    seen.push(t.shallow_clone());
                }
                Ok::<_, LibtorchError>(None)
            };
            let output = network.forward(&x, visit).unwrap();
            assert_eq!(seen.len(), 4);
            // The last site's gradient comes from the global average, which spreads it as it likes.
            seen.pop();
            let gradients = Tensor::run_backward(&[output.sum(Kind::Float)], &seen, false, false);
            for gradient in gradients {
                assert!(is_channels_last(&gradient), "{name}: {:?} {:?}", gradient.size(), gradient.stride());
            }
        }
    }
}

#[test]
fn parameters_stay_channels_last_in_copies_and_on_their_device() {
    let network = Network::load(&fixture("tiny-scripted.pt")).unwrap();
    let mut copy = network.deep_copy().unwrap();
    copy.to_device(Device::Cpu).unwrap();
    for network in [network, copy] {
        let mut count = 0;
        for named in network.tensors().unwrap().into_iter().filter(|t| t.tensor.dim() == 4) {
            let [_, inputs, height, width] = named.tensor.size()[..] else { unreachable!() };
            let strides = [inputs * height * width, 1, inputs * width, inputs];
            assert_eq!(named.tensor.stride(), strides, "{}", named.name);
            assert!(named.tensor.requires_grad() && named.tensor.is_leaf());
            count += 1;
        }
        assert_eq!(count, 5);
    }
}

#[test]
fn a_file_holds_contiguous_parameters_and_its_network_stays_as_it_was() {
    let network = Network::load(&fixture("tiny-scripted.pt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved.pt");
    network.save(&path).unwrap();
    let live = network.tensors().unwrap();
    let saved = CModule::load(&path).unwrap().named_parameters().unwrap();
    for (name, tensor) in &saved {
        let mut expected = 1;
        for (&size, &stride) in tensor.size().iter().zip(&tensor.stride()).rev() {
            assert_eq!(stride, expected, "{name}");
            expected *= size;
        }
        let of_network = &live.iter().find(|t| &t.name == name).unwrap().tensor;
        assert!(tensor.equal(of_network) && tensor.requires_grad(), "{name}");
        assert!(tensor.dim() < 4 || is_channels_last(of_network), "{name}");
    }
    assert_eq!(saved.len(), live.iter().filter(|t| t.is_parameter).count());
}

#[test]
fn a_network_that_flattens_by_view_computes_what_it_computed_contiguously() {
    for name in ["flattens-scripted.pt", "flattens-traced.pt"] {
        let expected = CModule::load(fixture(name)).unwrap().forward_ts(&[images()]).unwrap();
        let network = Network::load(&fixture(name)).unwrap();
        for network in [network.deep_copy().unwrap(), network] {
            let plain = no_grad(|| network.forward_plain(&images())).unwrap();
            let hooked = no_grad(|| network.forward(&images(), |_, _, _| Ok::<_, LibtorchError>(None))).unwrap();
            let (_, observed) = no_grad(|| network.observe(&images())).unwrap();
            for output in [plain, hooked, observed] {
                // Sums of 28 and of 256 terms of size one, in another order.
                assert!(output.allclose(&expected, 1e-5, 1e-5, false), "{name}");
            }
        }
    }
}
