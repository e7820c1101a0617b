//! A data set of small images of one shape on the network's input.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;

use super::augment::{Placement, Renderer};
use super::{DataError, Dataset, Samples, Stored};

/// How images land on the network's input.
#[derive(Clone, Debug, PartialEq)]
pub struct CanvasOptions {
    /// The network's input, `[channels, height, width]`: smaller images are centred in it on black,
    /// images of one channel are repeated over all.
    pub input: [usize; 3],
    /// Mean of pixels in 0 to 1: one value, or one a channel of the input.
    pub mean: Vec<f32>,
    /// Standard deviation of pixels in 0 to 1: one value, or one a channel of the input.
    pub std: Vec<f32>,
    /// Largest random shift in each direction, in pixels; what is uncovered is black. 0 for none.
    pub crop_padding: usize,
    /// Whether images are mirrored left to right with probability ½.
    pub horizontal_flip: bool,
}

/// The images of a data set, each on a canvas of the input's shape.
pub struct Canvas {
    dataset: Arc<dyn Dataset>,
    renderer: Renderer,
    crop_padding: usize,
    horizontal_flip: bool,
}

impl Canvas {
    /// Checks that the options make sense for the data set; reads nothing of it yet.
    ///
    /// # Errors
    /// Images that do not fit the input, and options that can't be meant: see [`DataError`].
    pub fn new(dataset: Arc<dyn Dataset>, options: CanvasOptions) -> Result<Self, DataError> {
        let CanvasOptions { input, mean, std, crop_padding: padding, horizontal_flip } = options;
        let image = dataset.image_shape();
        let renderer = Renderer::new(image, input, &mean, &std)?;
        let side = image[1].min(image[2]);
        if padding > 0 && padding >= side {
            return Err(DataError::CropPadding { padding, side });
        }
        Ok(Self { dataset, renderer, crop_padding: padding, horizontal_flip })
    }
}

impl Samples for Canvas {
    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn label(&self, index: usize) -> i64 {
        self.dataset.label(index)
    }

    fn render(
        &self,
        index: usize,
        _stored: Option<Result<Stored, String>>,
        rng: &mut ChaCha8Rng,
        out: &mut [f32],
    ) -> Result<bool, DataError> {
        let placement = Placement::random(self.crop_padding, self.horizontal_flip, rng);
        self.renderer.render(&self.dataset.image(index), placement, out);
        Ok(true)
    }
}
