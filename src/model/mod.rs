//! A TorchScript network with sites: the activation tensors that a device would write to memory and read back.

mod activation;
mod error;
mod loaded;

pub use activation::lower_bound;
pub use error::ModelError;
pub use loaded::{Model, Site, StoredTensor};
