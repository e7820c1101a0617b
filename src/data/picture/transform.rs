//! torchvision's transforms of photographs, for evaluation and for training.

use rand::Rng;

use super::{Area, ImageError, Interpolation, decode, decode_scaled, resample};
use crate::data::DataError;

/// How images are scaled and normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// Height and width of the network's input.
    pub input: [usize; 2],
    /// What the shorter side is scaled to in evaluation, before the centre is cut out; at least as long as `input`'s sides.
    pub resize: usize,
    /// The filter, in training as well.
    pub interpolation: Interpolation,
    /// Mean of red, green and blue in 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue in 0 to 1.
    pub std: [f32; 3],
}

/// What makes training images vary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// Least and greatest part of an image's area that is cut out.
    pub scale: [f64; 2],
    /// Least and greatest width of that part as a multiple of its height, before it is scaled to the input.
    pub ratio: [f64; 2],
    /// Whether images are mirrored left to right with probability ½.
    pub horizontal_flip: bool,
    /// Whether a JPEG image is decoded two, four or eight times smaller where that part is at least so many times as wide
    /// and as high as the input.
    pub scaled_decoding: bool,
}

/// From a file's bytes to the network's values.
#[derive(Clone, Debug)]
pub struct Transform {
    preprocessing: Preprocessing,
    /// None for evaluation.
    augmentation: Option<Augmentation>,
    /// Each channel's normalised value of each byte.
    tables: [[f32; 256]; 3],
}

impl Transform {
    /// Training transforms with an `augmentation` (`RandomResizedCrop`, `RandomHorizontalFlip`), else those of evaluation
    /// (`Resize`, `CenterCrop`); then `ToTensor` and `Normalize`.
    ///
    /// # Errors
    /// A mean or standard deviation that can't be computed with.
    pub fn new(preprocessing: Preprocessing, augmentation: Option<Augmentation>) -> Result<Self, DataError> {
        let rule = "it must be finite, and above 0 for std";
        for (name, values) in [("mean", preprocessing.mean), ("std", preprocessing.std)] {
            let wrong = |value: &f32| !value.is_finite() || (name == "std" && *value <= 0.0);
            if let Some(value) = values.into_iter().find(wrong) {
                return Err(DataError::NormalisationValue { name, value, rule });
            }
        }
        let tables = std::array::from_fn(|channel| {
            let (mean, std) = (preprocessing.mean[channel], preprocessing.std[channel]);
            std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std)
        });
        Ok(Self { preprocessing, augmentation, tables })
    }

    /// The same without what makes training images vary.
    pub fn plain(&self) -> Self {
        Self { augmentation: None, ..self.clone() }
    }

    /// Writes the image that `bytes` are as the network takes it: `out` is `[3, height, width]` of the input.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn apply(&self, bytes: &[u8], rng: &mut impl Rng, out: &mut [f32]) -> Result<(), ImageError> {
        let [height, width] = self.preprocessing.input;
        let how = self.preprocessing.interpolation;
        let (pixels, flip) = match self.augmentation {
            Some(Augmentation { scale, ratio, horizontal_flip, scaled_decoding }) => {
                let picture = decode_scaled(bytes, |size| {
                    let area = random_area(size, scale, ratio, || rng.random());
                    (area, if scaled_decoding { times_smaller(area, [width, height]) } else { 1 })
                })?;
                let all = Area { left: 0, top: 0, width, height };
                (resample(&picture, [width, height], all, how), horizontal_flip && rng.random())
            }
            None => {
                let picture = decode(bytes, whole)?;
                let size = shorter_side_to([picture.width, picture.height], self.preprocessing.resize);
                (resample(&picture, size, center(size, [width, height]), how), false)
            }
        };
        self.normalise(&pixels, flip, out);
        Ok(())
    }

    /// Writes the values of `pixels`, whose lines are as wide as the input, to the three planes of `out`.
    fn normalise(&self, pixels: &[u8], flip: bool, out: &mut [f32]) {
        let [height, width] = self.preprocessing.input;
        let [of_red, of_green, of_blue] = &self.tables;
        let (reds, others) = out.split_at_mut(height * width);
        let (greens, blues) = others.split_at_mut(height * width);
        let lines = |plane| <[f32]>::chunks_exact_mut(plane, width);
        let planes = lines(reds).zip(lines(greens)).zip(lines(blues));
        for (((reds, greens), blues), line) in planes.zip(pixels.chunks_exact(width * 3)) {
            let values = reds.iter_mut().zip(greens).zip(blues);
            let write = |(((r, g), b), &[red, green, blue]): (((&mut f32, &mut f32), &mut f32), &[u8; 3])| {
                *r = of_red[usize::from(red)];
                *g = of_green[usize::from(green)];
                *b = of_blue[usize::from(blue)];
            };
            let (line, _) = line.as_chunks();
            if flip { values.zip(line.iter().rev()).for_each(write) } else { values.zip(line).for_each(write) }
        }
    }
}

/// How many times smaller an image may be decoded so that its part `area` still has the pixels of the input.
fn times_smaller(area: Area, [width, height]: [usize; 2]) -> usize {
    [8, 4, 2].into_iter().find(|by| area.width >= by * width && area.height >= by * height).unwrap_or(1)
}

fn whole([width, height]: [usize; 2]) -> Area {
    Area { left: 0, top: 0, width, height }
}

/// `Resize(target)`: the shorter side becomes `target`, the longer one follows, rounded down. `[width, height]`.
fn shorter_side_to([width, height]: [usize; 2], target: usize) -> [usize; 2] {
    let longer = |long: usize, short: usize| (target as f64 * long as f64 / short as f64) as usize;
    if width <= height { [target, longer(height, width)] } else { [longer(width, height), target] }
}

/// `CenterCrop`; half a pixel goes to the even side, as Python rounds.
fn center([width, height]: [usize; 2], [to_width, to_height]: [usize; 2]) -> Area {
    let start = |length: usize, part: usize| ((length - part) as f64 / 2.0).round_ties_even() as usize;
    Area { left: start(width, to_width), top: start(height, to_height), width: to_width, height: to_height }
}

/// `RandomResizedCrop.get_params`: ten attempts at a part of random area and shape, then the largest part in the middle
/// whose shape is allowed. `draw` gives numbers that are uniform in `[0, 1)`.
fn random_area([width, height]: [usize; 2], scale: [f64; 2], ratio: [f64; 2], mut draw: impl FnMut() -> f64) -> Area {
    let mut between = |low: f64, high: f64| low + draw() * (high - low);
    let area = (width * height) as f64;
    for _ in 0..10 {
        let target = area * between(scale[0], scale[1]);
        let shape = between(ratio[0].ln(), ratio[1].ln()).exp();
        let w = (target * shape).sqrt().round_ties_even() as usize;
        let h = (target / shape).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            // A whole number from 0 to what is left over.
            let top = between(0.0, (height - h + 1) as f64) as usize;
            let left = between(0.0, (width - w + 1) as f64) as usize;
            return Area { left, top, width: w, height: h };
        }
    }
    let shape = width as f64 / height as f64;
    let (w, h) = if shape < ratio[0] {
        (width, (width as f64 / ratio[0]).round_ties_even() as usize)
    } else if shape > ratio[1] {
        ((height as f64 * ratio[1]).round_ties_even() as usize, height)
    } else {
        (width, height)
    };
    // An image of one pixel in one direction may leave nothing after rounding.
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    Area { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

#[cfg(test)]
mod tests;
