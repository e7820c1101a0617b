//! What every format begins with: the run's network with its codecs as plain operations and what it is, and a file that
//! appears whole or not at all.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tch::no_grad;

use super::error::ExportError;
use super::metadata::{Metadata, SiteData};
use crate::compress::plain::PlainCodec;
use crate::libtorch::{Baked, BakedSite, BakedTransform};
use crate::report::folder_of;
use crate::train::OpenedRun;

/// How a run is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Let neighbouring layers do one half of a transform along, where that is exact.
    pub fold_transforms: bool,
    /// Fold batch normalisation into the layer before it.
    pub fold_batch_norm: bool,
}

/// Lets `work` write a temporary file beside `path`, which gets that name in the end.
///
/// # Errors
/// [`ExportError::Write`] if the path can't be written, before any work is done, or what `work` fails with.
pub(super) fn write_whole<T>(
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T, ExportError>,
) -> Result<T, ExportError> {
    if path.file_name().is_none() || path.is_dir() {
        return Err(ExportError::write(path, "it is a folder"));
    }
    // Before the work: a path that can't be written is known now.
    let folder = folder_of(path)?;
    // As other files have it, less the user's mask.
    let mut partial = tempfile::Builder::new();
    let partial = partial.prefix(".dimbit-").suffix(".tmp").permissions(Permissions::from_mode(0o666));
    // The error itself would name a file that nobody has asked for.
    let partial = partial.tempfile_in(folder).map_err(|e| ExportError::write(path, e.kind()))?;
    let done = work(partial.path())?;
    partial.as_file().sync_all().map_err(|e| ExportError::write(path, e))?;
    partial.persist(path).map_err(|e| ExportError::write(path, e.error))?;
    Ok(done)
}

/// Bakes a run's codecs into a copy of its network.
///
/// # Errors
/// [`ExportError::Libtorch`] if the network holds what a file can't carry.
pub(super) fn bake(run: &OpenedRun, options: Options) -> Result<(Baked, Metadata), ExportError> {
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
