//! What `validate` says of recipes that don't fit their network or their images: all of it, as a user sees it.

mod common;

use std::fs;

use common::{dimbit_in, fixture, head, images, root, stages, tiny, write_recipe};
use tempfile::tempdir;

/// The whole of stderr, with the project's folder left out.
fn said(recipe: &str) -> String {
    let folder = tempdir().unwrap();
    write_recipe(folder.path(), recipe);
    let ended = dimbit_in(folder.path(), &["validate", "recipe.yaml"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    ended.stderr.replace(root().to_str().unwrap(), "").replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn all_that_does_not_fit_is_said_at_once() {
    let sites = "sites:\n  include: [\"block.*\", /^mixer/, rleu]\n  exclude:\n    - /layer(4|5)/\n    - mixer.relu\n";
    let absent = tiny().replace("tiny-scripted.pt", "tiny-scriptde.pt").replace(images().to_str().unwrap(), "nowhere");
    let labels = tempdir().unwrap();
    for entry in fs::read_dir(images()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, labels.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::write(labels.path().join("train-labels-idx1-ubyte.gz"), b"no labels").unwrap();
    let damaged = tiny().replace(images().to_str().unwrap(), labels.path().to_str().unwrap());
    let warmup = "stages:\n  - {stage: train, length: 1ep, warmup: 500st}\n";
    let said = [
        ("patterns that match no site", said(&format!("{}{sites}{}", head("tiny-scripted.pt"), stages(2.5)))),
        ("neither network nor images", said(&absent)),
        (
            "a traced network that shall be trained, and another input",
            said(&(head("tiny-traced.pt").replace("3x32x32", "3x16x16") + &stages(2.5))),
        ),
        ("a warm-up that only the images tell to be too long", said(&(head("tiny-scripted.pt") + warmup))),
        ("labels that are none", said(&damaged).replace(labels.path().to_str().unwrap(), "/images")),
        ("a network that is none", said(&tiny().replace(fixture("tiny-scripted.pt").to_str().unwrap(), "recipe.yaml"))),
    ];
    let all: Vec<String> = said.iter().map(|(what, said)| format!("# {what}\n\n{said}")).collect();
    insta::assert_snapshot!("does_not_fit", all.join("\n"));
}
