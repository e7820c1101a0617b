//! What the tests that drive the program share.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod exports;
pub mod logs;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;
use tempfile::{TempDir, tempdir};

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file that `tests/fixtures/make-fixtures` wrote.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// The committed images: 4,000 for training, 1,000 for validation.
pub fn images() -> PathBuf {
    root().join("data/fashion-mnist-mini")
}

/// How a call of the program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Requires success; hands back stdout.
    #[track_caller]
    pub fn fine(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Requires success and one JSON document on stdout.
    #[track_caller]
    pub fn json(self) -> Json {
        let text = self.fine();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Requires the exit code, every one of `causes` in stderr, and no trace of the program's inside.
    #[track_caller]
    pub fn refused(self, code: i32, causes: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for cause in causes {
            assert!(self.stderr.contains(cause), "stderr lacks `{cause}`:\n{}", self.stderr);
        }
        for inside in
            ["panicked", "frame #", "Stack backtrace", "stack backtrace", "terminate called", "RUST_BACKTRACE"]
        {
            assert!(!self.stderr.contains(inside), "stderr shows `{inside}`:\n{}", self.stderr);
        }
        if let Some(cause) = self.stderr.trim_end().rsplit(": ").next() {
            assert!(!self.stderr.contains(&format!("{cause}: {cause}")), "said twice:\n{}", self.stderr);
        }
        let first = self.stderr.lines().find(|line| !line.starts_with("warning: "));
        assert!(first.is_some_and(|line| line.starts_with("error")), "the error isn't said first:\n{}", self.stderr);
        assert!(self.stdout.is_empty(), "a refusal is no result: {}", self.stdout);
    }

    /// Requires of a call with `--json` what [`Self::refused`] does, and on stdout one object with one finding; hands that
    /// back.
    #[track_caller]
    pub fn refused_as_json(self, code: i32, causes: &[&str]) -> Json {
        let found: Json = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let [finding] = found["findings"].as_array().unwrap().as_slice() else { panic!("not one finding: {found:#}") };
        assert_eq!(found["omitted"], 0, "{found:#}");
        assert!(finding["code"].is_string() && finding["message"].is_string(), "{found:#}");
        Self { stdout: String::new(), ..self }.refused(code, causes);
        finding.clone()
    }
}

/// Calls the program in `folder`.
pub fn dimbit_in<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[S]) -> Ended {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_dimbit"))
        .args(arguments)
        .current_dir(folder)
        // Tests run beside each other: one thread each. Same order of sums on every machine, too.
        .env("OMP_NUM_THREADS", "1")
        // Whoever has this set must not be shown traces either.
        .env("RUST_BACKTRACE", "1")
        .timeout(Duration::from_secs(300))
        .output()
        .expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Calls the program in the project's folder.
pub fn dimbit<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Ended {
    dimbit_in(root(), arguments)
}

/// A recipe's beginning: a model fixture on the committed images.
pub fn head(model: &str) -> String {
    format!(
        "version: 1\nname: tiny\nseed: 3\ndevice: cpu\nmodel: {{path: {}, input: 3x32x32}}\ndata: {{kind: idx, path: {}, batch_size: 32, eval_batch_size: 500}}\n",
        fixture(model).display(),
        images().display()
    )
}

/// Stages of a few steps, to a budget of `bits`.
pub fn stages(bits: f64) -> String {
    format!(
        "stages:\n  - {{stage: train, length: 12st}}\n  - {{stage: calibrate, images: 128, sensitivity_images: 64}}\n  - {{stage: search, length: 20st, target_bits: {bits}}}\n  - {{stage: finetune, length: 8st}}\n"
    )
}

/// The recipe that most tests change in one place.
pub fn tiny() -> String {
    head("tiny-scripted.pt") + &stages(2.5)
}

/// Writes `recipe.yaml` into `folder`.
pub fn write_recipe(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("recipe.yaml");
    fs::write(&path, text).expect("a temporary folder can be written");
    path
}

/// Parses a JSON file.
#[track_caller]
pub fn read_json(path: &Path) -> Json {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A recipe, carried out in a folder of its own.
pub struct Run {
    pub folder: PathBuf,
    pub ended: Ended,
    /// Removes the folder in the end.
    _temporary: Option<TempDir>,
}

impl Run {
    pub fn of(recipe: &str) -> Self {
        let temporary = tempdir().unwrap();
        let run = Self::within(temporary.path(), recipe);
        Self { _temporary: Some(temporary), ..run }
    }

    pub fn within(folder: &Path, recipe: &str) -> Self {
        write_recipe(folder, recipe);
        let ended = dimbit_in(folder, &["run", "recipe.yaml", "--out", "run", "--quiet", "--json"]);
        Self { folder: folder.to_path_buf(), ended, _temporary: None }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join("run")
    }

    #[track_caller]
    pub fn summary(&self) -> Json {
        assert_eq!(self.ended.code, Some(0), "{:?}", self.ended);
        read_json(&self.path().join("summary.json"))
    }

    pub fn eval(&self) -> Json {
        dimbit_in(&self.folder, &["eval", "run", "--json"]).json()
    }
}

/// A number under a key.
#[track_caller]
pub fn number(json: &Json, key: &str) -> f64 {
    json[key].as_f64().unwrap_or_else(|| panic!("`{key}` is no number in {json}"))
}

/// Bits per value, counted anew: each channel of a site has `values / channels` values; an uncompressed value has 32 bits.
pub fn recounted(summary: &Json) -> f64 {
    let (mut bits, mut values) = (0.0, 0.0);
    for site in summary["sites"].as_array().unwrap() {
        let all = number(site, "values");
        let per_channel = all / site["shape"][0].as_f64().unwrap();
        let groups = site["groups"].as_array().unwrap();
        let mut of_site: f64 = groups.iter().map(|g| per_channel * number(g, "channels") * number(g, "bits")).sum();
        if groups.is_empty() {
            of_site = 32.0 * all;
        } else {
            let channels: f64 = groups.iter().map(|g| number(g, "channels")).sum();
            assert_eq!(channels, site["shape"][0].as_f64().unwrap(), "groups part the channels, dropped ones included");
        }
        assert!((of_site / all - number(site, "bits_per_value")).abs() < 1e-6, "{site}");
        bits += of_site;
        values += all;
    }
    bits / values
}
