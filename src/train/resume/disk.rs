//! A checkpoint on disk: a folder with `state.json`, `state.safetensors`, and `manifest.json`, which names the SHA-256 of
//! both and of files that checkpoints share.
//!
//! It is written under another name, brought to disk and renamed: there is a whole one or none. Whoever reads it compares
//! the digests first, so that a damaged one is refused and never half believed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::state::State;
use crate::train::folder::sha256;

const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
const TENSORS: &str = "state.safetensors";

/// Changes when older programs can't read what newer ones write, or the other way round.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    /// SHA-256 of the files in this folder.
    files: BTreeMap<String, String>,
    /// SHA-256 of files beside this folder.
    shared: BTreeMap<String, String>,
}

/// Tensors by name, on the CPU.
pub type Tensors = BTreeMap<String, Tensor>;

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Checkpoint {
    /// What was taken down.
    pub state: State,
    /// Its tensors.
    pub tensors: Tensors,
    /// Those of the shared files, by the files' names.
    pub shared: BTreeMap<String, Tensors>,
    /// SHA-256 of the shared files.
    pub shared_sha256: BTreeMap<String, String>,
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Brings a file, or the names within a folder, to the disk.
fn sync(path: &Path) -> Result<(), String> {
    File::open(path).and_then(|file| file.sync_all()).map_err(text)
}

/// Writes a checkpoint as the folder `path`; `shared`: SHA-256 of the files beside it that it needs.
///
/// # Errors
/// The reason. Nothing is left of it then.
pub fn write(
    path: &Path,
    state: &State,
    tensors: &[(String, Tensor)],
    shared: &BTreeMap<String, String>,
) -> Result<(), String> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = parent.join(format!(".{name}.tmp"));
    let fill = || -> Result<(), String> {
        fs::create_dir_all(&partial).map_err(text)?;
        Tensor::write_safetensors(tensors, partial.join(TENSORS)).map_err(text)?;
        sync(&partial.join(TENSORS))?;
        let mut files = BTreeMap::from([(TENSORS.to_owned(), digest(&partial.join(TENSORS))?)]);
        let json = serde_json::to_vec(state).map_err(text)?;
        files.insert(STATE.to_owned(), sha256(&json));
        put(&partial.join(STATE), &json)?;
        let manifest = Manifest { format: FORMAT, files, shared: shared.clone() };
        put(&partial.join(MANIFEST), &serde_json::to_vec(&manifest).map_err(text)?)?;
        sync(&partial)?;
        fs::rename(&partial, path).map_err(text)?;
        sync(parent)
    };
    let written = fill();
    if written.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// Writes a file of tensors that several checkpoints share; there is a whole one or none. Returns its SHA-256.
///
/// # Errors
/// The reason.
pub fn write_shared(path: &Path, tensors: &[(String, Tensor)]) -> Result<String, String> {
    let partial = path.with_extension("tmp");
    let fill = || -> Result<String, String> {
        Tensor::write_safetensors(tensors, &partial).map_err(text)?;
        sync(&partial)?;
        let digest = digest(&partial)?;
        fs::rename(&partial, path).map_err(text)?;
        sync(path.parent().unwrap_or(Path::new(".")))?;
        Ok(digest)
    };
    let written = fill();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    File::create(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all())).map_err(text)
}

fn digest(path: &Path) -> Result<String, String> {
    crate::train::folder::sha256_of_file(path).map_err(text)
}

/// Reads the checkpoint in the folder `path`.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence that begins with its path.
pub fn read(path: &Path) -> Result<Checkpoint, String> {
    let unreadable = |name: &str, error: &dyn Display| format!("{name} can't be read: {error}");
    let bytes = fs::read(path.join(MANIFEST)).map_err(|e| unreadable(MANIFEST, &e))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| unreadable(MANIFEST, &e))?;
    if manifest.format != FORMAT {
        return Err(format!("has format {}, this program reads {FORMAT}", manifest.format));
    }
    let is_whole = |name: &str, at: &Path, wanted: Option<&String>| match wanted {
        Some(wanted) if *wanted == digest(at).map_err(|e| unreadable(name, &e))? => Ok(()),
        _ => Err(format!("{name} is damaged (another SHA-256 than when it was written)")),
    };
    for name in [STATE, TENSORS] {
        is_whole(name, &path.join(name), manifest.files.get(name))?;
    }
    let json = fs::read(path.join(STATE)).map_err(|e| unreadable(STATE, &e))?;
    let state: State = serde_json::from_slice(&json).map_err(|e| unreadable(STATE, &e))?;
    let tensors = |name: &str, at: &Path| -> Result<Tensors, String> {
        Ok(Tensor::read_safetensors(at).map_err(|e| unreadable(name, &e))?.into_iter().collect())
    };
    let mut shared = BTreeMap::new();
    for (name, wanted) in &manifest.shared {
        let at = path.with_file_name(name);
        is_whole(name, &at, Some(wanted))?;
        shared.insert(name.clone(), tensors(name, &at)?);
    }
    Ok(Checkpoint { state, tensors: tensors(TENSORS, &path.join(TENSORS))?, shared, shared_sha256: manifest.shared })
}

