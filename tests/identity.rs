//! The instrumented network is the network: hooks that change nothing change no bit, forward or backward.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::fixture;
use dimbit::libtorch::{LibtorchError, Network, Position};
use tch::{Device, Kind, Tensor, no_grad};

const NETWORKS: [&str; 4] = ["tiny-scripted.pt", "tiny-traced.pt", "spellings-scripted.pt", "spellings-traced.pt"];

/// Dropout draws from libtorch's one generator, which a test beside this one would draw from as well.
fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(name: &str) -> Network {
    Network::load(&fixture(name)).unwrap()
}

fn batch() -> Tensor {
    // Reproducible without the generator: values from −1 to 1 without a pattern.
    let values: Vec<f32> = (0..4 * 3 * 32 * 32).map(|i| (i as f32 * 12.9898).sin()).collect();
    Tensor::from_slice(&values).reshape([4, 3, 32, 32])
}

/// Bits, not values: −0 is not 0, and NaN is itself.
fn bits(tensor: &Tensor) -> Vec<u64> {
    let flat = tensor.detach().to_kind(Kind::Double).reshape([-1]);
    Vec::<f64>::try_from(flat).unwrap().into_iter().map(f64::to_bits).collect()
}

/// Everything that one training step sees of a network.
#[derive(PartialEq)]
struct Seen {
    output: Vec<u64>,
    /// Gradients of the parameters by name; none where no gradient arrives.
    gradients: Vec<(String, Option<Vec<u64>>)>,
    /// Parameters and buffers afterwards: running statistics move in training.
    state: Vec<(String, Vec<u64>)>,
}

fn see(name: &str, train: bool, forward: impl Fn(&Network, &Tensor) -> Result<Tensor, LibtorchError>) -> Seen {
    let mut network = load(name);
    network.set_train(train, false).unwrap();
    tch::manual_seed(7);
    let output = forward(&network, &batch()).unwrap();
    // A loss that weighs every logit differently.
    let weights = Tensor::arange(output.numel() as i64, (Kind::Float, Device::Cpu)).cos().reshape(output.size());
    (&output * weights).sum(Kind::Float).backward();
    let tensors = network.tensors().unwrap();
    let gradient = |tensor: &Tensor| {
        let gradient = tensor.grad();
        gradient.defined().then(|| bits(&gradient))
    };
    Seen {
        output: bits(&output),
        gradients: tensors.iter().filter(|t| t.is_parameter).map(|t| (t.name.clone(), gradient(&t.tensor))).collect(),
        state: tensors.iter().map(|t| (t.name.clone(), bits(&t.tensor))).collect(),
    }
}

#[track_caller]
fn assert_same(plain: &Seen, other: &Seen, what: &str) {
    assert!(plain.output == other.output, "{what}: the output differs");
    for (a, b) in plain.gradients.iter().zip(&other.gradients) {
        assert!(a == b, "{what}: the gradient of {} differs", a.0);
    }
    for (a, b) in plain.state.iter().zip(&other.state) {
        assert!(a == b, "{what}: {} differs afterwards", a.0);
    }
    assert!(plain == other, "{what}: other tensors");
}

#[test]
fn hooks_that_change_nothing_change_no_bit() {
    let _guard = alone();
    for name in NETWORKS {
        for train in [false, true] {
            let what = format!("{name}, train {train}");
            let plain = see(name, train, Network::forward_plain);
            assert!(plain.gradients.iter().all(|(_, g)| g.is_some()), "{what}: every parameter is used");
            let left = see(name, train, |n, x| n.forward(x, |_, _, _| Ok::<_, LibtorchError>(None)));
            assert_same(&plain, &left, &what);
            let replaced =
                see(name, train, |n, x| n.forward(x, |_, _, t| Ok::<_, LibtorchError>(Some(t.shallow_clone()))));
            assert_same(&plain, &replaced, &format!("{what}, replaced"));
        }
    }
}

