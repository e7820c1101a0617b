//! A run as one TorchScript file: the fine-tuned network with its codecs as plain operations, and what it is as
//! [`Metadata`]. `torch.jit.load` runs it with no extension; see `docs/export.md`.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tch::{CModule, Device, IValue, Tensor, no_grad};

use super::error::ExportError;
use super::metadata::{METADATA, Metadata, SiteData};
use super::verify::{Answers, Exported};
use crate::compress::plain::PlainCodec;
use crate::libtorch::{Baked, BakedSite, BakedTransform, LibtorchError, extra_file};
use crate::train::OpenedRun;

/// How a run is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Let neighbouring layers do one half of a transform along, where that is exact.
    pub fold_transforms: bool,
    /// Fold batch normalisation into the layer before it.
    pub fold_batch_norm: bool,
}

/// Writes a run. The file appears whole or not at all.
///
/// # Errors
/// [`ExportError::Write`] if the path can't be written, [`ExportError::Libtorch`] if the network holds what a file can't
/// carry.
pub fn write(run: &OpenedRun, options: Options, path: &Path) -> Result<Metadata, ExportError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.file_name().is_none() || path.is_dir() {
        return Err(ExportError::write(path, "it is a folder"));
    }
    // Before the work: a path that can't be written is known now. As other files have it, less the user's mask.
    let mut partial = tempfile::Builder::new();
    let partial = partial.prefix(".dimbit-").suffix(".tmp").permissions(Permissions::from_mode(0o666));
    let partial = partial.tempfile_in(folder).map_err(|e| ExportError::write(path, e))?;
    let (baked, metadata) = bake(run, options)?;
    let text = serde_json::to_string_pretty(&metadata).map_err(|e| ExportError::write(path, e))?;
    baked.save(partial.path(), (METADATA, &text)).map_err(|e| ExportError::write(path, e))?;
    partial.as_file().sync_all().map_err(|e| ExportError::write(path, e))?;
    partial.persist(path).map_err(|e| ExportError::write(path, e.error))?;
    Ok(metadata)
}

fn bake(run: &OpenedRun, options: Options) -> Result<(Baked, Metadata), ExportError> {
    let codecs = run.compressor.as_ref().map(|c| c.codecs.as_slice()).unwrap_or_default();
    let (mut plain, mut groups) = (Vec::new(), Vec::new());
    if let Some(compressor) = &run.compressor {
        let quantizers = no_grad(|| compressor.quantizers())?;
        plain = codecs.iter().map(|codec| codec.plain(&quantizers)).collect::<Result<Vec<_>, _>>()?;
        groups = compressor.groups_now()?;
    }
    let keys = keys(codecs.iter().map(|codec| codec.site.name.as_str()));
    let mut sites = Vec::new();
    for ((codec, plain), key) in codecs.iter().zip(&plain).zip(&keys) {
        let site = &codec.site;
        let PlainCodec { position, step, offset, low, high, lower_bound, .. } = plain;
        sites.push(BakedSite {
            index: site.index,
            name: &site.name,
            key,
            dimensions: site.shape.len() + 1,
            channels_last: site.channels_last,
            fold: options.fold_transforms && site.folds(*position),
            position: *position,
            step,
            offset,
            low,
            high,
            transform: plain.transform.as_ref().map(|t| BakedTransform {
                analysis: &t.analysis,
                bias: &t.bias,
                synthesis: &t.synthesis,
                mean: &t.mean,
            }),
            lower_bound: *lower_bound,
        });
    }
    let baked = Baked::new(&run.model.network, &sites, options.fold_batch_norm)?;
    let folded = baked.folded();
    let sites = codecs.iter().zip(&keys).zip(&groups);
    let sites = sites.map(|((codec, key), now)| SiteData::new(codec, key, now, folded.transforms.contains(key)));
    let metadata = Metadata::new(run, sites.collect(), folded.batch_norms.clone())?;
    Ok((baked, metadata))
}

/// Identifiers for names, unlike one another.
fn keys<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut keys = Vec::new();
    for name in names {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let plain = if plain.starts_with(|c: char| c.is_ascii_digit()) { format!("_{plain}") } else { plain };
        let numbered = (2..).map(|count| format!("{plain}_{count}"));
        let key = std::iter::once(plain.clone()).chain(numbered).find(|key| !taken.contains(key));
        let key = key.unwrap_or(plain);
        taken.insert(key.clone());
        keys.push(key);
    }
    keys
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

#[cfg(test)]
mod tests {
    use super::keys;

    #[test]
    fn keys_are_identifiers_and_differ() {
        let names = ["layer1.0.relu", "layer1.0.relu#2", "layer1_0_relu", "0.relu", "a#2", "a_2"];
        let wanted = ["layer1_0_relu", "layer1_0_relu_2", "layer1_0_relu_3", "_0_relu", "a_2", "a_2_2"];
        assert_eq!(keys(names.into_iter()), wanted);
    }
}
