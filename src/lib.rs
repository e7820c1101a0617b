//! Compresses the activations of convolutional networks: a TorchScript network and a recipe go in, a fine-tuned network
//! comes out whose activation tensors are stored in few bits.
//!
//! Rooms, each with one concern, from the ground up: [`libtorch`] (the only unsafe code), [`recipe`], [`data`], [`model`],
//! [`compress`] (the paper's method), [`train`], [`report`], [`export`], [`cli`].

pub mod cli;
pub mod compress;
pub mod data;
pub mod export;
pub mod libtorch;
pub mod model;
pub mod recipe;
pub mod report;
pub mod train;
