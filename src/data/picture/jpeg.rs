//! JPEG images, by the decoder that Pillow has (libjpeg-turbo's, in mozjpeg): the slow, accurate inverse cosine transform
//! and smooth upsampling of the colours.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Decompress};

use super::decode::{ImageError, Picture, check_size};
use super::{Area, Bytes};

/// The bytes of a file, which note whether the decoder wanted more than there are: libjpeg makes up an end by itself.
struct Source<'a> {
    rest: &'a [u8],
    exhausted: &'a Cell<bool>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.exhausted.set(self.rest.is_empty());
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest = &self.rest[count.min(self.rest.len())..];
    }
}

/// See [`super::decode::decode_scaled`].
pub(super) fn decode(bytes: &[u8], choose: impl FnOnce([usize; 2]) -> (Area, usize)) -> Result<Picture, ImageError> {
    let exhausted = Cell::new(false);
    // libjpeg's fatal errors come as unwinding without a panic's message.
    let outcome = catch_unwind(AssertUnwindSafe(|| read(bytes, &exhausted, choose)));
    match outcome {
        Ok(Ok(_)) | Err(_) if exhausted.get() => Err(ImageError::CutShort),
        Ok(result) => result,
        Err(cause) => {
            let text = cause.downcast_ref::<String>().map_or("an error of libjpeg", |text| text);
            let reason = text.trim_start_matches("libjpeg fatal error: ").to_owned();
            Err(ImageError::Damaged { reason })
        }
    }
}

/// Adds a line of a colour space as RGB pixels.
type Convert = fn(&[u8], &mut Vec<u8>);

fn read(
    bytes: &[u8],
    exhausted: &Cell<bool>,
    choose: impl FnOnce([usize; 2]) -> (Area, usize),
) -> Result<Picture, ImageError> {
    let mut decoder = Decompress::builder().from_reader(Source { rest: bytes, exhausted }).map_err(damaged)?;
    let (width, height) = decoder.size();
    check_size(width, height)?;
    let (area, by) = choose([width, height]);
    let area = smaller(area, by);
    decoder.scale((8 / by) as u8);
    let (space, convert): (_, Convert) = match decoder.color_space() {
        ColorSpace::JCS_GRAYSCALE => (ColorSpace::JCS_GRAYSCALE, from_grey),
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => (ColorSpace::JCS_CMYK, from_inverted_cmyk),
        _ => (ColorSpace::JCS_RGB, |line, pixels| pixels.extend_from_slice(line)),
    };
    let mut started = decoder.to_colorspace(space).map_err(damaged)?;
    let samples = match space {
        ColorSpace::JCS_GRAYSCALE => 1,
        ColorSpace::JCS_CMYK => 4,
        _ => 3,
    };
    // An image without its end mark is read to its last row, so that one that is cut short is noticed in any part.
    let rows = if ends(bytes) { area.top + area.height } else { started.height() };
    let mut pixels = Bytes::with_capacity(area.width * area.height * 3);
    let mut line = Bytes::of_any_value(started.width() * samples);
    for row in 0..rows {
        started.read_scanlines_into(line.as_mut_slice()).map_err(damaged)?;
        if (area.top..area.top + area.height).contains(&row) {
            convert(&line[area.left * samples..][..area.width * samples], &mut pixels);
        }
    }
    Ok(Picture { width: area.width, height: area.height, pixels })
}

/// The pixels of an image `by` times smaller that `area` of the image touches.
fn smaller(area: Area, by: usize) -> Area {
    let along = |start: usize, length: usize| (start / by, (start + length).div_ceil(by) - start / by);
    let ((left, width), (top, height)) = (along(area.left, area.width), along(area.top, area.height));
    Area { left, top, width, height }
}

fn damaged(error: io::Error) -> ImageError {
    ImageError::Damaged { reason: error.to_string() }
}

/// Whether a file ends with the mark of an image's end, but for padding.
fn ends(bytes: &[u8]) -> bool {
    let last = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    bytes[..last].ends_with(&[0xff, 0xd9])
}

fn from_grey(line: &[u8], pixels: &mut Vec<u8>) {
    pixels.extend(line.iter().flat_map(|&grey| [grey; 3]));
}

/// Pillow takes every CMYK image for Adobe's, whose inks are inverted, and mixes them in integers:
/// `k − round(ink · k / 255)`.
fn from_inverted_cmyk(line: &[u8], pixels: &mut Vec<u8>) {
    for ink in line.chunks_exact(4) {
        let white = i32::from(ink[3]);
        pixels.extend(ink[..3].iter().map(|&inverted| {
            let product = (255 - i32::from(inverted)) * white + 128;
            (white - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
        }));
    }
}
