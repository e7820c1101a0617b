//! What the tests of exports share, whatever the format.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

use super::{Run, dimbit_in, number, root};

/// A folder that outlives the tests of a file: made anew each time.
pub fn fresh_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Exports a run; hands back the file and what was printed.
pub fn export_as(format: &str, run: &Run, name: &str, options: &[&str]) -> (PathBuf, String) {
    let file = run.folder.join(name);
    let all = [&["export", "run", "--format", format, "--out", file.to_str().unwrap()], options].concat();
    let said = dimbit_in(&run.folder, &all).fine();
    (file, said)
}

/// What a user may rely on: the same predictions on the whole validation split, and no code that differs but by rounding.
#[track_caller]
pub fn agrees(run: &Run, file: &Path) -> Json {
    let found = dimbit_in(&run.folder, &["verify", "run", "--against", file.to_str().unwrap(), "--json"]).json();
    assert_eq!(found["images"], 1000, "{found}");
    assert!(found["first_difference"].is_null(), "{found}");
    assert!(number(&found, "agree") >= 998.0, "{found}");
    assert_eq!(number(&found, "unexplained"), 0.0, "{found}");
    assert!((number(&found, "top1_run") - number(&run.summary(), "top1")).abs() < 1e-9, "{found}");
    found
}

/// The project's Python, which has torch, ONNX and ONNX Runtime. A user's own libtorch may come without one: then there is
/// nothing to test with.
pub fn python() -> Option<PathBuf> {
    let python = root().join(".venv/bin/python");
    if !python.exists() {
        eprintln!("skipped: {} is missing", python.display());
        return None;
    }
    Some(python)
}

/// What the project's Python prints.
pub fn run_python(arguments: &[&str]) -> Option<String> {
    let output = Command::new(python()?).args(arguments).env("OMP_NUM_THREADS", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}
