//! What a tar file holds: the place of every image, and its class.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tar::Archive;

use crate::data::DataError;
use crate::data::cache::Changed;

/// Endings of the images that are read.
const IMAGES: [&str; 3] = ["jpg", "jpeg", "png"];
/// What a tar file is made of, in bytes.
const BLOCK: u64 = 512;
/// The longest class, in bytes: a number in text.
const LONGEST_CLASS: u64 = 32;

/// The samples of a tar file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    /// Size and time of change of the file that was listed.
    bytes: u64,
    changed: Changed,
    /// In their order in the file.
    pub(super) samples: Vec<Sample>,
}

/// An image in a tar file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// The image's name in the tar file.
    pub(super) name: String,
    /// Where it begins, in bytes.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) size: u64,
    /// Its class, counted from 0.
    pub(super) class: u64,
}

/// The parts of a sample, as they turn up.
#[derive(Default)]
struct Parts {
    key: String,
    image: Option<(String, u64, u64)>,
    class: Option<u64>,
}

impl Table {
    /// Whether the file is the one that was listed.
    pub(super) fn holds(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|found| (found.len(), Changed::of(&found)) == (self.bytes, self.changed))
    }

    /// Whether the file had been left alone for some time.
    pub(super) fn settled(&self) -> bool {
        self.changed.settled()
    }

    /// Lists a tar file; of the images nothing is read.
    pub(super) fn of(path: &Path) -> Result<Self, DataError> {
        let read = |source| DataError::Read { path: path.to_owned(), source };
        let wrong =
            |reason: String, help: &str| DataError::Layout { path: path.to_owned(), reason, help: help.to_owned() };
        let cut_short = |reason: String| wrong(reason, "copy or download it again");
        let mut file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        let mut contents = File::open(path).map_err(read)?;
        let mut samples: Vec<Sample> = Vec::new();
        let mut parts = Parts::default();
        let sample_error =
            |text: String| wrong(text, "a sample is KEY.jpg (or .jpeg, .png) and KEY.cls, a number in text");
        let mut end = 0;
        let mut archive = Archive::new(&mut file);
        let not_tar = |error: std::io::Error, samples: usize| {
            cut_short(format!("is no tar file, or is cut short or damaged after {samples} samples: {error}"))
        };
        for entry in archive.entries_with_seek().map_err(|error| not_tar(error, 0))? {
            let entry = entry.map_err(|error| not_tar(error, samples.len()))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.saturating_add(size) > metadata.len() {
                return Err(cut_short(format!("is cut short: it ends within {name}")));
            }
            end = (offset + size).next_multiple_of(BLOCK);
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let start = name.rfind('/').map_or(0, |at| at + 1);
            let Some(dot) = name[start..].find('.').map(|dot| start + dot) else { continue };
            let (key, ending) = (&name[..dot], name[dot + 1..].to_lowercase());
            if parts.key != key {
                samples.extend(std::mem::take(&mut parts).finish().map_err(sample_error)?);
                parts.key = key.to_owned();
            }
            if IMAGES.contains(&ending.as_str()) {
                if parts.image.replace((name.clone(), offset, size)).is_some() {
                    return Err(sample_error(format!("has two images of the sample `{}`", parts.key)));
                }
            } else if ending == "cls" {
                let mut text = String::new();
                contents.seek(SeekFrom::Start(offset)).map_err(read)?;
                let class = (&contents).take(size.min(LONGEST_CLASS)).read_to_string(&mut text);
                let class = class.ok().and_then(|_| text.trim().parse::<u64>().ok());
                let class = class.filter(|_| size <= LONGEST_CLASS);
                parts.class = Some(class.ok_or_else(|| sample_error(format!("has no number in {name}")))?);
            }
        }
        // A tar file ends with blocks of zeros.
        if end.saturating_add(BLOCK) > metadata.len() {
            return Err(cut_short("is cut short: its end is missing".to_owned()));
        }
        samples.extend(parts.finish().map_err(sample_error)?);
        if samples.is_empty() {
            return Err(sample_error("has no samples".to_owned()));
        }
        Ok(Self { bytes: metadata.len(), changed: Changed::of(&metadata), samples })
    }
}

impl Parts {
    /// The sample that they make; none of files that are no part of one.
    fn finish(self) -> Result<Option<Sample>, String> {
        match (self.image, self.class) {
            (Some((name, offset, size)), Some(class)) => Ok(Some(Sample { name, offset, size, class })),
            (None, None) => Ok(None),
            (Some((name, ..)), None) => Err(format!("has {name} but not its class, {}.cls", self.key)),
            (None, Some(_)) => Err(format!("has {}.cls but not its image", self.key)),
        }
    }
}
