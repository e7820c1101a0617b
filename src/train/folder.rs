//! A run's folder.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::TrainError;
use crate::report::ReportError;

/// Paths within a run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    /// The folder.
    pub path: PathBuf,
}

impl RunFolder {
    /// Makes the folder `asked`, or the first free one of `runs/<name>`, `runs/<name>-2`, … without it.
    ///
    /// # Errors
    /// If an asked folder holds files already, or can't be made.
    pub fn create(asked: Option<&Path>, name: &str) -> Result<Self, TrainError> {
        let path = match asked {
            Some(path) => path.to_path_buf(),
            None => free_folder(name),
        };
        let error = |reason: String, help| TrainError::Folder { path: path.clone(), reason, help };
        let used = match fs::read_dir(&path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(error(e.to_string(), "give a folder that can be written with --out")),
        };
        if used {
            return Err(error("the folder isn't empty".into(), "give another folder with --out, or remove this one"));
        }
        fs::create_dir_all(path.join("checkpoints"))
            .map_err(|e| error(e.to_string(), "give a folder that can be written with --out"))?;
        Ok(Self { path })
    }

    /// An existing folder.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    /// Writes a file by `write` under a temporary name, brings it to disk, and only then gives it its name.
    ///
    /// # Errors
    /// [`ReportError::Write`], or what `write` fails with.
    pub fn publish<E>(&self, name: &str, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), TrainError>
    where
        TrainError: From<E>,
    {
        let (path, partial) = (self.file(name), self.file(&format!("{name}.tmp")));
        write(&partial)?;
        let publish = || fs::File::open(&partial)?.sync_all().and_then(|()| fs::rename(&partial, &path));
        publish().map_err(|source| ReportError::Write { path: path.clone(), source })?;
        Ok(())
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn free_folder(name: &str) -> PathBuf {
    let base = Path::new("runs").join(name);
    let numbered = (2..).map(|n| Path::new("runs").join(format!("{name}-{n}")));
    std::iter::once(base.clone()).chain(numbered).find(|path| !path.exists()).unwrap_or(base)
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file's content.
///
/// # Errors
/// If it can't be read.
pub fn sha256_of_file(path: &Path) -> Result<String, TrainError> {
    let error = |e: std::io::Error| TrainError::Folder {
        path: path.to_path_buf(),
        reason: e.to_string(),
        help: "check the path and its permissions",
    };
    let mut file = fs::File::open(path).map_err(error)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(error)? {
            0 => return Ok(hex(&digest.finalize())),
            count => digest.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
