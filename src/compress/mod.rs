//! The paper: joint dimension reduction and mixed-precision quantization of activation tensors.
//!
//! | idea | file |
//! |---|---|
//! | PCA of a site's channels, streamed over the training set | [`basis`] |
//! | learnable step and range, the inferred bit-width | [`quantizer`] |
//! | measured distortion of a coefficient at every step and width | [`distortion`] |
//! | automatic group partition, the choice of transforms, one water level for the whole network | [`partition`] |
//! | a site's transform, fixed or learned | [`transform`] |
//! | the site codec: transform, quantize, transform back | [`codec`] |
//! | halves of transforms that neighbouring layers carry out in training | [`folding`] |
//! | a codec as plain numbers, for exports | [`plain`] |
//! | all sites together, and the bits that they take | [`compressor`] |
//! | the budget that falls, and the multiplier that prices it | [`budget`] |
//! | dropped groups that come back | [`revival`] |
//! | integer widths that meet the target | [`freeze`] |
//! | a finished compressor's state | [`saved`] |
//! | a compressor's state in the middle of a search | [`midway`] |
//!
//! Decisions (`distortion`, `partition`, `revival`, `freeze`) are pure functions of statistics; only `basis`, `transform`,
//! `codec`, `folding`, `compressor`, `saved` and `midway` touch tensors. Nothing here reads or writes files.

pub mod basis;
pub mod budget;
pub mod codec;
pub mod compressor;
pub mod distortion;
pub mod folding;
pub mod freeze;
pub mod midway;
pub mod partition;
pub mod plain;
pub mod quantizer;
pub mod revival;
pub mod saved;
pub mod transform;
