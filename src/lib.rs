//! Compresses the activations of convolutional networks.
pub mod libtorch;
