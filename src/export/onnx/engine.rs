//! ONNX Runtime, which runs ONNX files. Its library is found when it is needed.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use tch::{Device, Kind, Tensor};

use super::super::error::ExportError;

/// The variable that names the library.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// A network in ONNX Runtime, on the CPU, with as many threads as libtorch has.
#[derive(Debug)]
pub struct Engine {
    session: Session,
}

impl Engine {
    /// Loads the bytes of an ONNX file.
    ///
    /// # Errors
    /// [`ExportError::NoRuntime`] if the library can't be found or loaded, or the library's own reason for refusing the
    /// file, as text.
    pub fn new(bytes: &[u8]) -> Result<Result<Self, String>, ExportError> {
        load_library()?;
        Ok(session(bytes).map(|session| Self { session }).map_err(|e| e.to_string()))
    }

    /// Runs the network. `images`: `[batch, channels, height, width]`; what comes back is on their device, in the order of
    /// the file's outputs, with their names; whole numbers are int8, uint8 and so on as in the file.
    ///
    /// # Errors
    /// The library's reason, as text.
    pub fn run(&mut self, images: &Tensor) -> Result<Vec<(String, Tensor)>, String> {
        let plain =
            images.f_to_device(Device::Cpu).and_then(|t| t.f_to_kind(Kind::Float)).and_then(|t| t.f_contiguous());
        let flat = plain.and_then(|t| t.f_reshape([-1])).map_err(|e| e.to_string())?;
        let values = Vec::<f32>::try_from(flat).map_err(|e| e.to_string())?;
        let input = TensorRef::from_array_view((images.size(), values.as_slice())).map_err(|e| e.to_string())?;
        let outputs = self.session.run(ort::inputs![input]).map_err(|e| e.to_string())?;
        let made = outputs.iter().map(|(name, value)| {
            let tensor = tensor(&value)?.f_to_device(images.device()).map_err(|e| e.to_string())?;
            Ok((name.to_owned(), tensor))
        });
        made.collect()
    }
}

fn session(bytes: &[u8]) -> ort::Result<Session> {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    let builder = Session::builder()?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(ort::Error::<()>::from)?;
    builder.with_intra_threads(threads).map_err(ort::Error::<()>::from)?.commit_from_memory(bytes)
}

/// A copy of a value.
fn tensor(value: &ort::value::DynValue) -> Result<Tensor, String> {
    fn of<T: tch::kind::Element>((shape, values): (&ort::value::Shape, &[T])) -> Result<Tensor, String> {
        let flat = Tensor::f_from_slice(values).map_err(|e| e.to_string())?;
        flat.f_reshape(&shape[..]).map_err(|e| e.to_string())
    }
    let as_f32 = value.try_extract_tensor::<f32>().map(of);
    let as_i8 = || value.try_extract_tensor::<i8>().map(of);
    let as_u8 = || value.try_extract_tensor::<u8>().map(of);
    as_f32.or_else(|_| as_i8()).or_else(|_| as_u8()).map_err(|e| e.to_string())?
}

/// Loads the library once.
fn load_library() -> Result<(), ExportError> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        let path = match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => std::path::absolute(path).map_err(|e| e.to_string())?,
            None => installed().ok_or("it is in no `.venv` here, and ORT_DYLIB_PATH is not set")?,
        };
        let builder = ort::init_from(&path).map_err(|e| e.to_string())?;
        builder.commit();
        Ok(())
    });
    loaded.clone().map_err(|reason| ExportError::NoRuntime { reason })
}

/// The library in the `.venv` of the current folder, of a folder around it, or of the checkout that this program was built in.
fn installed() -> Option<PathBuf> {
    let (here, program) = (std::env::current_dir().ok(), std::env::current_exe().ok());
    let folders = here.iter().chain(&program).flat_map(|path| path.ancestors());
    folders.map(|folder| folder.join(".venv/lib")).find_map(|lib| in_python(&lib))
}

fn in_python(lib: &Path) -> Option<PathBuf> {
    let entries = |folder: &Path| {
        let paths = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut paths: Vec<PathBuf> = paths.collect();
        paths.sort();
        Some(paths)
    };
    let named = |path: &Path, start: &str| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(start));
    let pythons = entries(lib)?.into_iter().filter(|path| named(path, "python3"));
    let mut libraries = pythons.filter_map(|python| entries(&python.join("site-packages/onnxruntime/capi"))).flatten();
    libraries.find(|path| named(path, "libonnxruntime.so"))
}
