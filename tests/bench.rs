//! `dimbit bench`, as a user calls it. Times are not judged: they are the machine's.

mod common;

use std::process::{Command, Stdio};

use common::{dimbit, fixture, number};
use serde_json::Value as Json;

fn bench(extra: &[&str]) -> common::Ended {
    let model = fixture("tiny-scripted.pt");
    let fixed = ["bench", model.to_str().unwrap(), "--input", "3x32x32", "--batch", "4", "--device", "cpu"];
    dimbit(&[&fixed, extra].concat())
}

fn names(report: &Json) -> Vec<&str> {
    report["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

#[test]
fn every_row_has_its_time_and_its_peak() {
    let report = bench(&["--steps", "2", "--threads", "1", "--target-bits", "2.5", "--json"]).json();
    assert_eq!(names(&report), ["float", "quantizer", "joint", "joint-target"]);
    assert_eq!((&report["network"], &report["input"]), (&"tiny-scripted".into(), &"3x32x32".into()));
    assert_eq!((&report["device"], &report["batch"], &report["threads"]), (&"cpu".into(), &4.into(), &1.into()));
    let rows = report["rows"].as_array().unwrap();
    for row in rows {
        let [low, high] = [0, 1].map(|quartile| row["quartiles_ms"][quartile].as_f64().unwrap());
        let median = number(row, "median_ms");
        assert!(0.0 < low && low <= median && median <= high && high.is_finite(), "{row}");
        assert!((number(row, "ratio_to_float") - median / number(&rows[0], "median_ms")).abs() < 1e-9, "{row}");
        // The program with libtorch takes tens of megabytes; a ratio far from 1 would be another process's peak.
        assert!(number(row, "peak_bytes") > 1e7, "{row}");
        assert!((0.5..4.0).contains(&number(row, "peak_ratio_to_float")), "{row}");
    }
    let of = |key: &str| rows.iter().map(|row| number(row, key)).collect::<Vec<_>>();
    let (bits, dropped, macs) = (of("bits_per_value"), of("dropped_fraction"), of("extra_macs_percent"));
    // A search starts at 8 bits at most with nothing dropped, and ends at its target.
    assert!(bits[0] == 32.0 && bits[1..3].iter().all(|b| (6.0..=8.0).contains(b)) && bits[3] <= 2.5, "{bits:?}");
    assert_eq!(dropped[..3], [0.0; 3]);
    assert!(dropped[3] > 0.0, "{dropped:?}");
    assert_eq!(macs[..2], [0.0; 2]);
    // Of PCA everywhere, what is left at the target.
    assert!(macs[2] > macs[3], "{macs:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn freed_memory_is_kept_for_the_next_step() {
    // Elsewhere a step takes a tenth longer, or a fifth more memory: said nowhere, seen by nobody.
    let options = Command::new(env!("CARGO_BIN_EXE_dimbit"))
        .arg("--version")
        .env("MALLOC_CONF", "stats_print:true")
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&options.stderr);
    for option in ["opt.oversize_threshold: 0", "opt.dirty_decay_ms: -1 "] {
        assert!(said.contains(option), "{option} is not in {said}");
    }
}

#[test]
fn a_few_rows_as_a_table_without_memory() {
    let text = bench(&[
        "--steps",
        "1",
        "--rows",
        "joint",
        "--transform",
        "auto",
        "--distillation",
        "--no-memory",
        "--placement",
        "auto",
        "--freeze-batch-norm",
    ])
    .fine();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("tiny-scripted · 3x32x32, batch 4 · cpu"), "{text}");
    assert!(lines[0].ends_with("1 round, with the float network beside"), "{text}");
    assert!(lines[3].starts_with("float") && lines[4].starts_with("joint") && lines.len() == 5, "{text}");
}

#[test]
fn a_driver_sets_the_pace() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dimbit"))
        .args(["bench", fixture("tiny-scripted.pt").to_str().unwrap(), "--input", "3x32x32", "--batch", "2"])
        .args(["--device", "cpu", "--steps", "1", "--rows", "quantizer", "--no-memory", "--paced"])
        .env("OMP_NUM_THREADS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    use std::io::{BufRead, BufReader, Write};
    let (mut driver, mut lines) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    for round in 0..4 {
        writeln!(driver).unwrap();
        let line: Json = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!((&line["round"], &line["counts"]), (&round.into(), &(round == 3).into()));
        assert!(number(&line["ms"], "float") > 0.0 && number(&line["ms"], "quantizer") > 0.0, "{line}");
    }
    let report: Json = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(names(&report), ["float", "quantizer"]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn wrong_input_is_told_before_anything_is_measured() {
    let tiny = ["bench", "tests/fixtures/tiny-scripted.pt", "--input", "3x32x32"];
    let refused = |extra: &[&str], causes: &[&str]| dimbit(&[&tiny, extra].concat()).refused(2, causes);
    refused(&["--rows", "float,jiont"], &["there is no row `jiont` (did you mean `joint`?)", "joint-target"]);
    refused(&["--batch", "0"], &["'0' for '--batch <N>'", "1..=65536"]);
    refused(&["--steps", "0"], &["'0' for '--steps <N>'"]);
    refused(&["--target-bits", "9"], &["above 0 and at most 8"]);
    refused(&["--max-mac-overhead=-1"], &["a percentage is a number from 0 on"]);
    dimbit(&["bench", tiny[1], "--input", "3x9"]).refused(2, &["`3x9` is not an input shape"]);
    dimbit(&["bench", tiny[1], "--input", "2x32x32"]).refused(1, &["[1, 2, 32, 32]"]);
    dimbit(&["bench", "no-such.pt", "--input", "3x32x32"]).refused(1, &["no-such.pt"]);
    dimbit(&["bench", "tests/fixtures/no-sites.pt", "--input", "3x32x32"]).refused(1, &["activation"]);
}

#[test]
fn a_state_that_is_gone_is_an_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("joint");
    bench(&["--peak-of", state.to_str().unwrap()]).refused(1, &["state.json", "temporary files"]);
    bench(&["--peak-of", folder.path().join("x").to_str().unwrap()]).refused(1, &["there is no row `x`"]);
}