#[cfg(test)]
pub(super) mod samples {
    //! A checkpoint that the tests of this room share.

    use super::*;

    /// A state after `step` steps.
    pub fn state(step: u64) -> State {
        let json = serde_json::json!({
            "dimbit_version": "0.1.0", "recipe_sha256": "ab", "model_sha256": "cd",
            "machine": {"libtorch": "2.11.0", "device": "cpu", "threads": 1},
            "train_images": 64, "validation_images": 32, "stage": 1, "step": step, "epochs": 2, "images": 96,
            "training_seconds": "1.5", "seconds": "2.5", "float_top1": 81.25,
            "mark": {"metrics_bytes": 1000, "tensorboard_records": 9},
            "learning": ["network.conv.weight"], "with_gradient": [], "compressor": null, "fit": null
        });
        serde_json::from_value(json).unwrap()
    }

    /// Tensors of every kind that is stored.
    pub fn tensors() -> Vec<(String, Tensor)> {
        vec![
            ("network.conv.weight".to_owned(), Tensor::from_slice(&[1.5_f32, -2.0, f32::MIN_POSITIVE])),
            ("codec.cost".to_owned(), Tensor::from_slice(&[0.1_f64, f64::INFINITY]).reshape([1, 2])),
            ("network.num_batches_tracked".to_owned(), Tensor::from(7_i64)),
            ("generator.cpu".to_owned(), Tensor::from_slice(&[3_u8, 255])),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let digest = write_shared(&folder.path().join("teacher.safetensors"), &samples::tensors()).unwrap();
        let shared = BTreeMap::from([("teacher.safetensors".to_owned(), digest)]);
        write(&folder.path().join("state-000003"), &samples::state(5), &samples::tensors(), &shared).unwrap();
        folder
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let folder = written();
        let found = read(&folder.path().join("state-000003")).unwrap();
        assert_eq!(serde_json::to_value(&found.state).unwrap(), serde_json::to_value(samples::state(5)).unwrap());
        for tensors in [&found.tensors, &found.shared["teacher.safetensors"]] {
            assert_eq!(tensors.len(), 4);
            for (name, tensor) in samples::tensors() {
                assert!(tensors[&name] == tensor && tensors[&name].kind() == tensor.kind(), "{name}");
            }
        }
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent/state-000001");
        fs::write(folder.path().join("absent"), "a file").unwrap();
        assert!(write(&path, &samples::state(5), &samples::tensors(), &BTreeMap::new()).is_err());
        // A name that is taken.
        let path = folder.path().join("state-000001");
        fs::create_dir_all(path.join("something")).unwrap();
        assert!(write(&path, &samples::state(5), &samples::tensors(), &BTreeMap::new()).is_err());
        assert!(!folder.path().join(".state-000001.tmp").exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn damage_is_an_error_wherever_it_is(file in 0_usize..4, at in any::<prop::sample::Index>(), flip in any::<u8>()) {
            let folder = written();
            let state = folder.path().join("state-000003");
            let path = match file {
                0 => state.join(MANIFEST),
                1 => state.join(STATE),
                2 => state.join(TENSORS),
                _ => folder.path().join("teacher.safetensors"),
            };
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            // A flip of nothing stands for a file that was cut off.
            if flip == 0 { bytes.truncate(at) } else { bytes[at] ^= flip }
            fs::write(&path, bytes).unwrap();
            prop_assert!(read(&state).is_err());
        }
    }
}
