//! `dimbit run` under real signals, locks and full disks, and what `--resume` makes of what they leave.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use common::logs::{assert_same, copy};
use common::{Ended, Run, dimbit_in, head, read_json, stages, write_recipe};
use tempfile::{TempDir, tempdir};

/// Some hundred steps in all stages.
fn recipe() -> String {
    let stages = stages(2.5).replace("length: 12st", "length: 60st").replace("length: 20st", "length: 60st");
    head("tiny-scripted.pt") + &stages.replace("length: 8st", "length: 40st")
}

/// The run that nothing disturbs.
fn undisturbed() -> &'static Path {
    static FOLDER: OnceLock<std::path::PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("undisturbed-run");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        Run::within(&folder, &recipe()).summary();
        folder.join("run")
    })
}

const START: [&str; 7] = ["run", "recipe.yaml", "--out", "run", "--quiet", "--checkpoint-every", "7st"];
const RESUME: [&str; 7] = ["run", "--resume", "--out", "run", "--quiet", "--checkpoint-every", "7st"];

/// Starts the program in `folder` without waiting for it.
fn start(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_dimbit"))
        .args(arguments)
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ended(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Waits until the events tell of `what`, or the program has ended.
fn await_event(folder: &Path, child: &mut Child, what: &str) {
    let told = || fs::read_to_string(folder.join("run/metrics.jsonl")).is_ok_and(|text| text.contains(what));
    while child.try_wait().unwrap().is_none() && !told() {
        sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(sent.success());
}

fn fresh() -> TempDir {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &recipe());
    folder
}

#[test]
fn a_signal_ends_a_run_with_3_and_the_command_that_resumes_it() {
    for (name, moment) in [("TERM", "\"stage\":\"search\",\"stage_step\""), ("INT", "\"stage\":\"calibrate\"")] {
        let folder = fresh();
        let mut child = start(folder.path(), &START);
        await_event(folder.path(), &mut child, moment);
        signal(&child, name);
        let stopped = ended(child);
        assert_eq!(stopped.code, Some(3), "{stopped:?}");
        assert!(stopped.stdout.is_empty() && !stopped.stderr.contains("panicked"), "{stopped:?}");
        assert!(stopped.stderr.lines().any(|line| line.trim().starts_with("saved: all ")), "{stopped:?}");
        let command = stopped.stderr.lines().find_map(|line| line.trim().strip_prefix("resume: ")).unwrap();
        assert_eq!(command, "dimbit run --resume --out run");
        // As a person would: pasted into a shell.
        let program = Path::new(env!("CARGO_BIN_EXE_dimbit")).parent().unwrap().display();
        let line = format!("PATH={program}:$PATH OMP_NUM_THREADS=1 {command} --quiet");
        let resumed = Command::new("sh").args(["-c", &line]).current_dir(folder.path()).output().unwrap();
        assert!(resumed.status.success(), "{resumed:?}");
        assert_same(undisturbed(), &folder.path().join("run"));
    }
}

#[test]
fn a_program_is_told_what_is_saved_as_well() {
    let folder = fresh();
    let mut child = start(folder.path(), &[&START[..], &["--json"]].concat());
    await_event(folder.path(), &mut child, "\"stage\":\"search\",\"stage_step\"");
    signal(&child, "INT");
    let found: serde_json::Value = serde_json::from_str(&ended(child).stdout).unwrap();
    let finding = &found["findings"][0];
    assert_eq!(finding["code"], "interrupted");
    assert!(finding["message"].as_str().unwrap().starts_with("interrupted in the stage `search`"), "{found:#}");
    let help = finding["help"].as_str().unwrap();
    assert!(
        help.starts_with("saved: all up to step ") && help.ends_with("; resume: dimbit run --resume --out run"),
        "{help}"
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = fresh();
    let mut child = start(folder.path(), &START);
    await_event(folder.path(), &mut child, "\"stage\":\"train\"");
    signal(&child, "INT");
    signal(&child, "TERM");
    // Whichever comes first, the step's end or the second signal.
    assert_eq!(ended(child).code, Some(3));
    dimbit_in(folder.path(), &RESUME).fine();
    assert_same(undisturbed(), &folder.path().join("run"));
}

#[test]
fn a_run_that_is_killed_over_and_over_ends_in_the_same_bits() {
    let folder = fresh();
    let mut kills = 0;
    // A little further each time, so that the run gets on on every machine.
    let mut moment = 0.1;
    loop {
        let arguments = match kills {
            0 => START,
            _ => ["run", "recipe.yaml", "--resume", "--out", "run", "--quiet", "--json"],
        };
        let mut child = start(folder.path(), &arguments);
        await_event(folder.path(), &mut child, "\"event\":\"step\"");
        sleep(Duration::from_secs_f64(moment));
        moment *= 1.25;
        child.kill().unwrap();
        match ended(child).code {
            None => kills += 1,
            Some(code) => {
                assert_eq!(code, 0);
                break;
            }
        }
    }
    assert!(kills > 0);
    assert_same(undisturbed(), &folder.path().join("run"));
}

/// A folder with a run that was stopped in its search.
fn stopped() -> &'static Path {
    static FOLDER: OnceLock<std::path::PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stopped-run");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        write_recipe(&folder, &recipe());
        let mut child = start(&folder, &START);
        await_event(&folder, &mut child, "\"stage\":\"search\",\"stage_step\"");
        signal(&child, "TERM");
        assert_eq!(ended(child).code, Some(3));
        folder
    })
}

