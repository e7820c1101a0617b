//! Which format a file is in.

use std::io::Read;
use std::path::Path;

use tch::Device;

use super::error::ExportError;
use super::verify::Exported;
use super::{onnx, torchscript};
use crate::train::OpenedRun;

/// How an ONNX file begins: the key of its format's version.
const ONNX: u8 = 0x08;

/// Opens an export of whatever format, on the device of the run's network where the format can choose.
///
/// # Errors
/// If the file is no export, or what runs its format is missing.
pub fn open(path: &Path, run: &OpenedRun) -> Result<Box<dyn Exported>, ExportError> {
    let mut first = [0; 1];
    let begins = std::fs::File::open(path).and_then(|mut file| file.read(&mut first));
    if begins.is_ok_and(|read| read == 1 && first[0] == ONNX) || path.extension().is_some_and(|e| e == "onnx") {
        return Ok(Box::new(onnx::File::open(path)?));
    }
    let device = run.model.network.tensors()?.first().map_or(Device::Cpu, |named| named.tensor.device());
    Ok(Box::new(torchscript::File::open(path, device)?))
}