#[test]
fn training_mode_is_not_evaluation() {
    // Else the comparison above would compare the same thing twice.
    let _guard = alone();
    for name in ["tiny-scripted.pt", "spellings-scripted.pt"] {
        let [evaluation, training] = [false, true].map(|train| see(name, train, Network::forward_plain));
        assert!(evaluation.output != training.output);
        let before =
            bits(&load(name).tensors().unwrap().iter().find(|t| t.name.ends_with("running_mean")).unwrap().tensor);
        let of = |seen: &Seen| seen.state.iter().find(|(n, _)| n.ends_with("running_mean")).unwrap().1.clone();
        assert!(of(&evaluation) == before && of(&training) != before);
    }
}

#[test]
fn every_site_is_visited_before_and_after_in_the_order_of_the_survey() {
    for name in NETWORKS {
        let network = load(name);
        let mut visits = Vec::new();
        let visit = |site: usize, position: Position, _: &Tensor| {
            visits.push((site, position));
            Ok::<_, LibtorchError>(None)
        };
        let _ = no_grad(|| network.forward(&batch(), visit)).unwrap();
        let sites = 0..network.survey().sites.len();
        let expected: Vec<_> = sites.flat_map(|s| [(s, Position::Before), (s, Position::After)]).collect();
        assert_eq!(visits, expected, "{name}");
    }
}

#[test]
fn what_a_hook_returns_reaches_every_reader() {
    for name in ["spellings-scripted.pt", "spellings-traced.pt", "tiny-scripted.pt", "tiny-traced.pt"] {
        let mut network = load(name);
        network.set_train(false, false).unwrap();
        let last = network.survey().sites.len() - 1;
        let zeros = |site: usize, position, t: &Tensor| {
            Ok::<_, LibtorchError>((site == last && position == Position::After).then(|| t.zeros_like()))
        };
        let output = no_grad(|| network.forward(&batch(), zeros)).unwrap();
        let bias = &network.tensors().unwrap().into_iter().find(|t| t.name == "fc.bias").unwrap().tensor;
        assert!(output.equal(&bias.expand_as(&output)), "{name}: only the bias is left of a layer that reads zeros");
    }
    // `torch.relu_(y) + y`: the name of an argument changed in place means what the hook returned, as well.
    for name in ["spellings-scripted.pt", "spellings-traced.pt"] {
        let mut network = load(name);
        network.set_train(false, false).unwrap();
        let in_place = network.survey().sites.iter().position(|s| s.name == "relu#4").unwrap();
        let (mut given, mut sum) = (Tensor::new(), Tensor::new());
        let conv = network.tensors().unwrap();
        let weight = |n: &str| conv.iter().find(|t| t.name == n).unwrap().tensor.shallow_clone();
        let visit = |site: usize, position, t: &Tensor| {
            if site == in_place && position == Position::After {
                given = t * 0.5 + 1.0;
                return Ok::<_, LibtorchError>(Some(given.shallow_clone()));
            }
            if site == in_place + 1 && position == Position::Before {
                sum = t.copy();
            }
            Ok(None)
        };
        let _ = no_grad(|| network.forward(&batch(), visit)).unwrap();
        let expected =
            no_grad(|| (&given + &given).conv2d(&weight("convs.4.weight"), Some(&weight("convs.4.bias")), 1, 0, 1, 1));
        assert!(sum.equal(&expected), "{name}");
    }
}

#[test]
fn an_activation_function_sees_what_the_hook_before_it_returned() {
    let network = load("tiny-scripted.pt");
    let relu6 = network.survey().sites.iter().position(|s| s.name == "mixer.relu6").unwrap();
    let mut after = Tensor::new();
    let visit = |site: usize, position, t: &Tensor| {
        match position {
            Position::Before if site == relu6 => return Ok::<_, LibtorchError>(Some(t.zeros_like() + 9.0)),
            Position::After if site == relu6 => after = t.copy(),
            _ => {}
        }
        Ok(None)
    };
    let _ = no_grad(|| network.forward(&batch(), visit)).unwrap();
    assert!(after.equal(&(after.zeros_like() + 6.0)));
}

