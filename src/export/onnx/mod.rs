//! A run as one ONNX file of standard operators, for ONNX Runtime and whatever else reads ONNX; see `docs/export.md`.
//!
//! The network that goes in is the one of [`torchscript`](super::torchscript): baked, with the same folds. Its operations
//! come as a list of data ([`Listing`]), and each becomes one of ONNX's operators or a few.

mod convert;
mod engine;
mod file;
mod graph;
mod layers;
mod pointwise;
mod proto;
mod quantizer;
mod shapes;

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;

pub use engine::Engine;
pub use file::File;

use self::convert::{Refusal, convert};
use self::proto::{ModelProto, OperatorSetIdProto, StringStringEntryProto};
use super::bake::{Options, bake, write_whole};
use super::error::ExportError;
use super::metadata::{METADATA, Metadata};
use crate::libtorch::{Baked, Listing};
use crate::train::OpenedRun;

/// The version of ONNX's operators that a file is made of.
pub const OPERATOR_SET: i64 = 17;

/// The version of the format that goes with it.
const FORMAT_VERSION: i64 = 8;

/// Writes a run. The file appears whole or not at all.
///
/// # Errors
/// [`ExportError::Write`] if the path can't be written, [`ExportError::Unsupported`] if the network does what ONNX has no
/// operator for, [`ExportError::Libtorch`] if it holds what no file can carry.
pub fn write(run: &OpenedRun, options: Options, path: &Path) -> Result<Metadata, ExportError> {
    write_whole(path, |partial| {
        let (baked, metadata) = bake(run, options)?;
        let text = serde_json::to_string_pretty(&metadata).map_err(|e| ExportError::write(path, e))?;
        let keys = metadata.sites.iter().map(|site| (site.name.clone(), site.key.clone())).collect();
        let bytes = encode(&baked, metadata.input.shape, &keys, &[(METADATA, &text)])?;
        std::fs::write(partial, bytes).map_err(|e| ExportError::write(path, e))?;
        Ok(metadata)
    })
}

/// A baked network as the bytes of an ONNX file. `input`: `[channels, height, width]` of its images. `keys`: the sites' keys
/// by their names. `metadata`: names and texts that the file carries.
///
/// # Errors
/// [`ExportError::Unsupported`] if the network does what ONNX has no operator for.
pub fn encode(
    baked: &Baked,
    input: [i64; 3],
    keys: &BTreeMap<String, String>,
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, ExportError> {
    let listing: Listing = baked.list(input).map_err(|error| ExportError::Unlistable { reason: error.to_string() })?;
    let graph = convert(&listing, keys).map_err(|refusal| match refusal {
        Refusal::Step { operator, place, reason } => ExportError::Unsupported { operator, place, reason },
        Refusal::Libtorch(error) => error.into(),
    })?;
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto { key: (*key).into(), value: (*value).into() };
    let model = ModelProto {
        ir_version: FORMAT_VERSION,
        producer_name: "dimbit".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPERATOR_SET }],
        metadata_props: metadata.iter().map(entry).collect(),
    };
    Ok(model.encode_to_vec())
}
