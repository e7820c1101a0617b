//! IDX files: MNIST, Fashion-MNIST and their relatives, packed with gzip or plain.
//!
//! A header of big-endian 32-bit words (magic number, then one length a dimension) and unsigned bytes.
//! A header is a claim by a stranger: no memory is set aside for it, and no more is unpacked than it says.

use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{DataError, Dataset};

/// Longest side of an image, in pixels: far above any data set of this format.
const LONGEST_SIDE: u32 = 4096;

/// Deflate can't unpack a byte to more than this many.
const GZIP_LARGEST_RATIO: u64 = 1032;

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The files `train-…`.
    Train,
    /// The files `t10k-…`.
    Validation,
}

impl Split {
    fn prefix(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "t10k",
        }
    }
}

/// One split of an MNIST-like data set, held in memory: grey images of `[1, height, width]`.
#[derive(Clone, Debug)]
pub struct IdxDataset {
    images: Vec<u8>,
    labels: Vec<u8>,
    height: usize,
    width: usize,
    label_file: PathBuf,
}

impl IdxDataset {
    /// Reads `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` (validation: `t10k-…`) from a
    /// folder, each with `.gz` or plain; the packed file is taken where both are there.
    ///
    /// # Errors
    ///
    /// A missing folder or file, a file that can't be read or unpacked, a header that is no IDX header
    /// of this kind or does not match the file's size, differing counts, and a split without images.
    pub fn open(folder: impl AsRef<Path>, split: Split) -> Result<Self, DataError> {
        let folder = folder.as_ref();
        if !folder.is_dir() {
            return Err(DataError::FolderMissing { path: folder.to_owned() });
        }
        let prefix = split.prefix();
        let image_file = find(folder, &format!("{prefix}-images-idx3-ubyte"))?;
        let label_file = find(folder, &format!("{prefix}-labels-idx1-ubyte"))?;
        let ([count, height, width], images) = read(&image_file, "images")?;
        let ([labels_count], labels) = read(&label_file, "labels")?;
        if count != labels_count {
            return Err(DataError::CountsDiffer {
                image_file,
                images: count as usize,
                label_file,
                labels: labels_count as usize,
            });
        }
        if count == 0 {
            return Err(DataError::NoImages { path: image_file });
        }
        Ok(Self { images, labels, height: height as usize, width: width as usize, label_file })
    }

    /// Checks that every label is below `classes`.
    ///
    /// # Errors
    ///
    /// [`DataError::Label`] with the first image whose label is not.
    pub fn check_labels(&self, classes: usize) -> Result<(), DataError> {
        match self.labels.iter().position(|&label| usize::from(label) >= classes) {
            None => Ok(()),
            Some(index) => {
                Err(DataError::Label { path: self.label_file.clone(), index, label: self.label(index), classes })
            }
        }
    }
}

impl Dataset for IdxDataset {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn image_shape(&self) -> [usize; 3] {
        [1, self.height, self.width]
    }

    fn image(&self, index: usize) -> Cow<'_, [u8]> {
        let size = self.height * self.width;
        Cow::Borrowed(&self.images[index * size..(index + 1) * size])
    }

    fn label(&self, index: usize) -> i64 {
        i64::from(self.labels[index])
    }
}

fn find(folder: &Path, name: &str) -> Result<PathBuf, DataError> {
    let names = [format!("{name}.gz"), name.to_owned()];
    names
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| DataError::FileMissing { folder: folder.to_owned(), names })
}

/// The lengths and the content of a file with `N` dimensions.
fn read<const N: usize>(path: &Path, content: &'static str) -> Result<([u32; N], Vec<u8>), DataError> {
    let bytes = fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let size = bytes.len() as u64;
    if path.extension().is_some_and(|extension| extension == "gz") {
        let most = size.saturating_mul(GZIP_LARGEST_RATIO);
        parse(path, content, MultiGzDecoder::new(bytes.as_slice()), most)
    } else {
        parse(path, content, bytes.as_slice(), size)
    }
}

/// Reads the header and as many bytes as it claims. `most` bounds what `reader` can give at all; its
/// errors are those of the gzip decoder, as plain bytes come from memory.
fn parse<const N: usize>(
    path: &Path,
    content: &'static str,
    mut reader: impl Read,
    most: u64,
) -> Result<([u32; N], Vec<u8>), DataError> {
    let path = || path.to_owned();
    let gzip = |source| DataError::Gzip { path: path(), source };

    let header_size = 4 + 4 * N;
    let mut header = Vec::with_capacity(header_size);
    reader.by_ref().take(header_size as u64).read_to_end(&mut header).map_err(gzip)?;
    let mut words = header.chunks_exact(4).map(|word| word.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)));

    // Unsigned bytes in N dimensions. Judged before the length, as it tells more about a foreign file.
    let expected = 0x0800 | N as u32;
    if let Some(found) = words.next().filter(|&found| found != expected) {
        return Err(DataError::Magic { path: path(), content, expected, found });
    }
    if header.len() < header_size {
        return Err(DataError::HeaderCutOff { path: path(), expected: header_size, found: header.len() });
    }
    let mut lengths = [0; N];
    lengths.iter_mut().zip(words).for_each(|(length, word)| *length = word);
    if let [_, height, width] = lengths[..]
        && !((1..=LONGEST_SIDE).contains(&height) && (1..=LONGEST_SIDE).contains(&width))
    {
        return Err(DataError::Dimensions { path: path(), height, width, limit: LONGEST_SIDE });
    }

    // At most 2^32 images of 2^24 pixels: no overflow.
    let claimed: u64 = lengths.iter().map(|&length| u64::from(length)).product();
    let possible = most.saturating_sub(header_size as u64);
    if claimed > possible {
        return Err(DataError::TooShort { path: path(), claimed, found: possible });
    }
    // One byte more than claimed, to notice it and to have the checksum verified at the end.
    let mut values = Vec::new();
    reader.take(claimed + 1).read_to_end(&mut values).map_err(gzip)?;
    let found = values.len() as u64;
    match found.cmp(&claimed) {
        std::cmp::Ordering::Less => Err(DataError::TooShort { path: path(), claimed, found }),
        std::cmp::Ordering::Greater => Err(DataError::TooLong { path: path(), claimed }),
        std::cmp::Ordering::Equal => Ok((lengths, values)),
    }
}

#[cfg(test)]
mod tests;
