//! From an image's bytes to the network's input: padding, random crop and flip, normalisation.

use rand::Rng;

use super::DataError;

/// Where an image lands on the input's canvas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// Shift down and to the right from the centred position, in pixels; negative is up and left.
    pub shift: [i64; 2],
    /// Whether the shifted picture is mirrored left to right.
    pub flip: bool,
}

impl Placement {
    /// A shift within ±`padding` in both directions and, if wanted, a flip with probability ½. A shift
    /// of the canvas' content is what cropping after zero padding by `padding` does.
    pub fn random(padding: usize, flip: bool, rng: &mut impl Rng) -> Self {
        let padding = padding as i64;
        let mut shift = || rng.random_range(-padding..=padding);
        Self { shift: [shift(), shift()], flip: flip && rng.random() }
    }
}

/// Renders images of one shape onto canvases of another.
#[derive(Clone, Debug)]
pub(super) struct Renderer {
    image: [usize; 3],
    input: [usize; 3],
    /// Each channel's normalised value of each byte.
    tables: Vec<[f32; 256]>,
}

impl Renderer {
    /// `image` and `input` as `[channels, height, width]`; `mean` and `std` for pixels in 0 to 1, one
    /// value or one a channel.
    pub fn new(image: [usize; 3], input: [usize; 3], mean: &[f32], std: &[f32]) -> Result<Self, DataError> {
        let repeatable = image[0] == 1 || image[0] == input[0];
        let empty = image.contains(&0) || input.contains(&0);
        if empty || !repeatable || image[1] > input[1] || image[2] > input[2] {
            return Err(DataError::Input { image, input });
        }
        let channels = input[0];
        for (name, values) in [("mean", mean), ("std", std)] {
            if values.len() != 1 && values.len() != channels {
                return Err(DataError::NormalisationLength { name, found: values.len(), channels });
            }
        }
        if let Some(&value) = mean.iter().find(|value| !value.is_finite()) {
            let rule = "it must be finite";
            return Err(DataError::NormalisationValue { name: "mean", value, rule });
        }
        if let Some(&value) = std.iter().find(|&&value| !(value.is_finite() && value > 0.0)) {
            let rule = "it must be finite and above 0";
            return Err(DataError::NormalisationValue { name: "std", value, rule });
        }
        let tables = (0..channels)
            .map(|channel| {
                let mean = mean[channel % mean.len()];
                let std = std[channel % std.len()];
                std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std)
            })
            .collect();
        Ok(Self { image, input, tables })
    }

    /// Writes one image's `pixels` (`channels × height × width` bytes) to `out`, the input's values.
    /// What the image does not cover is the normalised 0.
    pub fn render(&self, pixels: &[u8], placement: Placement, out: &mut [f32]) {
        let [channels, height, width] = self.image;
        let [_, canvas_height, canvas_width] = self.input;
        let (rows, top) = visible(height, canvas_height, placement.shift[0]);
        let (columns, left) = visible(width, canvas_width, placement.shift[1]);
        let planes = out.chunks_exact_mut(canvas_height * canvas_width);
        for (channel, (plane, table)) in planes.zip(&self.tables).enumerate() {
            plane.fill(table[0]);
            // A grey image serves every channel.
            let source = &pixels[(channel % channels) * height * width..][..height * width];
            let source_rows = source.chunks_exact(width).skip(rows.start).take(rows.len());
            for (from, to) in source_rows.zip(plane.chunks_exact_mut(canvas_width).skip(top)) {
                let to = &mut to[left..left + columns.len()];
                to.iter_mut().zip(&from[columns.clone()]).for_each(|(value, &byte)| *value = table[usize::from(byte)]);
            }
            if placement.flip {
                plane.chunks_exact_mut(canvas_width).for_each(<[f32]>::reverse);
            }
        }
    }
}

