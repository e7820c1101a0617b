//! Wrong input of every kind: the exit code, the named cause, nothing of the program's inside, and no litter.

mod common;

use std::fs;
use std::path::Path;

use common::{dimbit_in, fixture, head, images, read_json, stages, tiny, write_recipe};
use serde_json::{Value as Json, json};
use tempfile::{TempDir, tempdir};

/// `inspect` of `model` must end with 1 and name the causes.
#[track_caller]
fn inspect_refuses(model: &Path, input: &str, causes: &[&str]) {
    let folder = tempdir().unwrap();
    let arguments = ["inspect", model.to_str().unwrap(), "--input", input, "--json"];
    dimbit_in(folder.path(), &arguments).refused_as_json(1, causes);
}

/// `run` and `validate` of a recipe must end with 1, name the causes, and leave nothing behind.
#[track_caller]
fn recipe_refused(recipe: &str, causes: &[&str]) {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), recipe);
    dimbit_in(folder.path(), &["validate", "recipe.yaml"]).refused(1, causes);
    dimbit_in(folder.path(), &["run", "recipe.yaml"]).refused(1, causes);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["recipe.yaml"], "wrong input leaves no folder");
}

#[test]
fn models_that_are_none() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    inspect_refuses(&at("absent.pt"), "3x32x32", &["absent.pt", "No such file"]);
    inspect_refuses(folder.path(), "3x32x32", &["directory"]);
    fs::write(at("letter.pt"), "Dear network,\n").unwrap();
    inspect_refuses(&at("letter.pt"), "3x32x32", &["letter.pt", "isn't a TorchScript archive", "help:"]);
    fs::write(at("empty.pt"), "").unwrap();
    inspect_refuses(&at("empty.pt"), "3x32x32", &["isn't a TorchScript archive"]);
    inspect_refuses(&fixture("foreign.zip"), "3x32x32", &["foreign.zip", "help:"]);
    inspect_refuses(&fixture("state-dict.pt"), "3x32x32", &["state dict", "torch.jit.script"]);
}

#[test]
fn models_that_were_cut_short() {
    let whole = fs::read(fixture("tiny-scripted.pt")).unwrap();
    let folder = tempdir().unwrap();
    let path = folder.path().join("cut.pt");
    for length in [1, 3, 4, 100, whole.len() / 2, whole.len() - 1000, whole.len() - 22, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        inspect_refuses(&path, "3x32x32", &["cut.pt", "help:"]);
    }
    // Whole, but with a hole in the middle of the weights' index.
    let mut damaged = whole.clone();
    let end = damaged.len();
    damaged[end - 2000..end - 1000].fill(0xff);
    fs::write(&path, &damaged).unwrap();
    inspect_refuses(&path, "3x32x32", &["cut.pt", "help:"]);
}

#[test]
fn models_whose_forward_does_not_fit() {
    inspect_refuses(&fixture("no-tensor-forward.pt"), "3x32x32", &["must take one image tensor", "int x"]);
    inspect_refuses(&fixture("two-inputs.pt"), "3x32x32", &["must take one image tensor", "Tensor y"]);
    inspect_refuses(&fixture("no-sites.pt"), "3x32x32", &["no site to compress", "help:"]);
    inspect_refuses(&fixture("not-a-classifier.pt"), "3x32x32", &["[1, 4, 30, 30]", "classifiers"]);
}

#[test]
fn input_shapes_that_the_network_refuses() {
    for how in ["scripted", "traced"] {
        let model = fixture(&format!("tiny-{how}.pt"));
        inspect_refuses(&model, "1x32x32", &["[1, 1, 32, 32]", "channels", "CxHxW"]);
        inspect_refuses(&model, "3x1x1", &["[1, 3, 1, 1]", "CxHxW"]);
    }
}

