//! Random images, made as they are asked for.

use std::borrow::Cow;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Dataset, Split};

/// Fields of noise that the channels share; the cells of each are twice as large as those of the one before.
const SCALES: usize = 6;

/// Largest deviation of one field from its mean.
const AMPLITUDE: i32 = 48;

/// Labelled images of noise: a pure function of seed, split and index, nothing is kept.
///
/// The noise has several scales and most of it is common to the channels, as in photographs: white noise would leave a
/// channel transform nothing to find.
#[derive(Clone, Debug)]
pub struct SyntheticDataset {
    images: usize,
    shape: [usize; 3],
    classes: usize,
    split: Split,
    seed: u64,
}

impl SyntheticDataset {
    /// `images` images of `shape`, `[channels, height, width]`, with labels below `classes`.
    pub fn new(images: usize, shape: [usize; 3], classes: usize, split: Split, seed: u64) -> Self {
        Self { images, shape, classes, split, seed }
    }

    /// A generator that no other (seed, split, image, purpose) shares.
    fn generator(&self, index: usize, purpose: u64) -> ChaCha8Rng {
        let split = match self.split {
            Split::Train => 0,
            Split::Validation => 1,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(index as u64 * 4 + split * 2 + purpose);
        rng
    }
}

impl Dataset for SyntheticDataset {
    fn len(&self) -> usize {
        self.images
    }

    fn image_shape(&self) -> [usize; 3] {
        self.shape
    }

    fn image(&self, index: usize) -> Cow<'_, [u8]> {
        let [channels, height, width] = self.shape;
        let mut rng = self.generator(index, 0);
        let mut common = vec![0_i32; height * width];
        for scale in 0..SCALES {
            add_noise(&mut common, width, scale, &mut rng);
        }
        let mut pixels = Vec::with_capacity(channels * common.len());
        for _ in 0..channels {
            let mut channel = common.clone();
            add_noise(&mut channel, width, 0, &mut rng);
            pixels.extend(channel.iter().map(|&value| (128 + value).clamp(0, 255) as u8));
        }
        Cow::Owned(pixels)
    }

    fn label(&self, index: usize) -> i64 {
        let classes = i64::try_from(self.classes).unwrap_or(i64::MAX).max(1);
        self.generator(index, 1).random_range(0..classes)
    }
}

/// Adds a field of noise whose cells are squares of `2^scale` pixels to rows of `width` pixels.
fn add_noise(plane: &mut [i32], width: usize, scale: usize, rng: &mut ChaCha8Rng) {
    let mut cells = vec![0_i32; width.div_ceil(1 << scale)];
    for (y, line) in plane.chunks_exact_mut(width).enumerate() {
        if y % (1 << scale) == 0 {
            cells.fill_with(|| rng.random_range(-AMPLITUDE..=AMPLITUDE));
        }
        for (x, value) in line.iter_mut().enumerate() {
            *value += cells[x >> scale];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(split: Split, seed: u64) -> SyntheticDataset {
        SyntheticDataset::new(64, [3, 33, 20], 10, split, seed)
    }

    #[test]
    fn an_image_depends_on_seed_split_and_index_alone() {
        let train = set(Split::Train, 5);
        assert_eq!((train.len(), train.image_shape(), train.image(7).len()), (64, [3, 33, 20], 3 * 33 * 20));
        assert_eq!(train.image(7), set(Split::Train, 5).image(7));
        for other in [train.image(8), set(Split::Validation, 5).image(7), set(Split::Train, 6).image(7)] {
            assert_ne!(train.image(7), other);
        }
    }

    #[test]
    fn labels_are_of_the_networks_classes_and_differ() {
        let labels: Vec<i64> = (0..64).map(|index| set(Split::Train, 0).label(index)).collect();
        assert!(labels.iter().all(|label| (0..10).contains(label)) && labels.iter().any(|&label| label != labels[0]));
        // A network that could not be loaded has no number of classes.
        for classes in [0, 1, usize::MAX] {
            assert!(SyntheticDataset::new(1, [1, 1, 1], classes, Split::Train, 0).label(0) >= 0);
        }
    }

    #[test]
    fn channels_and_neighbours_go_together_and_fill_the_range() {
        let image = set(Split::Train, 1).image(0).into_owned();
        let (plane, width) = (33 * 20, 20);
        let values = |from: usize| image[from..from + plane - width].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let correlation = |a: &[f64], b: &[f64]| {
            let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
            let (ma, mb) = (mean(a), mean(b));
            let product = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| f(a - ma, b - mb)).sum::<f64>();
            product(&|a, b| a * b) / (product(&|a, _| a * a) * product(&|_, b| b * b)).sqrt()
        };
        // Six of seven fields are common; of two rows one below the other about half of the fields are.
        assert!(correlation(&values(0), &values(plane)) > 0.7);
        assert!(correlation(&values(0), &values(width)) > 0.3);
        let (least, most) = (image.iter().min().unwrap(), image.iter().max().unwrap());
        assert!(most - least > 150, "{least} {most}");
    }
}
