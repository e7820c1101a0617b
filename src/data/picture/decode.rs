//! A file's bytes as RGB pixels: what Pillow's `Image.open(file).convert("RGB")` gives.
//!
//! The format is told by the content, whatever the file is called. As in Pillow, and unlike in a browser, the orientation
//! that a camera has noted (EXIF), colour profiles and transparency change nothing.

use super::{Area, Bytes};

/// The most pixels of an image: beyond, Pillow refuses it as a decompression bomb.
pub const MOST_PIXELS: usize = 178_956_970;

/// Why an image can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Neither of the formats, by its first bytes.
    #[error("it is neither a JPEG nor a PNG image, by its content")]
    Format,
    /// The file ends before the image does.
    #[error("it is cut short: its data end before the image does")]
    CutShort,
    /// The decoder's own words.
    #[error("it can't be decoded: {reason}")]
    Damaged {
        /// What the decoder says.
        reason: String,
    },
    /// So many pixels that it must be an attack or a mistake.
    #[error("it has {width}x{height} pixels; at most {MOST_PIXELS} in all are read")]
    TooLarge {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
}

/// RGB pixels, row by row, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height × width × 3` bytes.
    pub pixels: Bytes,
}

/// Decodes the part of an image that `choose` picks once the image's `[width, height]` are known. What lies below that
/// part need not be decoded.
///
/// # Errors
/// See [`ImageError`]. An image that is cut short is one wherever the part lies.
pub(super) fn decode(bytes: &[u8], choose: impl FnOnce([usize; 2]) -> Area) -> Result<Picture, ImageError> {
    decode_scaled(bytes, |size| (choose(size), 1))
}

/// Like [`decode`], and what `choose` picks beside the part is how many times smaller it may become: 1, 2, 4 or 8. A JPEG
/// image is decoded at that size, by a smaller cosine transform, and the part's edges are moved outwards to whole pixels of
/// it; others are decoded as they are.
///
/// # Errors
/// See [`decode`].
pub(super) fn decode_scaled(
    bytes: &[u8],
    choose: impl FnOnce([usize; 2]) -> (Area, usize),
) -> Result<Picture, ImageError> {
    match bytes {
        [] => Err(ImageError::Empty),
        [0xff, 0xd8, ..] => super::jpeg::decode(bytes, choose),
        [0x89, b'P', b'N', b'G', ..] => super::png::decode(bytes, |size| choose(size).0),
        _ => Err(ImageError::Format),
    }
}

/// Refuses what no one means to load.
pub(super) fn check_size(width: usize, height: usize) -> Result<(), ImageError> {
    match width.checked_mul(height) {
        Some(pixels) if pixels <= MOST_PIXELS => Ok(()),
        _ => Err(ImageError::TooLarge { width, height }),
    }
}
