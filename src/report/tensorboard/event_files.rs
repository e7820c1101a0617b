//! TensorBoard's event files as they lie on the disk: how far they are written, and cutting them where a run goes on.
//!
//! A file is a sequence of records: the length of the data (8 bytes, little-endian), its checksum (4 bytes), the data, the
//! data's checksum (4 bytes). The first record of each file is its head; TensorBoard reads all files of a folder as one log,
//! in the order of their names, which begin with the second in which they were made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const PREFIX: &str = "events.out.tfevents.";
/// Bytes of a record around its data.
const FRAME: u64 = 16;

/// An event file, read from record to record while it may still grow.
pub(super) struct EventFile {
    file: File,
    /// Where the last whole record ends.
    end: u64,
    /// Whole records, the head included.
    records: u64,
}

impl EventFile {
    pub(super) fn open(path: &Path) -> io::Result<EventFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(EventFile { file, end: 0, records: 0 })
    }

    /// Takes in one further record, if there is a whole one.
    fn advance(&mut self) -> io::Result<bool> {
        let length = self.file.metadata()?.len();
        if self.end + FRAME > length {
            return Ok(false);
        }
        let mut data = [0; 8];
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.read_exact(&mut data)?;
        let end = u64::from_le_bytes(data).checked_add(self.end + FRAME).filter(|&end| end <= length);
        let Some(end) = end else { return Ok(false) };
        (self.end, self.records) = (end, self.records + 1);
        Ok(true)
    }

    /// Records behind the head that are whole by now.
    pub(super) fn written(&mut self) -> io::Result<u64> {
        while self.advance()? {}
        Ok(self.records.saturating_sub(1))
    }

    /// Brings the file to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// The event files of a folder, in their order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Renames a file that a writer has just made, so that it comes behind all `existing` ones whatever the clock says, and the
/// writer of the run's next part, which may use the same name again, doesn't replace it. Returns its new path.
pub(super) fn put_last(new: &Path, existing: &[PathBuf]) -> io::Result<PathBuf> {
    let name = new.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(PREFIX));
    let Some((made, rest)) = name.and_then(|name| name.split_once('.')) else {
        return Err(io::Error::other(format!("{} is no name of an event file", new.display())));
    };
    let latest = existing.iter().filter_map(|path| second(path)).max();
    let made: u64 = made.parse().map_err(io::Error::other)?;
    let second = latest.map_or(made, |latest| made.max(latest.saturating_add(1)));
    let path = new.with_file_name(format!("{PREFIX}{second:010}.{rest}.{}", existing.len()));
    fs::rename(new, &path)?;
    Ok(path)
}

/// The second in which a file was made, by its name.
fn second(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// Keeps the first `records` of a folder, heads not counted, and removes the rest. Returns how many there are.
pub(super) fn keep(folder: &Path, records: u64) -> io::Result<u64> {
    let mut kept = 0;
    for path in list(folder)? {
        let mut event_file = EventFile::open(&path)?;
        let head = event_file.advance()?;
        let before = kept;
        while head && kept < records && event_file.advance()? {
            kept += 1;
        }
        if kept == before {
            fs::remove_file(&path)?;
        } else {
            event_file.file.set_len(event_file.end)?;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(data: &[u8]) -> Vec<u8> {
        let mut bytes = (data.len() as u64).to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(data);
        bytes.extend([0; 4]);
        bytes
    }

    /// Files of two, one and three records with a head each; the last one ends in a torn record.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, data) in
            [("0000000001.a", &["a", "b"][..]), ("0000000002.a", &["c"]), ("0000000003.a", &["d", "e", "f"])]
        {
            let mut bytes = record(b"head");
            data.iter().for_each(|data| bytes.extend(record(data.as_bytes())));
            if name.starts_with("0000000003") {
                bytes.extend(&record(b"torn")[..15]);
            }
            fs::write(folder.path().join(format!("{PREFIX}{name}")), bytes).unwrap();
        }
        fs::write(folder.path().join(format!("{PREFIX}0000000004.a")), b"torn").unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        folder
    }

    fn data(folder: &Path) -> String {
        let mut text = String::new();
        for path in list(folder).unwrap() {
            let mut rest = &fs::read(path).unwrap()[..];
            while !rest.is_empty() {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                text += std::str::from_utf8(&rest[12..12 + length]).unwrap();
                rest = &rest[16 + length..];
            }
        }
        text.replace("head", "")
    }

    #[test]
    fn what_follows_the_kept_records_is_gone() {
        for (records, left, files) in
            [(0, "", 0), (1, "a", 1), (2, "ab", 1), (3, "abc", 2), (4, "abcd", 3), (6, "abcdef", 3), (9, "abcdef", 3)]
        {
            let folder = folder();
            assert_eq!(keep(folder.path(), records).unwrap(), left.len() as u64);
            assert_eq!((data(folder.path()).as_str(), list(folder.path()).unwrap().len()), (left, files), "{records}");
            assert!(folder.path().join("notes.txt").exists());
        }
    }

    #[test]
    fn names_tell_their_second() {
        assert_eq!(second(Path::new("x/events.out.tfevents.0000000012.host.7.0")), Some(12));
        assert_eq!(second(Path::new("x/events.out.tfevents.soon")), None);
    }

    #[test]
    fn a_new_file_comes_last_whatever_the_clock_says() {
        let folder = folder();
        let existing = list(folder.path()).unwrap();
        for (made, name) in [("0000000002", "0000000005.host.7.0.4"), ("0000000009", "0000000009.host.7.0.4")] {
            let new = folder.path().join(format!("{PREFIX}{made}.host.7.0"));
            fs::write(&new, record(b"head")).unwrap();
            let path = put_last(&new, &existing).unwrap();
            assert_eq!(path, folder.path().join(format!("{PREFIX}{name}")));
            assert_eq!((list(folder.path()).unwrap().last(), new.exists()), (Some(&path), false));
            fs::remove_file(path).unwrap();
        }
    }
}
