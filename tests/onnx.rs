//! `dimbit export --format onnx` and `dimbit verify` on tiny networks, the written file in Python, and networks of many
//! shapes in ONNX Runtime beside libtorch.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::exports::{agrees, export_as, fresh_folder, python, run_python};
use common::{Run, dimbit_in, fixture, head, images, number, root, stages, tiny};
use dimbit::export::onnx::{Engine, encode};
use dimbit::libtorch::{Baked, Network};
use serde_json::Value as Json;
use tch::{Device, Kind, Tensor, no_grad};
use tempfile::tempdir;

fn joint() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| Run::within(&fresh_folder("onnx-joint"), &tiny()))
}

fn export(run: &Run, name: &str, options: &[&str]) -> PathBuf {
    export_as("onnx", run, name, options).0
}

const CHECK: &str = r#"
import gzip, json, sys
import numpy, onnx, onnxruntime
file, folder = sys.argv[1:]
model = onnx.load(file)
onnx.checker.check_model(model, full_check=True)
assert {opset.domain: opset.version for opset in model.opset_import} == {"": 17}
told = {entry.key: entry.value for entry in model.metadata_props}
about = json.loads(told["dimbit.json"])
raw = numpy.frombuffer(gzip.open(folder + "/t10k-images-idx3-ubyte.gz").read()[16:], dtype=numpy.uint8)
labels = numpy.frombuffer(gzip.open(folder + "/t10k-labels-idx1-ubyte.gz").read()[8:], dtype=numpy.uint8)
images = numpy.pad(raw.reshape(-1, 1, 28, 28).astype(numpy.float32) / 255, ((0, 0), (0, 0), (2, 2), (2, 2)))
images = (images - numpy.float32(about["input"]["mean"][0])) / numpy.float32(about["input"]["std"][0])
images = numpy.repeat(images, 3, axis=1)
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
logits = [session.run(None, {"images": images[i:i + 77]})[0] for i in range(0, len(images), 77)]
print(json.dumps({
    "top1": 100 * float((numpy.concatenate(logits).argmax(1) == labels).mean()),
    "about": about,
    "codes": {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info},
    "quantizers": sum(node.op_type == "QuantizeLinear" for node in model.graph.node),
    "dequantizers": sum(node.op_type == "DequantizeLinear" for node in model.graph.node),
    "norms": sum(node.op_type == "BatchNormalization" for node in model.graph.node)}))
"#;

#[test]
fn an_export_does_what_the_run_does() {
    if python().is_none() {
        return;
    }
    for (name, options) in [
        ("folded.onnx", &[][..]),
        ("unfolded.onnx", &["--unfolded"]),
        ("norm.onnx", &["--fold-batch-norm"]),
        ("norm-unfolded.onnx", &["--fold-batch-norm", "--unfolded"]),
    ] {
        let file = export(joint(), name, options);
        let found = agrees(joint(), &file);
        let printed = run_python(&["-c", CHECK, file.to_str().unwrap(), images().to_str().unwrap()]).unwrap();
        let by_python: Json = serde_json::from_str(&printed).unwrap();
        // 1,000 images; another batch size may add up in another order, so a tie may fall the other way.
        assert!((number(&by_python, "top1") - number(&found, "top1_file")).abs() < 0.11, "{by_python} {found}");
        let sites = by_python["about"]["sites"].as_array().unwrap();
        // All of this run's widths fit 8 bits: every site's codes are int8 (3) or uint8 (2).
        assert_eq!(by_python["quantizers"], sites.len());
        assert_eq!(by_python["dequantizers"], sites.len());
        for site in sites {
            let element = &by_python["codes"][format!("codes.{}", site["key"].as_str().unwrap())];
            assert_eq!(element, if site["codes"] == "unsigned" { 2 } else { 3 }, "{site}");
        }
        let norms = number(&by_python, "norms");
        assert!(if options.contains(&"--fold-batch-norm") { norms == 0.0 } else { norms > 0.0 }, "{name}: {norms}");
        for key in ["dimbit_version", "recipe_sha256", "model_sha256", "bits_per_value", "top1"] {
            assert_eq!(by_python["about"][key], joint().summary()[key], "{key}");
        }
    }
}

#[test]
fn a_float_run_and_a_uniform_run_export_as_well() {
    if python().is_none() {
        return;
    }
    let run =
        Run::of(&(head("tiny-traced.pt") + "stages:\n  - {stage: calibrate, images: 64, transform: none, bits: 4}\n"));
    agrees(&run, &export(&run, "uniform.onnx", &[]));
    let run = Run::of(&(head("tiny-scripted.pt") + "stages:\n  - {stage: train, length: 6st}\n"));
    let found = agrees(&run, &export(&run, "float.onnx", &["--fold-batch-norm"]));
    // Nothing rounds: sums in another order alone.
    assert!(number(&found, "max_logit_difference") < 1e-3, "{found}");
}

