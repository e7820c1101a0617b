//! `dimbit pack`: a finished run's activations in a container, to the byte.

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use common::{Run, dimbit_in, head, number, stages, tiny};
use dimbit::export::container::{Coding, Reader};
use serde_json::Value as Json;
use tempfile::tempdir;

/// A joint run that leaves one site in floating point.
fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        // Nothing static is dropped: a fixed folder instead of one more at every call.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pack-run");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        let recipe = head("tiny-scripted.pt") + "sites: {exclude: [mixer.relu6]}\n" + &stages(6.0);
        let run = Run::within(&folder, &recipe);
        assert_eq!(run.ended.code, Some(0), "{:?}", run.ended);
        run
    })
}

fn pack(arguments: &[&str]) -> common::Ended {
    dimbit_in(&run().folder, &[&["pack", "run"], arguments].concat())
}

fn whole(json: &Json, key: &str) -> u64 {
    json[key].as_u64().unwrap_or_else(|| panic!("`{key}` is no whole number in {json}"))
}

#[test]
fn bytes_in_the_file_are_the_claimed_bits_to_the_byte() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("out.dimbit");
    let packed = pack(&["--images", "7", "--json", "--out", file.to_str().unwrap()]).json();
    let summary = run().summary();
    assert_eq!(packed["images"], 7);

    // Claimed from the summary alone: values · bits of each group, rounded up to a byte once a group.
    let (mut bits, mut bytes) = (0, 0);
    let summarized =
        summary["sites"].as_array().unwrap().iter().filter(|s| !s["groups"].as_array().unwrap().is_empty());
    for (site, packed) in summarized.zip(packed["sites"].as_array().unwrap()) {
        assert_eq!(site["name"], packed["name"]);
        let per_channel = 7 * whole(site, "values") / site["shape"][0].as_u64().unwrap();
        let mut of_site = 0;
        for (group, packed) in site["groups"].as_array().unwrap().iter().zip(packed["groups"].as_array().unwrap()) {
            let claimed = per_channel * whole(group, "channels") * whole(group, "bits");
            assert_eq!(whole(packed, "claimed_bits"), claimed);
            assert_eq!(whole(packed, "payload_bytes"), claimed.div_ceil(8));
            of_site += claimed.div_ceil(8);
            bits += claimed;
        }
        assert_eq!(whole(packed, "payload_bytes"), of_site);
        bytes += of_site;
    }
    assert_eq!((whole(&packed, "claimed_bits"), whole(&packed, "payload_bytes")), (bits, bytes));

    // The file itself.
    let content = fs::read(&file).unwrap();
    assert_eq!(content.len() as u64, whole(&packed, "file_bytes"));
    let parts = ["payload_bytes", "side_information_bytes", "header_bytes"].map(|key| whole(&packed, key));
    assert_eq!(content.len() as u64, parts.iter().sum::<u64>());

    // The site without a codec is named and counts 32 bits a value.
    let [left] = &packed["uncompressed"].as_array().unwrap()[..] else { panic!("{packed}") };
    assert_eq!(left["name"], "mixer.relu6");
    assert_eq!(whole(left, "bytes"), 4 * 7 * 192);
    // Rounding up adds less than a byte a group.
    let (found, claimed) = (number(&packed, "bits_per_value"), number(&summary, "bits_per_value"));
    assert!(
        found >= claimed - 1e-9 && found < claimed + 8.0 * 64.0 / whole(&packed, "values") as f64,
        "{found} {claimed}"
    );
    assert_eq!(packed["bits_per_value_claimed"], summary["bits_per_value"]);

    // Through the library the same codes, from two readers of one file.
    let mut reader = Reader::from_bytes(&content).unwrap();
    assert_eq!(reader.images(), 7);
    assert_eq!(reader.verify().unwrap().total(), content.len() as u64);
}

