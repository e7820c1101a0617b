//! Lists of files that took long to make, kept in the user's cache: `$XDG_CACHE_HOME/dimbit`, or `~/.cache/dimbit`.
//!
//! A list is a convenience: where the cache can't be read or written, the list is made anew each time.

use std::env;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What changed this short a time ago may change again without a new time of change: too young to be kept.
const SETTLED: Duration = Duration::from_secs(2);

/// Version of the lists' form.
const VERSION: u32 = 1;

/// A file's or folder's time of change: seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Changed(u64, u32);

impl Changed {
    /// That of a file or folder that was looked at; the beginning of time where the system keeps none.
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        since.map_or(Self::default(), |since| Self(since.as_secs(), since.subsec_nanos()))
    }

    /// Whether it is so long ago that a further change would show.
    pub(super) fn settled(self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::new(self.0, self.1) + SETTLED < now
    }
}

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    version: u32,
    /// What the list is of, in full: a name of a cached file is only a hash.
    of: String,
    list: T,
}

/// The user's cache, if this user has one.
pub fn cache_folder() -> Option<PathBuf> {
    let given = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache"))).map(|folder| folder.join("dimbit"))
}

fn file(cache: &Path, of: &str) -> PathBuf {
    let digest = Sha256::digest(of.as_bytes());
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    cache.join(format!("{name}.json"))
}

/// The list that was kept of `of`, if there is one.
pub(super) fn read<T: DeserializeOwned>(cache: &Path, of: &str) -> Option<T> {
    let file = BufReader::new(File::open(file(cache, of)).ok()?);
    let kept: Kept<T> = serde_json::from_reader(file).ok()?;
    (kept.version == VERSION && kept.of == of).then_some(kept.list)
}

/// Keeps a list of `of`, if that is possible: a reader sees the old one or the whole new one.
pub(super) fn write<T: Serialize>(cache: &Path, of: &str, list: &T) {
    let written = || -> Option<()> {
        fs::create_dir_all(cache).ok()?;
        let mut temporary = BufWriter::new(tempfile::NamedTempFile::new_in(cache).ok()?);
        serde_json::to_writer(&mut temporary, &Kept { version: VERSION, of: of.to_owned(), list }).ok()?;
        temporary.flush().ok()?;
        temporary.into_inner().ok()?.persist(file(cache, of)).ok()?;
        Some(())
    };
    let _ = written();
}
