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
