//! A written ONNX file, opened to be verified.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message;
use tch::Tensor;

use super::super::error::ExportError;
use super::super::metadata::{METADATA, Metadata, SiteData};
use super::super::verify::{Answers, Exported};
use super::convert::{LOGITS, code_name};
use super::engine::Engine;
use super::proto::{GraphProto, ModelProto};

/// A written file, opened to be verified.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    /// The file as it is, which is what users run: its logits count.
    engine: Engine,
    /// A copy whose outputs are the codes as well; none where there are no codes. ONNX Runtime rewrites graphs by what their
    /// outputs are, so that it can't speak for the file.
    with_codes: Option<Engine>,
    metadata: Metadata,
}

impl File {
    /// Opens an export.
    ///
    /// # Errors
    /// [`ExportError::NotAnExport`] if the file is anything else, [`ExportError::NoRuntime`] without ONNX Runtime.
    pub fn open(path: &Path) -> Result<Self, ExportError> {
        let again = "give a file that `dimbit export --format onnx` wrote";
        let error = |reason: String, help| ExportError::NotAnExport { path: path.to_path_buf(), reason, help };
        let mut bytes = std::fs::read(path).map_err(|e| error(e.to_string(), "check the path and its permissions"))?;
        let model = ModelProto::decode(bytes.as_slice());
        let model = model.map_err(|e| error(format!("it is no ONNX file, or was cut short ({e})"), again))?;
        let text = model.metadata_props.iter().find(|entry| entry.key == METADATA);
        let text = text.ok_or_else(|| error(format!("it carries no {METADATA}"), again))?;
        let metadata: Metadata =
            serde_json::from_str(&text.value).map_err(|e| error(format!("its {METADATA} is damaged: {e}"), again))?;
        let mut wanted = Vec::new();
        for site in metadata.sites.iter().filter(|site| has_codes(site)) {
            let name = code_name(&site.key);
            let value = model.graph.iter().flat_map(|graph| &graph.value_info).find(|value| value.name == name);
            let value = value.ok_or_else(|| error(format!("it has no value `{name}` any more"), again))?;
            wanted.push(value.clone());
        }
        let engine = Engine::new(&bytes)?.map_err(|reason| error(reason, again))?;
        let mut with_codes = None;
        if !wanted.is_empty() {
            // Messages that stand one behind the other are one message with the lists of both: the codes come out as well.
            let outputs = GraphProto { output: wanted, ..GraphProto::default() };
            bytes.extend(ModelProto { graph: Some(outputs), ..ModelProto::default() }.encode_to_vec());
            with_codes = Some(Engine::new(&bytes)?.map_err(|reason| error(reason, again))?);
        }
        Ok(Self { path: path.to_path_buf(), engine, with_codes, metadata })
    }
}

/// Whether anything of a site is stored.
fn has_codes(site: &SiteData) -> bool {
    site.transform == "none" || site.groups.iter().any(|group| group.bits > 0)
}

impl Exported for File {
    fn path(&self) -> &Path {
        &self.path
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn run(&mut self, images: &Tensor) -> Result<Answers, ExportError> {
        let path = self.path.clone();
        let failed = |reason: String| ExportError::Failed { path: path.clone(), images: images.size(), reason };
        let made = self.engine.run(images).map_err(failed)?;
        let logits = made.into_iter().find(|(name, _)| name == LOGITS).map(|(_, logits)| logits);
        let logits = logits.ok_or_else(|| failed("it returned no logits".into()))?;
        let mut made = BTreeMap::new();
        if let Some(engine) = &mut self.with_codes {
            made.extend(engine.run(images).map_err(failed)?);
        }
        let mut codes = BTreeMap::new();
        for site in &self.metadata.sites {
            let Some(found) = made.remove(&code_name(&site.key)) else { continue };
            // With a transform, the file has the coefficients last.
            let moved = site.transform != "none" && !site.channels_last && found.dim() > 2;
            codes.insert(site.name.clone(), if moved { found.f_movedim_int(-1, 1)? } else { found });
        }
        Ok(Answers { logits, codes })
    }
}
