//! A run as one TorchScript file: the fine-tuned network with its codecs as plain operations, and what it is as
//! [`Metadata`]. `torch.jit.load` runs it with no extension; see `docs/export.md`.

use std::path::{Path, PathBuf};

use tch::{CModule, Device, IValue, Tensor, no_grad};

use super::bake::{Options, bake, write_whole};
use super::error::ExportError;
use super::metadata::{METADATA, Metadata};
use super::verify::{Answers, Exported};
use crate::libtorch::{LibtorchError, extra_file};
use crate::train::OpenedRun;

/// Writes a run. The file appears whole or not at all.
///
/// # Errors
/// [`ExportError::Write`] if the path can't be written, [`ExportError::Libtorch`] if the network holds what a file can't
/// carry.
pub fn write(run: &OpenedRun, options: Options, path: &Path) -> Result<Metadata, ExportError> {
    write_whole(path, |partial| {
        let (baked, metadata) = bake(run, options)?;
        let text = serde_json::to_string_pretty(&metadata).map_err(|e| ExportError::write(path, e))?;
        baked.save(partial, (METADATA, &text)).map_err(|e| ExportError::write(path, e))?;
        Ok(metadata)
    })
}

/// A written file, opened to be verified.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    module: CModule,
    metadata: Metadata,
}

impl File {
    /// Opens an export.
    ///
    /// # Errors
    /// [`ExportError::NotAnExport`] if the file is anything else.
    pub fn open(path: &Path, device: Device) -> Result<Self, ExportError> {
        let error = |reason: String, help| ExportError::NotAnExport { path: path.to_path_buf(), reason, help };
        let again = "give a file that `dimbit export --format torchscript` wrote";
        let exists = std::fs::File::open(path).and_then(|file| file.metadata());
        let about = exists.map_err(|e| error(e.to_string(), "check the path and its permissions"))?;
        if about.is_dir() {
            return Err(error("it is a folder".into(), again));
        }
        let first = |e: LibtorchError| match e {
            LibtorchError::Call { reason, .. } => reason.lines().next().unwrap_or_default().to_owned(),
            other => other.to_string(),
        };
        let text = extra_file(path, METADATA)
            .map_err(|e| error(format!("it is no TorchScript file, or was cut short ({})", first(e)), again))?;
        let text = text.ok_or_else(|| error(format!("it carries no {METADATA}"), again))?;
        let metadata =
            serde_json::from_str(&text).map_err(|e| error(format!("its {METADATA} is damaged: {e}"), again))?;
        let module = CModule::load_on_device(path, device).map_err(|e| error(first(e.into()), again))?;
        Ok(Self { path: path.to_path_buf(), module, metadata })
    }
}

impl Exported for File {
    fn path(&self) -> &Path {
        &self.path
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn run(&mut self, images: &Tensor) -> Result<Answers, ExportError> {
        let failed = |reason: String| ExportError::Failed { path: self.path.clone(), images: images.size(), reason };
        let result = no_grad(|| self.module.method_is("forward_and_codes", &[IValue::Tensor(images.shallow_clone())]));
        let result = result.map_err(|e| failed(e.to_string()))?;
        let IValue::Tuple(parts) = result else { return Err(failed("it returned no tuple".into())) };
        let mut parts = parts.into_iter();
        let (Some(IValue::Tensor(logits)), Some(IValue::GenericDict(items))) = (parts.next(), parts.next()) else {
            return Err(failed("it returned no logits with codes".into()));
        };
        let codes = items.into_iter().filter_map(|item| match item {
            (IValue::String(name), IValue::Tensor(codes)) => Some((name, codes)),
            _ => None,
        });
        Ok(Answers { logits, codes: codes.collect() })
    }
}
