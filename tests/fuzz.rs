//! Damaged input for everything that reads what strangers write: recipes, images, networks, checkpoints. Whatever comes must
//! end in a value or an error, never in a panic.
//!
//! Each test damages right inputs at random, a few hundred times here; `scripts/fuzz` sets `DIMBIT_FUZZ_RUNS` to as many as one
//! likes. The inputs depend on `DIMBIT_FUZZ_SEED` alone. What broke is left in `target/tmp/fuzz`.

mod common;

use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use common::{dimbit_in, fixture, write_recipe};
use dimbit::data::{Dataset, IdxDataset, Split};
use dimbit::model::Model;
use dimbit::recipe::{Override, Recipe, SHIPPED, explain};
use dimbit::train::open_run;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Device;
use tempfile::tempdir;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Runs `try_one` on damaged inputs; an input on which it panics is kept, and named.
fn fuzz(name: &str, runs: u64, seeds: &[Vec<u8>], words: &[&str], try_one: impl Fn(&[u8], &mut ChaCha8Rng)) {
    let runs = setting("DIMBIT_FUZZ_RUNS", runs);
    let seed = setting("DIMBIT_FUZZ_SEED", 0);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for run in 0..runs {
        let input = damaged(seeds, words, &mut random);
        if catch_unwind(AssertUnwindSafe(|| try_one(&input, &mut random))).is_err() {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
            fs::create_dir_all(&folder).unwrap();
            let path = folder.join(format!("{name}-{seed}-{run}"));
            fs::write(&path, &input).unwrap();
            panic!("{name}, run {run} of seed {seed}: the input is {}", path.display());
        }
    }
    println!("{name}: {runs} damaged inputs, seed {seed}");
}

/// One of the seeds with one to eight changes.
fn damaged(seeds: &[Vec<u8>], words: &[&str], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        let at = random.random_range(0..=input.len());
        let end = (at + random.random_range(0..16)).min(input.len());
        match random.random_range(0..7) {
            0 if at < input.len() => input[at] = random.random(),
            1 => drop(input.drain(at..end)),
            2 if !words.is_empty() => {
                let word = words[random.random_range(0..words.len())].bytes();
                input.splice(at..end, word);
            }
            3 => {
                let part = input[at..end].to_vec();
                let to = random.random_range(0..=input.len());
                input.splice(to..to, part);
            }
            4 => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                let part = other[from..(from + random.random_range(0..64)).min(other.len())].to_vec();
                input.splice(at..end, part);
            }
            5 if random.random_ratio(1, 4) => input.truncate(at),
            _ => {
                for byte in &mut input[at..end] {
                    *byte = byte.wrapping_add(random.random_range(0..3));
                }
            }
        }
    }
    input
}

#[test]
fn damaged_recipes() {
    const WORDS: &[&str] = &[
        "\n",
        "\r",
        "\t",
        "  ",
        "- ",
        ": ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "#",
        "&a ",
        "*a",
        "!t ",
        "|\n",
        ">\n",
        "\"",
        "'",
        "\\",
        "%",
        "---\n",
        "...\n",
        "~",
        "null",
        "true",
        ".nan",
        "-.inf",
        "1e999",
        "0x1f",
        "18446744073709551616",
        "-1",
        "2.16",
        "0",
        "100%",
        "5%",
        "8ep",
        "1200st",
        "3x32x32",
        "extends: base.yaml\n",
        "vars: {a: 1, b: two}\n",
        "${a}",
        "${b}",
        "${",
        "$${",
        "stages:\n",
        "stage: ",
        "search",
        "calibrate",
        "train",
        "finetune",
        "target_bits: ",
        "length: ",
        "warmup: ",
        "sites: {include: [",
        "/layer(/",
        "/^a.*$/",
        "kind: ",
        "synthetic",
        "é",
        "\u{feff}",
        "\u{2028}",
        "\0",
        "😀",
    ];
    let seeds: Vec<Vec<u8>> = SHIPPED.iter().map(|recipe| recipe.text.into()).collect();
    let folder = tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    let base = SHIPPED.iter().find(|recipe| recipe.name.ends_with("modes/base.yaml")).unwrap();
    fs::write(folder.path().join("base.yaml"), base.text).unwrap();
    fuzz("recipes", 2000, &seeds, WORDS, |input, random| {
        let text = String::from_utf8_lossy(input);
        let line = text.lines().nth(random.random_range(0..4)).unwrap_or_default().replacen(": ", "=", 1);
        let overrides: Vec<Override> = line.parse().into_iter().collect();
        match Recipe::parse(&text, file.to_str().unwrap(), &overrides) {
            Ok(loaded) => {
                let again = Recipe::parse(&loaded.recipe.resolved_yaml(), "/y.yaml", &[]);
                assert_eq!(again.unwrap_or_else(|error| panic!("{error}")).recipe, loaded.recipe);
                assert!(!explain(&loaded.recipe, Some(1000)).is_empty());
            }
            Err(error) => {
                // What serde refuses, the form must have found.
                assert!(
                    !error.findings.is_empty() && error.findings.iter().all(|finding| finding.code != "invalid"),
                    "{error}"
                );
            }
        }
    });
}