#[test]
fn command_lines_that_are_none() {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &tiny());
    let usage = |arguments: &[&str], cause: &str| dimbit_in(folder.path(), arguments).refused(2, &[cause]);
    let model = fixture("tiny-scripted.pt");
    let model = model.to_str().unwrap();
    usage(&["compress"], "compress");
    usage(&["inspect", model], "--input");
    usage(&["inspect", model, "--input", "3x32"], "3x32");
    usage(&["inspect", model, "--input", "0x32x32"], "0x32x32");
    usage(&["inspect", model, "--input", "3x32x32", "--convention", "guess"], "guess");
    usage(&["run", "recipe.yaml", "--set", "nonsense"], "KEY.PATH=VALUE");
    usage(&["run", "recipe.yaml", "--set", "=3"], "KEY.PATH=VALUE");
    usage(&["run", "recipe.yaml", "--set", "seed=[1"], "seed=[1");
    let wrong = |set: &str, cause: &str| {
        dimbit_in(folder.path(), &["run", "recipe.yaml", "--set", set]).refused(1, &[cause]);
    };
    wrong("sed=3", "`seed`");
    wrong("seed=minus", "seed");
    wrong("stages.9.length=3st", "9");
    wrong("stages.anneal.length=3st", "anneal");
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn recipes_that_are_wrong() {
    let folder = tempdir().unwrap();
    dimbit_in(folder.path(), &["run", "absent.yaml"]).refused(1, &["absent.yaml", "No such file"]);
    dimbit_in(folder.path(), &["run", "."]).refused(1, &["directory"]);
    recipe_refused(&tiny().replace("seed: 3", "sede: 3"), &["recipe.yaml:3:1", "sede", "did you mean `seed`?"]);
    recipe_refused(&tiny().replace("seed: 3", "seed: soon"), &["recipe.yaml:3", "seed"]);
    recipe_refused(&tiny().replace("target_bits: 2.5", "target_bits: 0"), &["target_bits", "more than 0"]);
    recipe_refused(&tiny().replace("target_bits: 2.5", "target_bits: 40"), &["target_bits", "at most 8"]);
    recipe_refused(&tiny().replace("stages:", "stages: ["), &["recipe.yaml:"]);
    recipe_refused("", &["empty"]);
    let sites = |list: &str| format!("{}sites: {list}\n{}", head("tiny-scripted.pt"), stages(2.5));
    recipe_refused(&sites("{exclude: [layer9.*]}"), &["layer9.*", "matches none", "`block.relu#2`"]);
    recipe_refused(&sites("{exclude: ['*']}"), &["no site is selected"]);
    recipe_refused(&(head("tiny-traced.pt") + &stages(2.5)), &["traced", "torch.jit.script"]);
    // All findings at once.
    let twice = tiny().replace("seed: 3", "sede: 3").replace("target_bits: 2.5", "target_bits: 40");
    recipe_refused(&twice, &["did you mean `seed`?", "at most 8"]);
}

#[test]
fn recipes_that_do_not_fit_their_model_or_data() {
    let with_model = |name: &str| head(name) + &stages(2.5);
    recipe_refused(&with_model("absent.pt"), &["absent.pt", "recipe.yaml:5", "No such file"]);
    recipe_refused(&with_model("state-dict.pt"), &["state dict"]);
    recipe_refused(&with_model("no-sites.pt"), &["no site to compress"]);
    recipe_refused(&with_model("not-a-classifier.pt"), &["classifiers"]);
    recipe_refused(&tiny().replace("3x32x32", "1x32x32"), &["[1, 1, 32, 32]", "recipe.yaml:5"]);
    recipe_refused(&tiny().replace("3x32x32", "3x16x16"), &["28", "recipe.yaml:6"]);
    let data = images();
    let absent = tiny().replace(data.to_str().unwrap(), "nowhere/images");
    recipe_refused(&absent, &["no folder", "nowhere/images", "recipe.yaml:6"]);
}

/// A copy of the committed images that may be damaged, and a recipe that reads it.
fn copied_images() -> (TempDir, String) {
    let folder = tempdir().unwrap();
    for entry in fs::read_dir(images()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let recipe = tiny().replace(images().to_str().unwrap(), folder.path().to_str().unwrap());
    (folder, recipe)
}

#[test]
fn images_that_are_damaged() {
    let (folder, recipe) = copied_images();
    let file = folder.path().join("t10k-images-idx3-ubyte.gz");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    recipe_refused(&recipe, &["t10k-images-idx3-ubyte.gz", "cut off"]);
    // A checksum that doesn't fit, and a hole, which may unpack to anything.
    let (mut changed, mut holed) = (whole.clone(), whole.clone());
    changed[whole.len() - 8] ^= 1;
    holed[whole.len() / 2..][..64].fill(0);
    fs::write(&file, &changed).unwrap();
    recipe_refused(&recipe, &["t10k-images-idx3-ubyte.gz", "damaged"]);
    fs::write(&file, &holed).unwrap();
    recipe_refused(&recipe, &["t10k-images-idx3-ubyte.gz"]);
    fs::write(&file, "no gzip").unwrap();
    recipe_refused(&recipe, &["t10k-images-idx3-ubyte.gz", "damaged"]);
    fs::remove_file(&file).unwrap();
    recipe_refused(&recipe, &["neither t10k-images-idx3-ubyte.gz nor t10k-images-idx3-ubyte"]);
}

#[test]
fn labels_that_are_no_class_of_the_network() {
    let (folder, recipe) = copied_images();
    fs::remove_file(folder.path().join("t10k-labels-idx1-ubyte.gz")).unwrap();
    let file = folder.path().join("t10k-labels-idx1-ubyte");
    let mut bytes = vec![0, 0, 8, 1, 0, 0, 0x03, 0xe8];
    bytes.extend([9; 1000]);
    bytes[8 + 700] = 10;
    fs::write(&file, &bytes).unwrap();
    recipe_refused(&recipe, &["image 700 has label 10", "10 classes"]);
    // Fewer labels than images.
    bytes[6..8].copy_from_slice(&[0, 200]);
    bytes.truncate(208);
    fs::write(&file, &bytes).unwrap();
    recipe_refused(&recipe, &["1000 images", "200 labels"]);
}

#[test]
fn a_folder_that_holds_something_is_not_written_to() {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &tiny());
    fs::create_dir(folder.path().join("out")).unwrap();
    fs::write(folder.path().join("out/thesis.txt"), "years of work").unwrap();
    let run = |out: &str, causes: &[&str]| {
        dimbit_in(folder.path(), &["run", "recipe.yaml", "--out", out]).refused(1, causes);
    };
    run("out", &["isn't empty", "--out"]);
    assert_eq!(fs::read_dir(folder.path().join("out")).unwrap().count(), 1);
    run("recipe.yaml", &["recipe.yaml", "--out"]);
    run("recipe.yaml/below", &["below", "--out"]);
}

