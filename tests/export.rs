//! `dimbit export` and `dimbit verify` on tiny networks, and the written file in Python.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::exports::{agrees, export_as, fresh_folder, run_python};
use common::{Run, dimbit_in, head, images, number, read_json, root, stages, tiny};
use serde_json::Value as Json;
use tempfile::tempdir;

fn joint() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| Run::within(&fresh_folder("exported-joint"), &tiny()))
}

/// Exports a run; hands back the file.
fn export(run: &Run, name: &str, options: &[&str]) -> PathBuf {
    export_as("torchscript", run, name, options).0
}

#[test]
fn an_export_does_what_the_run_does() {
    for (name, options) in [
        ("folded.pt", &[][..]),
        ("unfolded.pt", &["--unfolded"]),
        ("norm.pt", &["--fold-batch-norm"]),
        ("norm-unfolded.pt", &["--fold-batch-norm", "--unfolded"]),
    ] {
        agrees(joint(), &export(joint(), name, options));
    }
}

#[test]
fn a_traced_network_exports_as_well() {
    let run = Run::of(&(head("tiny-traced.pt") + &stages(2.5).replace("  - {stage: train, length: 12st}\n", "")));
    agrees(&run, &export(&run, "traced.pt", &["--fold-batch-norm"]));
}

#[test]
fn a_float_run_exports_as_well() {
    let run = Run::of(&(head("tiny-scripted.pt") + "stages:\n  - {stage: train, length: 6st}\n"));
    for options in [&[][..], &["--fold-batch-norm"]] {
        let found = agrees(&run, &export(&run, "float.pt", options));
        // Nothing rounds: sums in another order alone.
        assert!(number(&found, "max_logit_difference") < 1e-3, "{found}");
    }
}

/// Every place that a transform folds into, and every place that it doesn't, on both sides of the activation function.
#[test]
fn every_fold_is_exact() {
    for placement in ["before", "after"] {
        let calibrate =
            format!("stages:\n  - {{stage: calibrate, images: 128, transform: pca, placement: {placement}}}\n");
        let search = "  - {stage: search, length: 4st, target_bits: 4}\n";
        for model in ["absorbs-scripted.pt", "absorbs-traced.pt"] {
            let run = Run::of(&(head(model) + &calibrate + search));
            for (options, folded) in [(&["--fold-batch-norm"][..], true), (&["--unfolded"], false)] {
                let (file, said) = export_as("torchscript", &run, "absorbs.pt", options);
                agrees(&run, &file);
                let none = said.contains("; 0 of 12 transforms");
                assert_eq!(none, !folded, "{placement}, {model}: {said}");
            }
        }
    }
}

const COMPARE: &str = r#"
import gzip, json, sys, torch
file, folder = sys.argv[1:]
extra = {"dimbit.json": ""}
network = torch.jit.load(file, _extra_files=extra)
about = json.loads(extra["dimbit.json"])["input"]
raw = torch.frombuffer(bytearray(gzip.open(folder + "/t10k-images-idx3-ubyte.gz").read()[16:]), dtype=torch.uint8)
labels = torch.frombuffer(bytearray(gzip.open(folder + "/t10k-labels-idx1-ubyte.gz").read()[8:]), dtype=torch.uint8)
images = torch.nn.functional.pad(raw.view(-1, 1, 28, 28).float() / 255, (2, 2, 2, 2))
images = ((images - about["mean"][0]) / about["std"][0]).expand(-1, 3, -1, -1).contiguous()
with torch.no_grad():
    logits = torch.cat([network(part) for part in images.split(77)])
    one = network(images[5:6])
    again = network(images[:77].to(memory_format=torch.channels_last))
assert one.shape == (1, 10) and not logits.requires_grad
assert (one - logits[5:6]).abs().max() < 1e-2 and (again - logits[:77]).abs().max() < 1e-2
network.train(); network.eval()
print(json.dumps({"top1": 100 * (logits.argmax(1) == labels).float().mean().item()}))
"#;

#[test]
fn python_gets_the_same_predictions() {
    let file = export(joint(), "for-python.pt", &[]);
    let found = agrees(joint(), &file);
    let arguments = ["-c", COMPARE, file.to_str().unwrap(), images().to_str().unwrap()].map(str::to_owned);
    let Some(printed) = run_python(&arguments.each_ref().map(String::as_str)) else { return };
    let by_python: Json = serde_json::from_str(&printed).unwrap();
    // 1,000 images; other batch sizes may add up in another order, so a tie may fall the other way.
    assert!((number(&by_python, "top1") - number(&found, "top1_file")).abs() < 0.11, "{by_python} {found}");
}