#[test]
fn a_hooks_error_comes_back_with_its_site() {
    for name in NETWORKS {
        let network = load(name);
        for wanted in [0, network.survey().sites.len() - 1] {
            for at in [Position::Before, Position::After] {
                let mut later = 0;
                let error = network
                    .forward(&batch(), |site, position, _| {
                        if site == wanted && position == at {
                            return Err(format!("site {site} is full"));
                        }
                        later += usize::from(site > wanted);
                        Ok(None)
                    })
                    .unwrap_err();
                match error {
                    LibtorchError::Hook { site, source } => {
                        assert_eq!((site, source.to_string()), (wanted, format!("site {wanted} is full")));
                    }
                    other => panic!("{name}: {other}"),
                }
                assert_eq!(later, 0, "{name}: nothing runs after the error");
            }
        }
        // The network is as good as before.
        let _ = no_grad(|| network.forward(&batch(), |_, _, _| Ok::<_, LibtorchError>(None))).unwrap();
    }
}

#[test]
fn a_hooks_panic_becomes_an_error() {
    let network = load("tiny-scripted.pt");
    let error = network
        .forward(&batch(), |site, _, _| -> Result<Option<Tensor>, LibtorchError> {
            assert!(site != 2, "no bits left");
            Ok(None)
        })
        .unwrap_err();
    match error {
        LibtorchError::Hook { site: 2, source } => assert!(source.to_string().contains("no bits left"), "{source}"),
        other => panic!("{other}"),
    }
    let _ = no_grad(|| network.forward(&batch(), |_, _, _| Ok::<_, LibtorchError>(None))).unwrap();
}

#[test]
fn a_copy_is_its_own_network() {
    let network = load("tiny-scripted.pt");
    let copy = network.deep_copy().unwrap();
    let output = || no_grad(|| copy.forward_plain(&batch())).unwrap();
    let before = bits(&output());
    for mut named in network.tensors().unwrap() {
        let _ = no_grad(|| named.tensor.zero_());
    }
    assert!(bits(&output()) == before);
}

#[test]
fn what_was_saved_is_what_is_loaded() {
    let _guard = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved.pt");
    for name in NETWORKS {
        let network = load(name);
        for mut named in network.tensors().unwrap() {
            if named.tensor.is_floating_point() {
                let _ = no_grad(|| named.tensor.g_mul_scalar_(1.5));
            }
        }
        network.save(&path).unwrap();
        let loaded = Network::load(&path).unwrap();
        for network in [&network, &loaded] {
            assert_eq!(network.survey().sites.len(), load(name).survey().sites.len());
        }
        let [a, b] = [&network, &loaded].map(|n| no_grad(|| n.forward_plain(&batch())).unwrap());
        assert!(bits(&a) == bits(&b), "{name}");
    }
}

#[test]
fn a_frozen_normalisation_keeps_its_statistics_while_the_rest_trains() {
    let _guard = alone();
    let mut network = load("tiny-scripted.pt");
    let statistics = |network: &Network| {
        let all = network.tensors().unwrap();
        let running = all.iter().filter(|t| t.name.contains("running_") || t.name.contains("num_batches"));
        running.map(|t| (t.name.clone(), bits(&t.tensor))).collect::<Vec<_>>()
    };
    let run = |network: &Network| {
        bits(&no_grad(|| network.forward(&batch(), |_, _, _| Ok::<_, LibtorchError>(None))).unwrap())
    };
    let before = statistics(&network);
    network.set_train(true, true).unwrap();
    // Dropout draws: two calls differ.
    assert!(run(&network) != run(&network));
    assert!(statistics(&network) == before);
    network.set_train(true, false).unwrap();
    run(&network);
    assert!(statistics(&network) != before);
    network.set_train(false, false).unwrap();
    assert!(run(&network) == run(&network));
}