/// Every place that a transform folds into, and every place that it doesn't, on both sides of the activation function; sites
/// whose channels are the last dimension.
#[test]
fn every_fold_is_exact() {
    if python().is_none() {
        return;
    }
    for placement in ["before", "after"] {
        let calibrate =
            format!("stages:\n  - {{stage: calibrate, images: 128, transform: pca, placement: {placement}}}\n");
        let search = "  - {stage: search, length: 4st, target_bits: 4}\n";
        let run = Run::of(&(head("absorbs-scripted.pt") + &calibrate + search));
        for options in [&["--fold-batch-norm"][..], &["--unfolded"]] {
            agrees(&run, &export(&run, "absorbs.onnx", options));
        }
    }
}

const SABOTAGE: &str = r#"
import sys, onnx
from onnx import numpy_helper
for file, name, factor, out in zip(*(iter(sys.argv[1:]),) * 4):
    model = onnx.load(file)
    found = 0
    for tensor in model.graph.initializer:
        power = {name: 1, name + ".reciprocal": -1}.get(tensor.name)
        if power is not None:
            changed = numpy_helper.to_array(tensor) * numpy_helper.to_array(tensor).dtype.type(float(factor) ** power)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
            found += 1
    assert found == (2 if name.endswith("step") else 1), (name, [t.name for t in model.graph.initializer])
    onnx.save(model, out)
"#;

#[test]
fn a_step_that_is_off_by_a_percent_is_found_and_its_site_named() {
    if python().is_none() {
        return;
    }
    let folded = export(joint(), "true.onnx", &[]);
    let unfolded = export(joint(), "true-unfolded.onnx", &["--unfolded", "--fold-batch-norm"]);
    let cases = [
        (&folded, "codecs.relu.step", "1.01", Some("relu")),
        (&unfolded, "codecs.block_relu_2.step", "0.99", Some("block.relu#2")),
        (&unfolded, "codecs.mixer_relu6.step", "1.01", Some("mixer.relu6")),
        // Nothing but the logits shows it.
        (&folded, "fc.weight", "1.02", None),
        (&unfolded, "fc.weight", "1.0", Some("nothing")),
    ];
    let wrong = |number: usize| joint().folder.join(format!("wrong-{number}.onnx")).to_str().unwrap().to_owned();
    let mut arguments = vec!["-c".to_owned(), SABOTAGE.to_owned()];
    for (number, (file, name, factor, _)) in cases.iter().enumerate() {
        let file = file.to_str().unwrap().to_owned();
        arguments.extend([file, (*name).to_owned(), (*factor).to_owned(), wrong(number)]);
    }
    run_python(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    for (number, (_, name, _, site)) in cases.iter().enumerate() {
        let ended = dimbit_in(&joint().folder, &["verify", "run", "--against", &wrong(number), "--json"]);
        let found: Json = serde_json::from_str(&ended.stdout).unwrap();
        if *site == Some("nothing") {
            assert_eq!(ended.code, Some(0), "written again unchanged: {found}");
            continue;
        }
        assert_eq!(ended.code, Some(4), "{name}: {found}");
        assert_eq!(found["first_difference"]["site"], serde_json::json!(site), "{name}: {found}");
    }
}

#[test]
fn the_example_classifies_an_image() {
    let file = export(joint(), "for-the-example.onnx", &[]);
    let temporary = tempdir().unwrap();
    let array = temporary.path().join("image.npy");
    // A 28x28 ramp in NumPy's format, version 1.0.
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (28, 28), }";
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{header:<117}\n").bytes());
    bytes.extend((0..28 * 28).map(|i| (i % 256) as u8));
    fs::write(&array, bytes).unwrap();
    let script = root().join("scripts/use-in-python.py");
    let arguments = [script.to_str().unwrap(), file.to_str().unwrap(), array.to_str().unwrap()];
    let Some(printed) = run_python(&arguments) else { return };
    let bits = number(&joint().summary(), "bits_per_value");
    assert!(
        printed.starts_with(&format!("4 compressed sites, {bits:.4} bits per value\nimage 0: class ")),
        "{printed}"
    );
}