fn copy_of_stopped() -> TempDir {
    let folder = tempdir().unwrap();
    copy(stopped(), folder.path());
    folder
}

#[test]
fn another_recipe_is_refused_and_named() {
    let folder = copy_of_stopped();
    let changed = recipe().replace("target_bits: 2.5", "target_bits: 2.25").replace("seed: 3", "seed: 4");
    fs::write(folder.path().join("other.yaml"), changed).unwrap();
    let metrics = fs::read(folder.path().join("run/metrics.jsonl")).unwrap();
    let arguments = ["run", "other.yaml", "--resume", "--out", "run", "--quiet"];
    dimbit_in(folder.path(), &arguments).refused(
        1,
        &[
            "another recipe",
            "`stages[2].target_bits` is 2.5 there and 2.25 here",
            "`seed` is 3 there and 4 here",
            "help:",
        ],
    );
    assert_eq!(fs::read(folder.path().join("run/metrics.jsonl")).unwrap(), metrics, "nothing was touched");
    // Without --resume, the folder is not touched either.
    let arguments = ["run", "recipe.yaml", "--out", "run", "--quiet"];
    dimbit_in(folder.path(), &arguments).refused(1, &["there is a run in the folder", "--resume"]);
    // The folder's own recipe, changed by hand.
    let resolved = folder.path().join("run/recipe.resolved.yaml");
    let text = fs::read_to_string(&resolved).unwrap();
    fs::write(&resolved, text.replace("tiny-scripted.pt", "tiny-traced.pt")).unwrap();
    dimbit_in(folder.path(), &RESUME).refused(1, &["another recipe", "SHA-256"]);
}

#[test]
fn a_folder_is_one_runs_alone() {
    let folder = copy_of_stopped();
    let lock = File::options().write(true).open(folder.path().join("run/.lock")).unwrap();
    lock.try_lock().unwrap();
    dimbit_in(folder.path(), &RESUME).refused(1, &["in use by another run", "help:"]);
    dimbit_in(folder.path(), &START).refused(1, &["there is a run in the folder"]);
    // The lock goes with its holder; the file that is left is none.
    drop(lock);
    dimbit_in(folder.path(), &RESUME).fine();
    assert_same(undisturbed(), &folder.path().join("run"));
    let again = dimbit_in(folder.path(), &["run", "--resume", "--out", "run", "--json"]);
    assert!(again.stderr.contains("has ended already"), "{again:?}");
    assert_eq!(again.json(), read_json(&folder.path().join("run/summary.json")));
}

