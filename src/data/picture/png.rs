//! PNG images.

use std::io::Cursor;

use png::{ColorType, Decoder, DecodingError, Limits, Transformations};

use super::decode::{ImageError, MOST_PIXELS, Picture, check_size};
use super::{Area, Bytes};

/// See [`super::decode::decode`].
pub(super) fn decode(bytes: &[u8], choose: impl FnOnce([usize; 2]) -> Area) -> Result<Picture, ImageError> {
    // At most four samples of two bytes a pixel.
    let limits = Limits { bytes: 8 * MOST_PIXELS };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    // Palettes and narrow samples become bytes, of wide samples the upper byte counts.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_size(width, height)?;
    let size = reader.output_buffer_size().ok_or(ImageError::TooLarge { width, height })?;
    let mut rows = vec![0; size];
    let frame = reader.next_frame(&mut rows).map_err(damaged)?;
    let samples = frame.color_type.samples();
    let grey = matches!(frame.color_type, ColorType::Grayscale | ColorType::GrayscaleAlpha);
    let area = choose([width, height]);
    let mut pixels = Bytes::with_capacity(area.width * area.height * 3);
    for row in rows.chunks_exact(frame.line_size).skip(area.top).take(area.height) {
        for pixel in row[area.left * samples..][..area.width * samples].chunks_exact(samples) {
            pixels.extend(if grey { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] });
        }
    }
    Ok(Picture { width: area.width, height: area.height, pixels })
}

fn damaged(error: DecodingError) -> ImageError {
    match &error {
        DecodingError::IoError(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => ImageError::CutShort,
        _ => ImageError::Damaged { reason: error.to_string() },
    }
}
