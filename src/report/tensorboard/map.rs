//! The map of widths: a row for each site, a block for each group, as wide as its channels and coloured by its bits.

use std::io;

use crate::report::SiteRow;

/// Pixels of the whole picture's width.
const WIDTH: u32 = 512;
/// Pixels of a row, and of the gap below it.
const ROW: u32 = 14;
const GAP: u32 = 2;
/// Blocks at least so wide are told apart by a line.
const WIDEST_WITHOUT_LINE: u32 = 4;

/// Dropped, then 1 to 8 bits: the colours of `report.html`.
const COLOURS: [[u8; 3]; 9] = [
    [0xdf, 0xe3, 0xe8],
    [0xfb, 0xd5, 0x24],
    [0xa5, 0xd9, 0x3a],
    [0x4a, 0xc1, 0x6d],
    [0x1f, 0xa1, 0x87],
    [0x2a, 0x78, 0x8e],
    [0x3b, 0x52, 0x89],
    [0x46, 0x31, 0x7e],
    [0x27, 0x08, 0x3a],
];
/// A site that isn't compressed.
const FLOAT: [u8; 3] = [0x8c, 0x1d, 0x40];
const WHITE: [u8; 3] = [0xff; 3];

/// Pixels, row by row, three bytes each.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixels: Vec<u8>,
}

impl Picture {
    fn new(width: u32, height: u32) -> Self {
        Self { width, height, pixels: WHITE.repeat((width * height) as usize) }
    }

    fn block(&mut self, (left, right): (u32, u32), top: u32, colour: [u8; 3]) {
        for y in top..top + ROW {
            for x in left..right.min(self.width) {
                let at = ((y * self.width + x) * 3) as usize;
                self.pixels[at..at + 3].copy_from_slice(&colour);
            }
        }
    }
}

/// The picture of all sites; the last row is the legend: dropped, 1, 2, … 8 bits.
pub(super) fn widths(sites: &[SiteRow]) -> Picture {
    let mut picture = Picture::new(WIDTH, (sites.len() as u32 + 1) * (ROW + GAP) + GAP);
    for (row, site) in (0..).zip(sites) {
        let top = GAP + row * (ROW + GAP);
        let channels: usize = site.groups.iter().map(|group| group.channels).sum();
        if channels == 0 {
            picture.block((0, WIDTH), top, FLOAT);
        }
        let mut before = 0;
        for group in &site.groups {
            let pixel = |channels_before: usize| (channels_before as u64 * u64::from(WIDTH) / channels as u64) as u32;
            let (left, right) = (pixel(before), pixel(before + group.channels));
            let line = u32::from(right - left >= WIDEST_WITHOUT_LINE);
            picture.block((left, right - line), top, COLOURS[group.bits.min(8) as usize]);
            before += group.channels;
        }
    }
    let top = GAP + sites.len() as u32 * (ROW + GAP);
    for (index, colour) in (0..).zip(COLOURS) {
        let pixel = |index: u32| index * WIDTH / COLOURS.len() as u32;
        picture.block((pixel(index), pixel(index + 1) - 1), top, colour);
    }
    picture
}

/// The picture as a PNG file.
///
/// # Errors
/// None that a picture in memory can have.
pub(super) fn png(picture: &Picture) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&picture.pixels)).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::events::samples::{group, site};

    fn at(picture: &Picture, x: u32, y: u32) -> [u8; 3] {
        let at = ((y * picture.width + x) * 3) as usize;
        picture.pixels[at..at + 3].try_into().unwrap()
    }

    #[test]
    fn a_block_is_as_wide_as_its_group_and_coloured_by_its_bits() {
        let sites = [
            site("a", &[4, 2, 2], "pca", vec![group(1, 8), group(3, 0)]),
            site("b", &[4], "none", Vec::new()),
            site("c", &[1024], "pca", vec![group(1, 3), group(1023, 1)]),
        ];
        let picture = widths(&sites);
        assert_eq!((picture.width, picture.height), (512, 4 * 16 + 2));
        assert_eq!((at(&picture, 0, 2), at(&picture, 126, 2)), (COLOURS[8], COLOURS[8]));
        // A line between two groups.
        assert_eq!(
            (at(&picture, 127, 2), at(&picture, 128, 2), at(&picture, 510, 15)),
            (WHITE, COLOURS[0], COLOURS[0])
        );
        assert_eq!((at(&picture, 300, 17), at(&picture, 300, 18)), (WHITE, FLOAT));
        assert_eq!(at(&picture, 300, 40), COLOURS[1]);
        // The legend.
        assert_eq!((at(&picture, 3, 52), at(&picture, 509, 52)), (COLOURS[0], COLOURS[8]));
        let bytes = png(&picture).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(&bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, picture.pixels);
    }
}