/// A finished run in a folder of its own.
fn finished() -> TempDir {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &tiny());
    dimbit_in(folder.path(), &["run", "recipe.yaml", "--out", "run", "--quiet"]).fine();
    folder
}

#[test]
fn runs_that_cannot_be_evaluated() {
    let folder = finished();
    let eval = |causes: &[&str]| {
        dimbit_in(folder.path(), &["eval", "run", "--json"]).refused_as_json(1, causes);
    };
    let run = folder.path().join("run");
    // Puts the file back afterwards, so that each damage stands alone.
    let with = |name: &str, content: Option<&[u8]>, causes: &[&str]| {
        let path = run.join(name);
        let whole = fs::read(&path).unwrap();
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        eval(causes);
        fs::write(&path, whole).unwrap();
    };
    for name in ["summary.json", "recipe.resolved.yaml", "checkpoints/final.json", "checkpoints/final.safetensors"] {
        with(name, None, &[name, "missing"]);
        with(name, Some(b""), &[name]);
        with(name, Some(b"\xff\xfe\x00 no such thing"), &[name]);
        let whole = fs::read(run.join(name)).unwrap();
        with(name, Some(&whole[..whole.len() / 2]), &[name]);
    }
    let tensors = fs::read(run.join("checkpoints/final.safetensors")).unwrap();
    let mut absurd = tensors.clone();
    // The header's length.
    absurd[..8].fill(0xff);
    with("checkpoints/final.safetensors", Some(&absurd), &["final.safetensors"]);
    with("checkpoints/final.safetensors", Some(&tensors[..tensors.len() - 4]), &["final.safetensors"]);

    let manifest = read_json(&run.join("checkpoints/final.json"));
    let changed = |pointer: &str, value: Json, causes: &[&str]| {
        let mut other = manifest.clone();
        *other.pointer_mut(pointer).unwrap() = value;
        with("checkpoints/final.json", Some(other.to_string().as_bytes()), causes);
    };
    let site = "/compressor/sites/0";
    changed(&format!("{site}/name"), json!("layer9"), &["final.json", "layer9"]);
    changed(&format!("{site}/transform"), json!("fourier"), &["final.json", "fourier"]);
    changed(&format!("{site}/groups/0/members"), json!([0, 0, 99]), &["final.json", "no partition"]);
    changed(&format!("{site}/groups/0/bits"), json!(77), &["final.json"]);
    changed(&format!("{site}/groups"), json!([]), &["final.json", "no partition"]);

    // After all that, it still is what it was.
    dimbit_in(folder.path(), &["eval", "run"]).fine();
    // The network file has become another one.
    let other = fixture("spellings-scripted.pt");
    let set = format!("model.path={}", other.display());
    dimbit_in(folder.path(), &["eval", "run", "--set", &set])
        .refused(1, &["spellings-scripted.pt", "SHA-256", "model.path"]);
}

#[test]
fn an_evaluation_of_nothing() {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &tiny());
    let eval = |arguments: &[&str], causes: &[&str]| {
        let all: Vec<&str> = std::iter::once("eval").chain(arguments.iter().copied()).collect();
        dimbit_in(folder.path(), &all).refused(1, causes);
    };
    eval(&["absent"], &["absent"]);
    eval(&["."], &["is no run's folder"]);
    eval(&[".", "--recipe", "recipe.yaml"], &["--recipe"]);
    let model = fixture("tiny-scripted.pt");
    eval(&[model.to_str().unwrap()], &["--recipe"]);
    eval(&["absent.pt", "--recipe", "recipe.yaml"], &["absent.pt", "No such file"]);
}
