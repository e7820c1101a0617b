use crate::libtorch::LibtorchError;

/// A network that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// libtorch's part failed.
    #[error(transparent)]
    Libtorch(#[from] LibtorchError),
    /// The result is not a batch of logits.
    #[error(
        "the network returns shape {shape:?} for one image, expected [1, classes]\n  help: dimbit compresses classifiers; export the part that ends in logits"
    )]
    NotAClassifier {
        /// The result's shape.
        shape: Vec<i64>,
    },
    /// There is nothing to compress.
    #[error(
        "no activation function ran in `forward`, so there is no site to compress\n  help: frozen or optimized TorchScript fuses them away; export with torch.jit.script or torch.jit.trace alone"
    )]
    NoSites,
}