#[test]
fn what_can_not_be_exported_is_refused() {
    let to = |folder: &Path, path: &str| dimbit_in(folder, &["export", "run", "--format", "onnx", "--out", path]);
    to(&joint().folder, "nowhere/file.onnx")
        .refused(1, &["cannot write nowhere/file.onnx", "there is no folder nowhere"]);
    to(&joint().folder, "run").refused(1, &["can't write run: it is a folder"]);
    let stages = "stages:\n  - {stage: train, length: 1st}\n";
    let cases = [
        ("cumulative.pt", &["`aten::logcumsumexp` in `sums`", "no ONNX operator", "--format torchscript"][..]),
        ("chooses.pt", &["can't be written as ONNX", "by the values of a tensor", "--format torchscript"]),
    ];
    for (model, causes) in cases {
        let run = Run::of(&(head(model) + stages));
        to(&run.folder, "out.onnx").refused(1, causes);
        let names = fs::read_dir(&run.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        assert_eq!(names, ["recipe.yaml", "run"], "nothing half-written stays");
    }
}

#[test]
fn a_file_that_is_no_export_of_the_run_is_refused() {
    if python().is_none() {
        return;
    }
    let file = export(joint(), "right.onnx", &[]);
    let against = |path: &Path| dimbit_in(&joint().folder, &["verify", "run", "--against", path.to_str().unwrap()]);
    let temporary = tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);

    against(&path("missing.onnx")).refused(1, &["missing.onnx", "No such file", "help: check the path"]);
    fs::create_dir(path("folder.onnx")).unwrap();
    against(&path("folder.onnx")).refused(1, &["folder.onnx", "directory"]);
    fs::write(path("text.onnx"), "no protocol buffer").unwrap();
    against(&path("text.onnx")).refused(1, &["text.onnx", "no ONNX file"]);
    let bytes = fs::read(&file).unwrap();
    fs::write(path("cut.onnx"), &bytes[..bytes.len() / 2]).unwrap();
    against(&path("cut.onnx")).refused(1, &["cut.onnx", "no ONNX file, or was cut short"]);
    let network = Network::load(&fixture("tiny-scripted.pt")).unwrap();
    let baked = Baked::new(&network, &[], false).unwrap();
    fs::write(path("plain"), encode(&baked, [3, 32, 32], &BTreeMap::new(), &[]).unwrap()).unwrap();
    against(&path("plain")).refused(1, &["carries no dimbit.json"]);

    let without_training = stages(2.5).replace("  - {stage: train, length: 12st}\n", "");
    let other = Run::of(&(head("tiny-traced.pt") + &without_training));
    against(&export(&other, "other.onnx", &[])).refused(1, &["an export of another network", "model_sha256"]);

    let without_library = assert_cmd::Command::new(env!("CARGO_BIN_EXE_dimbit"))
        .args(["verify", "run", "--against", file.to_str().unwrap()])
        .current_dir(&joint().folder)
        .env("ORT_DYLIB_PATH", path("libonnxruntime.so"))
        .output()
        .unwrap();
    let said = String::from_utf8(without_library.stderr).unwrap();
    assert_eq!(without_library.status.code(), Some(1), "{said}");
    assert!(said.contains("ONNX Runtime") && said.contains("help: run `scripts/setup --python`"), "{said}");
}

/// Logits of a network without codecs, by ONNX Runtime and by libtorch. Both compute in float32 and add up in orders of their
/// own, so 1e-4 of the largest logit leaves room for a hundred layers' rounding and none for a wrong operator.
#[track_caller]
fn compare(file: &Path, extent: i64, fold: bool) {
    let network = Network::load(file).unwrap();
    let mut network = network.deep_copy().unwrap();
    network.set_train(false, false).unwrap();
    let baked = Baked::new(&network, &[], fold).unwrap();
    let bytes = encode(&baked, [3, extent, extent], &BTreeMap::new(), &[]).unwrap();
    let mut engine = Engine::new(&bytes).unwrap().unwrap();
    for batch in [1, 3] {
        tch::manual_seed(batch);
        let images = Tensor::randn([batch, 3, extent, extent], (Kind::Float, Device::Cpu));
        let wanted = no_grad(|| network.forward_plain(&images)).unwrap();
        let found = &engine.run(&images).unwrap()[0].1;
        assert_eq!(found.size(), wanted.size());
        let apart = (found - &wanted).abs().max().double_value(&[]) / wanted.abs().max().double_value(&[]);
        assert!(apart < 1e-4, "{}, {batch} images: {apart}", file.display());
    }
}

#[test]
fn every_spelling_of_an_activation_function_is_the_same_function() {
    if python().is_none() {
        return;
    }
    for name in ["spellings", "tiny", "absorbs", "flattens"] {
        for how in ["scripted", "traced"] {
            compare(&fixture(&format!("{name}-{how}.pt")), 32, name == "tiny");
        }
    }
}

#[test]
fn networks_of_torchvision_give_the_same_logits() {
    if python().is_none() {
        return;
    }
    let names = ["resnet18.script", "mobilenet_v2.trace", "mobilenet_v3_small.script", "squeezenet1_1.script"];
    for (number, name) in names.into_iter().enumerate() {
        let path = root().join("target/test-models").join(format!("{name}.pt"));
        assert!(
            path.is_file(),
            "{} is missing: run scripts/test, which exports it before it runs the tests",
            path.display()
        );
        compare(&path, 224, number % 2 == 0);
    }
}