/// The checkpoints in a folder, half written ones included.
fn states(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("run/checkpoints")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.contains("state-")).collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_that_does_not_fit_on_the_disk_costs_nothing_before_it() {
    let text = recipe().replace("  - {stage: train, length: 60st}\n", "");
    let (reference, folder) = (tempdir().unwrap(), tempdir().unwrap());
    write_recipe(reference.path(), &text);
    write_recipe(folder.path(), &text);
    let mut child = start(reference.path(), &START);
    await_event(reference.path(), &mut child, "\"stage\":\"search\",\"stage_step\"");
    signal(&child, "TERM");
    assert_eq!(ended(child).code, Some(3));
    let newest = states(reference.path()).pop().unwrap();
    let newest = reference.path().join("run/checkpoints").join(newest).join("state.safetensors");
    // At the end of a stage there are neither velocities nor moments: with half of their size less, files may become as
    // large as that checkpoint, but not as one within the search. A process that ignores SIGXFSZ is told by its writes.
    let tensors = tch::Tensor::read_safetensors(&newest).unwrap();
    let optimizers = tensors.iter().filter(|(name, _)| name.starts_with("velocity.") || name.starts_with("adam."));
    let bytes: usize = optimizers.map(|(_, tensor)| 4 * tensor.numel()).sum();
    let blocks = (fs::metadata(&newest).unwrap().len() - bytes as u64 / 2) / 512;
    dimbit_in(reference.path(), &RESUME).fine();
    let line = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &line, env!("CARGO_BIN_EXE_dimbit")])
        .args(START)
        .current_dir(folder.path())
        .env("OMP_NUM_THREADS", "1")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let failed = Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    failed.refused(4, &["can't be written", "File too large", "make room", "kept: all up to", "--resume --out run"]);
    assert_eq!(states(folder.path()), ["state-000000"], "nothing half written is left");
    dimbit_in(folder.path(), &RESUME).fine();
    assert_same(&reference.path().join("run"), &folder.path().join("run"));
}

#[test]
fn folders_that_cannot_be_written_are_told_before_the_training() {
    let folder = fresh();
    fs::write(folder.path().join("file"), "").unwrap();
    for out in ["file/run", "file", "/proc/self/run"] {
        for resume in [&["--resume"][..], &[]] {
            let arguments = [&["run", "recipe.yaml", "--out", out, "--quiet"][..], resume].concat();
            dimbit_in(folder.path(), &arguments).refused(1, &[out, "help:"]);
        }
    }
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"");
}

#[test]
fn folders_without_a_run() {
    let folder = fresh();
    dimbit_in(folder.path(), &RESUME)
        .refused(1, &["run holds no run to resume", "dimbit run RECIPE --resume --out run"]);
    assert!(!folder.path().join("run").exists());
    fs::create_dir(folder.path().join("letters")).unwrap();
    fs::write(folder.path().join("letters/a.txt"), "mine").unwrap();
    let arguments = ["run", "recipe.yaml", "--resume", "--out", "letters"];
    dimbit_in(folder.path(), &arguments).refused(1, &["holds files, but no run"]);
    assert_eq!(fs::read_dir(folder.path().join("letters")).unwrap().count(), 1, "nothing was put beside them");
    // With a recipe, a run that isn't there yet begins: a job may always be started by the same command.
    write_recipe(folder.path(), &(head("tiny-scripted.pt") + "stages: [{stage: train, length: 3st}]\n"));
    dimbit_in(folder.path(), &["run", "recipe.yaml", "--resume", "--out", "run", "--quiet"]).fine();
}

#[test]
fn command_lines_that_can_not_be_meant() {
    let folder = fresh();
    for arguments in [
        &["run"][..],
        &["run", "--resume"],
        &["run", "recipe.yaml", "--resume"],
        &["run", "--resume", "--out", "run", "--set", "seed=1"],
        &["run", "recipe.yaml", "--checkpoint-every", "0st"],
        &["run", "recipe.yaml", "--checkpoint-every", "often"],
        &["run", "recipe.yaml", "--keep-checkpoints", "0"],
    ] {
        let refused = dimbit_in(folder.path(), arguments);
        assert_eq!(refused.code, Some(2), "{arguments:?}: {refused:?}");
    }
}