#[test]
fn entropy_coding_never_takes_more_and_holds_the_same_codes() {
    let folder = tempdir().unwrap();
    let [plain, coded] = ["plain", "coded"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let packed = pack(&["--images", "50", "--json", "--out", &plain]).json();
    let smaller = pack(&["--images", "50", "--json", "--entropy", "--out", &coded]).json();
    assert_eq!(whole(&smaller, "payload_bytes"), whole(&packed, "entropy_coded_bytes"));
    assert!(whole(&smaller, "payload_bytes") < whole(&packed, "payload_bytes"));
    // No coder with one table a group goes below the bound.
    assert!(8.0 * whole(&smaller, "payload_bytes") as f64 >= number(&smaller, "shannon_bits"));

    let (plain, coded) = (fs::read(plain).unwrap(), fs::read(coded).unwrap());
    let (mut plain, mut coded) = (Reader::from_bytes(&plain).unwrap(), Reader::from_bytes(&coded).unwrap());
    let mut codings = Vec::new();
    let sites = plain.names().len();
    for site in 0..sites {
        let description = coded.site(site).unwrap().clone();
        for group in 0..description.layout().groups.len() {
            assert_eq!(plain.codes(site, group).unwrap(), coded.codes(site, group).unwrap());
            codings.push(description.coding(group).unwrap());
        }
    }
    assert!(codings.contains(&Coding::Coded), "{codings:?}");
}

#[test]
fn all_images_have_the_entropy_that_the_run_measured() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("all").to_str().unwrap().to_owned();
    let packed = pack(&["--images", "1000", "--json", "--out", &out]).json();
    let bits = number(&packed, "shannon_bits") + 8.0 * number(&packed, "uncompressed_bytes");
    let (found, claimed) = (bits / number(&packed, "values"), number(&run().summary(), "bits_per_value_entropy"));
    // The same sum in another order.
    assert!((found - claimed).abs() < 1e-9, "{found} {claimed}");
}

#[test]
fn without_options_a_batch_lands_in_the_runs_folder_and_checks() {
    let table = pack(&[]).fine();
    let file = run().path().join("activations.dimbit");
    for word in ["500 images", "block.relu#2", "not packed: mixer.relu6", "payload", "side information", "header"] {
        assert!(table.contains(word), "no `{word}` in\n{table}");
    }
    assert_eq!(pack(&["--check", file.to_str().unwrap()]).fine().lines().count(), table.lines().count());

    // Another image's codes are not this run's.
    let other = Run::of(&tiny());
    let file = file.to_str().unwrap();
    dimbit_in(&other.folder, &["pack", "run", "--check", file])
        .refused(1, &["activations.dimbit", "not the run's", "help:"]);
    let mut damaged = fs::read(file).unwrap();
    let last = damaged.len() - 10;
    damaged[last] ^= 1;
    let folder = tempdir().unwrap();
    let copy = folder.path().join("damaged");
    fs::write(&copy, &damaged).unwrap();
    pack(&["--check", copy.to_str().unwrap()]).refused(1, &["damaged", "CRC-32"]);
    fs::write(&copy, "no container").unwrap();
    pack(&["--check", copy.to_str().unwrap()]).refused(1, &["no activation container"]);
    pack(&["--check", "absent"]).refused(1, &["absent", "help:"]);
}

#[test]
fn what_can_not_be_packed_is_refused_and_leaves_nothing() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    pack(&["--images", "1001", "--out", out]).refused(1, &["1001", "1000", "--images"]);
    pack(&["--images", "1", "--out", folder.path().to_str().unwrap()]).refused(1, &["cannot write", "--out"]);
    let absent = folder.path().join("no/such/folder/out");
    pack(&["--images", "1", "--out", absent.to_str().unwrap()]).refused(1, &["no/such/folder", "mkdir -p"]);
    assert_eq!(pack(&["--images", "0"]).code, Some(2));

    let float = Run::of(&(head("tiny-scripted.pt") + "stages:\n  - {stage: train, length: 4st}\n"));
    dimbit_in(&float.folder, &["pack", "run", "--out", out]).refused(1, &["nothing to pack", "calibrate"]);

    dimbit_in(folder.path(), &["pack", "absent", "--out", out]).refused(1, &["absent", "does not exist"]);
    fs::create_dir(folder.path().join("cut-off")).unwrap();
    for name in ["recipe.yaml", "recipe.resolved.yaml"] {
        fs::copy(run().path().join(name), folder.path().join("cut-off").join(name)).unwrap();
    }
    dimbit_in(folder.path(), &["pack", "cut-off", "--out", out]).refused(1, &["summary.json", "missing", "help:"]);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["cut-off"], "nothing half-written stays");
}