/// Which of an image's `length` rows (or columns) are on the canvas, and where the first one lands.
fn visible(length: usize, canvas: usize, shift: i64) -> (std::ops::Range<usize>, usize) {
    let start = ((canvas - length) / 2) as i64 + shift;
    let first = (-start).clamp(0, length as i64) as usize;
    let last = (canvas as i64 - start).clamp(first as i64, length as i64) as usize;
    (first..last, start.max(0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    fn plain(image: [usize; 3], input: [usize; 3]) -> Renderer {
        Renderer::new(image, input, &[0.0], &[1.0 / 255.0]).unwrap()
    }

    fn render(renderer: &Renderer, pixels: &[u8], placement: Placement) -> Vec<f32> {
        let mut out = vec![f32::NAN; renderer.input.iter().product()];
        renderer.render(pixels, placement, &mut out);
        out.iter().map(|value| value.round()).collect()
    }

    #[test]
    fn grey_images_are_centred_and_repeated() {
        let out = render(&plain([1, 1, 2], [2, 3, 4]), &[7, 9], Placement::default());
        let plane = [0.0, 0.0, 0.0, 0.0, 0.0, 7.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(out, [plane, plane].concat());
    }

    #[test]
    fn colour_channels_stay_apart() {
        let out = render(&plain([3, 1, 1], [3, 1, 1]), &[1, 2, 3], Placement::default());
        assert_eq!(out, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn shift_then_flip() {
        let renderer = plain([1, 2, 2], [1, 2, 2]);
        let placement = |shift, flip| Placement { shift, flip };
        let pixels = [1, 2, 3, 4];
        assert_eq!(render(&renderer, &pixels, placement([0, 0], true)), [2.0, 1.0, 4.0, 3.0]);
        assert_eq!(render(&renderer, &pixels, placement([1, 0], false)), [0.0, 0.0, 1.0, 2.0]);
        assert_eq!(render(&renderer, &pixels, placement([-1, 1], false)), [0.0, 3.0, 0.0, 0.0]);
        assert_eq!(render(&renderer, &pixels, placement([-1, 1], true)), [3.0, 0.0, 0.0, 0.0]);
        // Beyond the canvas nothing is left, and nothing breaks.
        assert_eq!(render(&renderer, &pixels, placement([2, -9], false)), [0.0; 4]);
    }

    #[test]
    fn padding_is_a_black_pixel_normalised() {
        let renderer = Renderer::new([1, 1, 1], [2, 1, 3], &[0.5, 0.25], &[0.5, 0.25]).unwrap();
        let mut out = vec![0.0; 6];
        renderer.render(&[255], Placement::default(), &mut out);
        assert_eq!(out, [-1.0, 1.0, -1.0, -1.0, 3.0, -1.0]);
    }

    #[test]
    fn random_placements_fill_their_bounds_evenly() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let drawn: Vec<_> = (0..2000).map(|_| Placement::random(2, true, &mut rng)).collect();
        let shifts: BTreeSet<_> = drawn.iter().map(|placement| placement.shift).collect();
        let all = (-2..=2).flat_map(|down| (-2..=2).map(move |right| [down, right])).collect();
        assert_eq!(shifts, all);
        let flips = drawn.iter().filter(|placement| placement.flip).count();
        assert!((900..1100).contains(&flips), "{flips} of 2000 flipped");
        assert_eq!(Placement::random(0, false, &mut rng), Placement::default());
    }

    #[test]
    fn impossible_shapes_and_normalisations_are_refused() {
        let new =
            |image, input, mean: &[f32], std: &[f32]| Renderer::new(image, input, mean, std).unwrap_err().to_string();
        let small = new([1, 28, 28], [3, 28, 27], &[0.0], &[1.0]);
        assert!(small.contains("1x28x28") && small.contains("3x28x27"), "{small}");
        assert!(new([3, 8, 8], [1, 8, 8], &[0.0], &[1.0]).contains("channels"));
        assert!(new([1, 8, 8], [0, 8, 8], &[0.0], &[1.0]).contains("0x8x8"));
        assert!(new([1, 8, 8], [3, 8, 8], &[0.0; 2], &[1.0]).starts_with("mean has 2 values"));
        assert!(new([1, 8, 8], [3, 8, 8], &[0.0], &[]).starts_with("std has 0 values"));
        assert!(new([1, 8, 8], [1, 8, 8], &[f32::NAN], &[1.0]).starts_with("mean has the value NaN"));
        assert!(new([1, 8, 8], [1, 8, 8], &[0.0], &[0.0]).contains("above 0"));
    }
}