#[test]
fn the_example_classifies_an_image_and_reads_the_metadata() {
    let file = export(joint(), "for-the-example.pt", &[]);
    let (script, file) = (root().join("scripts/use-in-python.py"), file.to_str().unwrap());
    let temporary = tempdir().unwrap();
    let array = temporary.path().join("image.npy");
    // A 28x28 ramp in NumPy's format, version 1.0.
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (28, 28), }";
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{header:<117}\n").bytes());
    bytes.extend((0..28 * 28).map(|i| (i % 256) as u8));
    fs::write(&array, bytes).unwrap();
    let Some(printed) = run_python(&[script.to_str().unwrap(), file, array.to_str().unwrap()]) else { return };
    let bits = number(&joint().summary(), "bits_per_value");
    assert!(printed.starts_with(&format!("4 compressed sites, {bits:.4} bits per value\n")), "{printed}");
    assert!(printed.contains("block.relu#2: codes [1, "), "{printed}");
    assert!(printed.contains("image 0: class "), "{printed}");
}

const SABOTAGE: &str = r#"
import sys, torch
for file, buffer, factor, out in zip(*(iter(sys.argv[1:]),) * 4):
    extra = {"dimbit.json": ""}
    network = torch.jit.load(file, _extra_files=extra)
    tensors = dict(network.named_buffers()) | dict(network.named_parameters())
    with torch.no_grad():
        tensors[buffer] *= float(factor)
    torch.jit.save(network, out, _extra_files=extra)
"#;

#[test]
fn a_step_that_is_off_by_a_percent_is_found_and_its_site_named() {
    let folded = export(joint(), "true.pt", &[]);
    let unfolded = export(joint(), "true-unfolded.pt", &["--unfolded", "--fold-batch-norm"]);
    let cases = [
        (&folded, "codecs.relu.step", "1.01", Some("relu")),
        (&unfolded, "codecs.relu.step", "1.01", Some("relu")),
        (&folded, "codecs.block_relu_2.step", "0.99", Some("block.relu#2")),
        (&unfolded, "codecs.mixer_relu6.step", "1.01", Some("mixer.relu6")),
        // Nothing but the logits shows it.
        (&folded, "fc.weight", "1.02", None),
        (&unfolded, "fc.weight", "1.0", Some("nothing")),
    ];
    let wrong = |number: usize| joint().folder.join(format!("wrong-{number}.pt")).to_str().unwrap().to_owned();
    let mut arguments = vec!["-c".to_owned(), SABOTAGE.to_owned()];
    for (number, (file, buffer, factor, _)) in cases.iter().enumerate() {
        let file = file.to_str().unwrap().to_owned();
        arguments.extend([file, (*buffer).to_owned(), (*factor).to_owned(), wrong(number)]);
    }
    if run_python(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).is_none() {
        return;
    }
    for (number, (_, buffer, _, site)) in cases.iter().enumerate() {
        let ended = dimbit_in(&joint().folder, &["verify", "run", "--against", &wrong(number), "--json"]);
        let found: Json = serde_json::from_str(&ended.stdout).unwrap();
        if *site == Some("nothing") {
            assert_eq!(ended.code, Some(0), "written again unchanged: {found}");
            continue;
        }
        assert_eq!(ended.code, Some(4), "{buffer}: {found}");
        assert_eq!(found["first_difference"]["site"], serde_json::json!(site), "{buffer}: {found}");
        assert!(common::number(&found["first_difference"], "differ") > 0.0, "{found}");
    }
    let ended = dimbit_in(&joint().folder, &["verify", "run", "--against", &wrong(5), "--images", "40"]);
    assert!(ended.stdout.starts_with("40 images, 40 predictions agree"), "{ended:?}");
}

