//! The only unsafe code and the only C++: a TorchScript network whose activation functions call back into Rust, and the
//! autograd functions of the quantizer and of the codec.
//!
//! Everything above this module works with [`tch::Tensor`] and [`Network`] in safe Rust; C++ exceptions arrive here as
//! [`LibtorchError`] with a readable text.

mod bake;
mod codec;
mod error;
mod ffi;
mod listing;
mod network;
mod quantize;
mod runtime;
mod unshared;

pub use bake::{Baked, BakedSite, BakedTransform, Folded, extra_file};
pub use codec::{Affine, CodecParts, codec};
pub use error::LibtorchError;
pub use listing::{Argument, Constant, Listing, Step, ValueKind, ValueType};
pub use network::{
    Asked, Compute, Fold, Hooked, NamedTensor, Network, Observed, Position, RawSite, RawStored, Saved, Survey,
};
pub use quantize::{Clamp, Codes, quantize};
pub use runtime::{cuda_devices, generator_state, peak_memory, set_deterministic, set_generator_state, version};
pub use unshared::Unshared;
