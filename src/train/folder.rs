//! A run's folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::TrainError;
use crate::report::ReportError;

/// A run's folder.
#[derive(Debug)]
pub struct RunFolder {
    /// The folder.
    pub path: PathBuf,
    /// Held for as long as a run works here; the system lets go of it with the process, however that ends.
    _lock: Option<File>,
}

const LOCK: &str = ".lock";
const WRITABLE: &str = "give a folder that can be written with --out";

impl RunFolder {
    /// Makes the folder `asked`, or the first free one of `runs/<name>`, `runs/<name>-2`, … without it, for this run alone.
    ///
    /// # Errors
    /// If an asked folder holds files already, is in use, or can't be made.
    pub fn create(asked: Option<&Path>, name: &str) -> Result<Self, TrainError> {
        let path = match asked {
            Some(path) => path.to_path_buf(),
            None => free_folder(name)?,
        };
        let is_free = || match used(&path)? {
            true => {
                let run = path.join("run.json").is_file();
                let reason = if run { "there is a run in the folder" } else { "the folder isn't empty" };
                let help = if run {
                    "go on with that run by --resume, give another folder with --out, or remove this one"
                } else {
                    "give another folder with --out, or remove this one"
                };
                Err(TrainError::Folder { path: path.clone(), reason: reason.into(), help })
            }
            false => Ok(()),
        };
        // Before anything is written, and once more when nobody else can.
        is_free()?;
        let folder = Self::locked(&path)?;
        is_free()?;
        folder.with_checkpoints()
    }

    /// Opens the folder of a run to go on in, for this run alone. It is made if it isn't there.
    ///
    /// # Errors
    /// If it is in use, or can't be written.
    pub fn reopen(path: &Path) -> Result<Self, TrainError> {
        Self::locked(path)?.with_checkpoints()
    }

    /// An existing folder, to be read.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf(), _lock: None }
    }

    fn locked(path: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(|e| unusable(path, &e, WRITABLE))?;
        let at = path.join(LOCK);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&at);
        let mut file = open.map_err(|e| unusable(path, &e, WRITABLE))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let by = text.trim().parse::<u32>().map_or(String::new(), |process| format!(" (process {process})"));
                return Err(TrainError::Locked { path: path.to_path_buf(), by });
            }
            Err(TryLockError::Error(e)) => {
                return Err(unusable(path, &e, "give a folder on a file system that can lock files with --out"));
            }
        }
        let noted = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        noted.map_err(|e| unusable(path, &e, WRITABLE))?;
        Ok(Self { path: path.to_path_buf(), _lock: Some(file) })
    }

    fn with_checkpoints(self) -> Result<Self, TrainError> {
        let path = self.file("checkpoints");
        fs::create_dir_all(&path).map_err(|e| unusable(&path, &e, WRITABLE))?;
        Ok(self)
    }

    /// Whether the folder holds nothing, or no more than a run leaves that was killed before its `run.json`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn is_fresh(&self) -> Result<bool, TrainError> {
        let begun = [LOCK, "checkpoints", "recipe.yaml", "recipe.resolved.yaml"];
        let known = |name: &str| begun.contains(&name) || (name.starts_with('.') && name.ends_with(".tmp"));
        let entries = fs::read_dir(&self.path).map_err(|e| unusable(&self.path, &e, WRITABLE))?;
        Ok(entries.flatten().all(|entry| known(&entry.file_name().to_string_lossy())))
    }

    /// The command that goes on with the run in this folder.
    pub fn resume_command(&self) -> String {
        format!("dimbit run --resume --out {}", quoted(&self.path.to_string_lossy()))
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

/// Requires room for `bytes` more where `path` lies or will lie.
///
/// # Errors
/// If there is less, as far as the system tells.
pub fn requires_room(path: &Path, bytes: u64) -> Result<(), TrainError> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let Ok(disk) = rustix::fs::statvfs(existing) else { return Ok(()) };
    // Some file systems tell nothing.
    if disk.f_blocks == 0 {
        return Ok(());
    }
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    Err(TrainError::Folder {
        path: path.to_path_buf(),
        reason: format!(
            "its disk has {} MB free, and a run of this network needs about {} MB",
            megabytes(free),
            megabytes(bytes)
        ),
        help: "make room, keep fewer checkpoints (--keep-checkpoints), or give a folder on another disk with --out",
    })
}

fn unusable(path: &Path, error: &std::io::Error, help: &'static str) -> TrainError {
    TrainError::Folder { path: path.to_path_buf(), reason: error.to_string(), help }
}

/// Whether a folder is there and holds more than a lock.
fn used(path: &Path) -> Result<bool, TrainError> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries.flatten().any(|entry| entry.file_name() != LOCK)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(unusable(path, &e, WRITABLE)),
    }
}

/// Makes the first free folder of a name; of two runs that begin at once, only one makes it.
fn free_folder(name: &str) -> Result<PathBuf, TrainError> {
    let base = Path::new("runs").join(name);
    let parent = base.parent().unwrap_or(Path::new("runs"));
    fs::create_dir_all(parent).map_err(|e| unusable(parent, &e, WRITABLE))?;
    let mut path = base.clone();
    for number in 2_u64.. {
        match fs::create_dir(&path) {
            Ok(()) => break,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                path = Path::new("runs").join(format!("{name}-{number}"));
            }
            Err(e) => return Err(unusable(&path, &e, WRITABLE)),
        }
    }
    Ok(path)
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_runs_alone_until_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunFolder::create(Some(folder.path()), "x").unwrap();
        let error = RunFolder::reopen(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        // A lock file that a dead process left is none.
        fs::write(folder.path().join(LOCK), "1").unwrap();
        let again = RunFolder::reopen(folder.path()).unwrap();
        assert!(again.is_fresh().unwrap());
        fs::write(folder.path().join("letter.txt"), "mine").unwrap();
        assert!(!again.is_fresh().unwrap());
        drop(again);
        assert!(RunFolder::create(Some(folder.path()), "x").unwrap_err().to_string().contains("isn't empty"));
    }

    #[test]
    fn room_is_asked_for_before() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), &folder.path().join("not/there/yet"), Path::new("here")] {
            requires_room(path, 0).unwrap();
            let error = requires_room(path, u64::MAX).unwrap_err().to_string();
            assert!(error.contains("MB free") && error.contains("--out"), "{error}");
        }
    }

    #[test]
    fn commands_can_be_pasted() {
        for (path, word) in [("runs/a-2", "runs/a-2"), ("my runs/it's", "'my runs/it'\\''s'"), ("", "''")] {
            let command = RunFolder::at(Path::new(path)).resume_command();
            assert_eq!(command, format!("dimbit run --resume --out {word}"));
        }
    }
}
