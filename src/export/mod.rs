//! What leaves: the activation [`container`].

pub mod container;