#[test]
fn the_metadata_tell_what_the_file_is() {
    let file = export(joint(), "told.pt", &[]);
    let name = "archive/extra/dimbit.json";
    let Some(text) = run_python(&[
        "-c",
        "import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]).decode())",
        file.to_str().unwrap(),
        name,
    ]) else {
        return;
    };
    let (told, summary): (Json, Json) = (serde_json::from_str(&text).unwrap(), joint().summary());
    for key in ["dimbit_version", "recipe_sha256", "model_sha256", "bits_per_value", "bits_per_value_stored", "top1"] {
        assert_eq!(told[key], summary[key], "{key}");
    }
    assert_eq!(told["recipe"], fs::read_to_string(joint().path().join("recipe.resolved.yaml")).unwrap());
    assert_eq!(told["input"]["shape"], serde_json::json!([3, 32, 32]));
    for (site, wanted) in told["sites"].as_array().unwrap().iter().zip(summary["sites"].as_array().unwrap()) {
        for key in ["name", "shape", "transform"] {
            assert_eq!(site[key], wanted[key], "{key}");
        }
        for (group, wanted) in site["groups"].as_array().unwrap().iter().zip(wanted["groups"].as_array().unwrap()) {
            assert_eq!((&group["channels"], &group["bits"]), (&wanted["channels"], &wanted["bits"]));
            assert_eq!(group["members"].as_array().unwrap().len() as u64, group["channels"].as_u64().unwrap());
        }
    }
}

#[test]
fn what_can_not_be_exported_is_refused() {
    let to = |path: &str| dimbit_in(&joint().folder, &["export", "run", "--format", "torchscript", "--out", path]);
    to("nowhere/file.pt").refused(1, &["cannot write nowhere/file.pt", "there is no folder nowhere", "help: make it"]);
    to("run").refused(1, &["can't write run: it is a folder"]);
    let temporary = tempdir().unwrap();
    let whole = joint().path();
    for missing in ["summary.json", "checkpoints/final.safetensors", "checkpoints/final.json", "recipe.resolved.yaml"] {
        let part = temporary.path().join("part");
        let _ = fs::remove_dir_all(&part);
        fs::create_dir_all(part.join("checkpoints")).unwrap();
        for name in ["summary.json", "checkpoints/final.safetensors", "checkpoints/final.json", "recipe.resolved.yaml"]
        {
            if name != missing {
                fs::copy(whole.join(name), part.join(name)).unwrap();
            }
        }
        let out = temporary.path().join("out.pt");
        let arguments = ["export", part.to_str().unwrap(), "--format", "torchscript", "--out", out.to_str().unwrap()];
        dimbit_in(temporary.path(), &arguments).refused(1, &[missing, "missing"]);
        let arguments = ["verify", part.to_str().unwrap(), "--against", out.to_str().unwrap()];
        dimbit_in(temporary.path(), &arguments).refused(1, &[missing, "missing"]);
        assert!(!out.exists());
    }
    // Nothing half-written stays anywhere.
    for folder in [&joint().folder, &temporary.path().to_path_buf()] {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(names.into_iter().all(|name| !name.ends_with(".tmp")));
    }
}

#[test]
fn a_file_that_is_no_export_of_the_run_is_refused() {
    let file = export(joint(), "right.pt", &[]);
    let against = |path: &Path| dimbit_in(&joint().folder, &["verify", "run", "--against", path.to_str().unwrap()]);
    let temporary = tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);

    against(&path("missing.pt")).refused(1, &["missing.pt", "No such file", "help: check the path"]);
    against(temporary.path()).refused(1, &["it is a folder"]);
    fs::write(path("text.pt"), "no archive").unwrap();
    against(&path("text.pt")).refused(1, &["text.pt", "no TorchScript file"]);
    let bytes = fs::read(&file).unwrap();
    fs::write(path("cut.pt"), &bytes[..bytes.len() / 2]).unwrap();
    against(&path("cut.pt")).refused(1, &["cut.pt", "no TorchScript file, or was cut short"]);
    against(&common::fixture("tiny-scripted.pt")).refused(1, &["tiny-scripted.pt", "carries no dimbit.json"]);

    let without_training = stages(2.5).replace("  - {stage: train, length: 12st}\n", "");
    let other = Run::of(&(head("tiny-traced.pt") + &without_training));
    against(&export(&other, "other.pt", &[])).refused(1, &["an export of another network", "model_sha256"]);
    let again = Run::of(&tiny().replace("seed: 3", "seed: 4").replace("length: 12st", "length: 2st"));
    against(&export(&again, "again.pt", &[])).refused(1, &["an export of another run", "recipe_sha256"]);
    assert!(read_json(&again.path().join("summary.json"))["top1"].is_number());
}
