use std::path::PathBuf;

/// What can go wrong below the safe face of libtorch.
#[derive(Debug, thiserror::Error)]
pub enum LibtorchError {
    /// The model file is missing or can't be read.
    #[error("can't read the model file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is no TorchScript archive, or a damaged one, or its `forward` doesn't fit.
    #[error("can't use {} as a TorchScript network: {reason}\n  help: {help}", path.display())]
    NotANetwork {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        help: &'static str,
    },
    /// `forward` failed on an input.
    #[error(
        "the network failed on an input of shape {input:?} ([batch, channels, height, width]): {reason}\n  help: check `input` (CxHxW) against what the network was made for"
    )]
    Forward {
        /// The input's shape.
        input: Vec<i64>,
        /// libtorch's reason.
        reason: String,
    },
    /// A site's hook failed; the source says why.
    #[error("at site {site}")]
    Hook {
        /// Index of the site.
        site: usize,
        /// The hook's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A call into libtorch failed.
    #[error("libtorch can't {what}: {reason}")]
    Call {
        /// The operation.
        what: &'static str,
        /// libtorch's reason.
        reason: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
}
