//! What the program tells shells, `man`, and whoever reads its output by a program.

mod common;

use std::process::Command;

use common::{dimbit, dimbit_in, head, stages, tiny, write_recipe};
use tempfile::tempdir;

#[test]
fn completions_know_the_commands_and_the_manual_describes_them() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = dimbit(&["completions", shell]).fine();
        for command in ["inspect", "validate", "recipes"] {
            assert!(script.contains(command), "{shell}");
        }
    }
    dimbit(&["completions", "csh"]).refused(2, &["csh", "possible values"]);
    let page = dimbit(&["man"]).fine();
    assert!(page.starts_with(".ie") || page.contains(".TH"), "{page}");
    assert!(page.contains("dimbit") && page.contains("SUBCOMMANDS"), "{page}");
    let page = dimbit(&["man", "run"]).fine();
    assert!(page.contains("\\-\\-out") && page.contains("KEY.PATH=VALUE"), "{page}");
    dimbit(&["man", "fly"]).refused(1, &["no command `fly`", "help:"]);
}

#[test]
fn a_shell_takes_the_completions() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("dimbit.bash");
    std::fs::write(&path, dimbit(&["completions", "bash"]).fine()).unwrap();
    let script = format!(
        "source {} && COMP_WORDS=(dimbit ins) COMP_CWORD=1 && _dimbit dimbit ins dimbit && echo ${{COMPREPLY[@]}}",
        path.display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "inspect", "{output:?}");
}

#[test]
fn findings_can_be_read_by_a_program() {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &tiny());
    let fine = dimbit_in(folder.path(), &["validate", "recipe.yaml", "--json"]).json();
    assert_eq!((&fine["findings"], &fine["mode"]), (&serde_json::json!([]), &"joint".into()));
    // Of both passes: about the form, and about the network.
    let network = format!("{}sites: {{exclude: [zzz]}}\n{}", head("tiny-scripted.pt"), stages(2.5));
    for (text, code) in [(tiny().replace("seed", "sede"), "unknown-key"), (network, "no-such-site")] {
        write_recipe(folder.path(), &text);
        let ended = dimbit_in(folder.path(), &["validate", "recipe.yaml", "--json"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""), "{ended:?}");
        let found: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let finding = &found["findings"][0];
        assert_eq!((&finding["code"], &finding["file"]), (&code.into(), &"recipe.yaml".into()));
        assert!(finding["line"].is_u64() && finding["column"].is_u64() && finding["help"].is_string(), "{found:#}");
    }
}

#[test]
fn nothing_but_json_reaches_stdout_and_no_colours_reach_a_pipe() {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), &tiny());
    let ended = dimbit_in(folder.path(), &["run", "recipe.yaml", "--out", "run", "--json"]);
    assert!(ended.stderr.contains("search") && !ended.stderr.contains('\x1b'), "{}", ended.stderr);
    assert_eq!(ended.json()["status"], "complete");
}