#[test]
fn damaged_images() {
    let header = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let mut images = header(&[0x803, 20, 6, 5]);
    images.extend((0..600).map(|value| (value % 251) as u8));
    let mut labels = header(&[0x801, 20]);
    labels.extend((0..20).map(|value| (value % 10) as u8));
    let packed = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let folder = tempdir().unwrap();
    let at = |kind: &str| folder.path().join(format!("train-{kind}"));
    let plain = [("images-idx3-ubyte", images.clone()), ("labels-idx1-ubyte", labels.clone())];
    let seeds = [images.clone(), labels.clone(), packed(&images), packed(&labels)];
    fuzz(
        "images",
        1000,
        &seeds,
        &["\0\0\u{8}\u{3}", "\0\0\u{8}\u{1}", "\0\0\0\u{14}", "\u{7f}\u{7f}\u{7f}\u{7f}"],
        |input, random| {
            // One of the files is damaged; the packed one is read where there are both.
            let damaged = random.random_range(0..2);
            let suffix = if input.starts_with(&[0x1f, 0x8b]) { ".gz" } else { "" };
            for (index, (name, right)) in plain.iter().enumerate() {
                let _ = fs::remove_file(at(&format!("{name}.gz")));
                fs::write(at(name), right).unwrap();
                if index == damaged {
                    fs::write(at(&format!("{name}{suffix}")), input).unwrap();
                }
            }
            if let Ok(set) = IdxDataset::open(folder.path(), Split::Train) {
                let [channels, height, width] = set.image_shape();
                assert!(set.len() > 0);
                for index in [0, set.len() - 1] {
                    assert_eq!(set.image(index).len(), channels * height * width);
                }
                let in_range = (0..set.len()).all(|index| set.label(index) < 10);
                assert_eq!(set.check_labels(10).is_ok(), in_range);
            }
        },
    );
}

/// Writes the checksums anew that a ZIP archive's directory has of its stored entries, so that damage gets past them.
fn with_right_checksums(archive: &mut [u8]) {
    let word = |bytes: &[u8], at: usize, length: usize| {
        bytes
            .get(at..at + length)
            .map(|part| part.iter().rev().fold(0_usize, |word, &byte| (word << 8) | usize::from(byte)))
    };
    let mut at = 0;
    while let Some(next) = archive.get(at..).and_then(|rest| rest.windows(4).position(|four| four == b"PK\x01\x02")) {
        at += next;
        let content = (|| {
            let (size, header) = (word(archive, at + 20, 4)?, word(archive, at + 42, 4)?);
            let start = header + 30 + word(archive, header + 26, 2)? + word(archive, header + 28, 2)?;
            archive.get(start..start.checked_add(size)?).map(crc32fast::hash)
        })();
        if let (Some(checksum), Some(place)) = (content, archive.get_mut(at + 16..at + 20)) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        at += 4;
    }
}

#[test]
fn damaged_networks() {
    let names =
        ["tiny-scripted.pt", "tiny-traced.pt", "flattens-scripted.pt", "no-sites.pt", "two-inputs.pt", "state-dict.pt"];
    let seeds: Vec<Vec<u8>> = names.iter().map(|name| fs::read(fixture(name)).unwrap()).collect();
    let folder = tempdir().unwrap();
    let path = folder.path().join("network.pt");
    fuzz(
        "networks",
        60,
        &seeds,
        &["None", "forward", "self", "torch", "[]", "return", "int", "Tensor"],
        |input, random| {
            let mut archive = input.to_vec();
            // Half of the damage keeps the archive's layout, so that it reaches the code and the weights behind it.
            if random.random() {
                archive = seeds[random.random_range(0..seeds.len())].clone();
                for _ in 0..random.random_range(1..=6) {
                    let at = random.random_range(0..archive.len() - 16);
                    let from = random.random_range(0..archive.len() - 16);
                    let length = random.random_range(1..16);
                    archive.copy_within(from..from + length, at);
                }
                with_right_checksums(&mut archive);
            }
            fs::write(&path, &archive).unwrap();
            if let Err(error) = Model::load(&path, [3, 32, 32], Device::Cpu) {
                assert!(!error.to_string().contains("frame #"), "{error}");
            }
        },
    );
}

#[test]
fn damaged_checkpoints() {
    let folder = tempdir().unwrap();
    let recipe = format!(
        "version: 1\ndevice: cpu\nmodel: {{path: {}, input: 3x32x32}}\ndata: {{kind: synthetic, images: 64, batch_size: 32}}\nstages:\n  - {{stage: calibrate, images: 64, sensitivity_images: 32}}\n  - {{stage: search, length: 4st, target_bits: 3}}\n",
        fixture("tiny-scripted.pt").display()
    );
    write_recipe(folder.path(), &recipe);
    dimbit_in(folder.path(), &["run", "recipe.yaml", "--out", "run", "--quiet"]).fine();
    let run = folder.path().join("run");
    let files: Vec<(PathBuf, Vec<u8>)> = ["final.json", "final.safetensors"]
        .map(|name| run.join("checkpoints").join(name))
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let seeds: Vec<Vec<u8>> = files.iter().map(|(_, right)| right.clone()).collect();
    let words = ["null", "-1", "0", "1e999", "99999999999", "[]", "{}", "\"\"", "F32", "I64", "true"];
    fuzz("checkpoints", 60, &seeds, &words, |input, _| {
        let index = usize::from(!input.starts_with(b"{"));
        fs::write(&files[index].0, input).unwrap();
        // A message is all that damage may lead to; a changed weight is none.
        let _ = open_run(&run, &[], Split::Validation).map_err(|error| error.to_string());
        fs::write(&files[index].0, &files[index].1).unwrap();
    });
}
