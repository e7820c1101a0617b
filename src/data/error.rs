//! What can be wrong with a data set or a loader's options.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What is wrong, in which file, and what was expected instead.
#[derive(Debug, Error)]
pub enum DataError {
    /// The data set's folder does not exist or is a file.
    #[error("there is no folder {}", path.display())]
    FolderMissing {
        /// The folder asked for.
        path: PathBuf,
    },
    /// The folder lacks one of the data set's files.
    #[error("{} has neither {} nor {}", folder.display(), names[0], names[1])]
    FileMissing {
        /// The data set's folder.
        folder: PathBuf,
        /// The names that were looked for, in this order.
        names: [String; 2],
    },
    /// The operating system would not read a file.
    #[error("{} can't be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A `.gz` file is cut off, damaged or no gzip file.
    #[error("{} is damaged or cut off, its gzip data can't be unpacked: {source}", path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        source: io::Error,
    },
    /// A file ends before its header does.
    #[error("{} ends after {found} bytes, within its header of {expected} bytes", path.display())]
    HeaderCutOff {
        /// The file.
        path: PathBuf,
        /// The header's bytes.
        expected: usize,
        /// The (unpacked) file's bytes.
        found: usize,
    },
    /// A file is no IDX file of the kind that its name says.
    #[error(
        "{} begins with 0x{found:08x}, an IDX file of {content} begins with 0x{expected:08x}",
        path.display()
    )]
    Magic {
        /// The file.
        path: PathBuf,
        /// `images` or `labels`.
        content: &'static str,
        /// The magic number of that kind.
        expected: u32,
        /// The file's first four bytes, big-endian.
        found: u32,
    },
    /// The header's image size is zero or absurd.
    #[error(
        "{} says that its images are {height}x{width} pixels; sides of 1 to {limit} can be read",
        path.display()
    )]
    Dimensions {
        /// The file.
        path: PathBuf,
        /// Rows of an image, from the header.
        height: u32,
        /// Columns of an image, from the header.
        width: u32,
        /// The longest side that is accepted.
        limit: u32,
    },
    /// A file holds less than its header claims.
    #[error("{} should hold {claimed} bytes after its header but holds {found}", path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Bytes after the header, as the header claims.
        claimed: u64,
        /// Bytes after the header, as they are; for a gzip file that can't possibly hold the claim the
        /// most that it could unpack to.
        found: u64,
    },
    /// A file goes on after what its header claims.
    #[error("{} should hold {claimed} bytes after its header but holds more", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Bytes after the header, as the header claims.
        claimed: u64,
    },
    /// The files of images and labels don't belong together.
    #[error(
        "{} has {images} images but {} has {labels} labels",
        image_file.display(), label_file.display()
    )]
    CountsDiffer {
        /// The file of images.
        image_file: PathBuf,
        /// Its images.
        images: usize,
        /// The file of labels.
        label_file: PathBuf,
        /// Its labels.
        labels: usize,
    },
    /// A data set without images.
    #[error("{} has no images", path.display())]
    NoImages {
        /// The file of images.
        path: PathBuf,
    },
    /// A label that the network has no output for.
    #[error(
        "image {index} has label {label} in {}, but there are {classes} classes (labels 0 to {})",
        path.display(), classes.saturating_sub(1)
    )]
    Label {
        /// The file of labels.
        path: PathBuf,
        /// The image's index, from 0.
        index: usize,
        /// Its label.
        label: i64,
        /// The number of classes.
        classes: usize,
    },
    /// A loader over a data set without images.
    #[error("the data set has no images")]
    Empty,
    /// A batch of no images.
    #[error("batch_size is 0; it must be at least 1")]
    BatchSize,
    /// Partial batches are dropped and there is no whole one.
    #[error("the data set has {images} images, too few for one batch of {batch_size}")]
    NoFullBatch {
        /// Images of the data set.
        images: usize,
        /// Images of a batch.
        batch_size: usize,
    },
    /// A batch that does not fit into memory.
    #[error(
        "a batch of {batch_size} images of {}x{}x{} does not fit into memory",
        input[0], input[1], input[2]
    )]
    BatchTooLarge {
        /// Images of a batch.
        batch_size: usize,
        /// The network's input, `[channels, height, width]`.
        input: [usize; 3],
    },
    /// There is no memory for a batch.
    #[error("there is no memory for a batch of images: {reason}\n  help: set a smaller batch_size")]
    Memory {
        /// The system's reason.
        reason: String,
    },
    /// The images do not fit the network's input.
    #[error(
        "images of {}x{}x{} do not fit the input {}x{}x{}: the input must be at least as high and wide \
         and have as many channels (images of one channel are repeated)",
        image[0], image[1], image[2], input[0], input[1], input[2]
    )]
    Input {
        /// The images, `[channels, height, width]`.
        image: [usize; 3],
        /// The network's input, `[channels, height, width]`.
        input: [usize; 3],
    },
    /// `mean` or `std` has neither one value nor one a channel.
    #[error("{name} has {found} values; give one, or one for each of the {channels} channels")]
    NormalisationLength {
        /// `mean` or `std`.
        name: &'static str,
        /// The values given.
        found: usize,
        /// The input's channels.
        channels: usize,
    },
    /// A `mean` or `std` that can't be computed with.
    #[error("{name} has the value {value}; {rule}")]
    NormalisationValue {
        /// `mean` or `std`.
        name: &'static str,
        /// The value given.
        value: f32,
        /// What a value must be.
        rule: &'static str,
    },
    /// A random shift could move the whole image out of the picture.
    #[error("crop_padding is {padding}; it must be smaller than the images' shorter side, {side}")]
    CropPadding {
        /// The padding given, in pixels.
        padding: usize,
        /// The images' shorter side, in pixels.
        side: usize,
    },
    /// A folder or file that is there, but not as it should be.
    #[error("{} {reason}\n  help: {help}", path.display())]
    Layout {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong, as the end of a sentence that begins with the path.
        reason: String,
        /// What to do.
        help: String,
    },
    /// The network can't tell the data set's classes apart.
    #[error(
        "the images of {} have {classes} classes, but the network has {outputs} outputs\n  help: take a network of {classes} outputs (`scripts/export-torchvision NAME --classes {classes}`), or the data that it was trained on",
        path.display()
    )]
    Classes {
        /// Where the images lie.
        path: PathBuf,
        /// Their classes.
        classes: usize,
        /// The network's outputs.
        outputs: usize,
    },
    /// Photographs are red, green and blue.
    #[error("images of a folder or of tar files have 3 channels, but the network's input has {channels}")]
    Channels {
        /// The channels of the network's input.
        channels: usize,
    },
    /// More images than the recipe lets pass.
    #[error(
        "{} {} can't be read, more than `max_unreadable` ({limit}) lets pass:\n  {}\n  help: mend or remove what can't be read, or set `max_unreadable` in the recipe's `data`",
        found.len(), if found.len() == 1 { "image" } else { "images" }, listed(found)
    )]
    Unreadable {
        /// Where they lie and what is wrong with each, in words.
        found: Vec<String>,
        /// How many may be left out.
        limit: usize,
    },
    /// The system gives no more threads.
    #[error(
        "{threads} threads for loading images can't be started: {reason}\n  help: set a lower `threads` in the recipe's `data`"
    )]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
}

/// The first of many lines.
fn listed(lines: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = lines.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n  ");
    if lines.len() > SHOWN {
        text += &format!("\n  and {} more", lines.len() - SHOWN);
    }
    text
}
