//! A TorchScript network with hooks at its activation functions.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use tch::{Device, Tensor};
use torch_sys::C_tensor;

use super::error::LibtorchError;
use super::ffi::{self, CNetwork, call};

/// Where a hook stands relative to the activation function of its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The hook sees the pre-activation; what it returns enters the activation function.
    Before,
    /// The hook sees the activation function's result.
    After,
}

/// What a hook makes of a tensor.
#[derive(Debug)]
pub enum Hooked {
    /// The run goes on with the tensor that the hook was given.
    Unchanged,
    /// The run goes on with this one instead.
    Replaced(Tensor),
    /// Before the activation function: the function's result, whatever the hook put into it. The function is skipped, and
    /// so is the hook behind it.
    Activated(Tensor),
}

/// What a run asks of a training pass at a site.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// What to go on with in place of this tensor.
    Tensor(Position, &'a Tensor),
    /// Whether neighbouring layers are to carry out half of the codec's transform: the layer in front the analysis of a codec
    /// before the activation function, the readers the synthesis of one behind it. [`Hooked::Replaced`] holds that half, its
    /// matrix with the constant as a last row: `[channels + 1, kept]` or `[kept + 1, channels]`. Then coefficients come in at
    /// the codec, or have to go out. It is asked only where it is exact: of a layer in front before its tensor comes, with
    /// batch normalisation between the two in evaluation; of readers behind the codec's own answer, where
    /// [`RawSite::readers_train_folded`] says so.
    Fold(Position),
}

/// What the layers behind a codec keep of its output for their backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Saved {
    /// The output itself.
    #[default]
    Full,
    /// The codes that it was made from, each as wide as its group has codes; backward makes the output from them anew, the
    /// same to the last bit. Convolutions and max-poolings do so, behind a [`quantize`](super::quantize) or a
    /// [`codec`](super::codec) that ran in one pass on the CPU; other layers keep the output.
    Packed,
}

impl From<Option<Tensor>> for Hooked {
    fn from(replaced: Option<Tensor>) -> Self {
        replaced.map_or(Self::Unchanged, Self::Replaced)
    }
}

/// An activation function of the inlined `forward`.
#[derive(Debug, Clone, Deserialize)]
pub struct RawSite {
    /// Dotted name, with `#2` for a module's second use.
    pub name: String,
    /// The function's plain name: `relu`, `hardtanh`, `silu`, …
    pub kind: String,
    /// Name of the node that makes the pre-activation.
    pub producer: String,
    /// Names of the nodes that read the result.
    pub consumers: Vec<String>,
    /// Constant lower bound of `hardtanh` and `clamp`.
    pub low: Option<f64>,
    /// Constant upper bound of `hardtanh` and `clamp`.
    pub high: Option<f64>,
    /// The channels are the last dimension, as after a linear layer, rather than the second.
    pub channels_last: bool,
    /// Where the forward half of a channel transform of the pre-activation folds into its producers.
    pub folds_forward: Fold,
    /// Where the inverse half of a channel transform behind the activation function folds into its readers.
    pub folds_inverse: Fold,
    /// The readers can take the inverse half over while they train.
    pub readers_train_folded: bool,
}

/// For which shapes half of a site's channel transform folds exactly into the layers around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fold {
    /// For none, or that can't be told.
    Never,
    /// For `[batch, channels]` alone: a linear layer mixes the last dimension, which is the channels' there and only there.
    Flat,
    /// For all.
    Always,
}

impl Fold {
    /// Whether it folds at a site of this shape for one image: `[channels, height, width]`, or `[channels]`.
    pub fn holds_for(self, shape: &[i64]) -> bool {
        match self {
            Self::Never => false,
            Self::Flat => shape.len() == 1,
            Self::Always => true,
        }
    }
}

/// A convolution or matrix product.
#[derive(Debug, Clone, Deserialize)]
pub struct Compute {
    /// Dotted name.
    pub name: String,
    /// `conv2d`, `linear`, …
    pub kind: String,
}

/// A tensor that a device writes to memory and reads back when conv + BN + (add) + activation are one kernel.
#[derive(Debug, Clone, Deserialize)]
pub struct RawStored {
    /// Dotted name of its producer.
    pub name: String,
    /// The sites whose codes it holds; empty if none covers it.
    pub sites: Vec<usize>,
}

/// What a walk over the inlined graph found, in the graph's order.
#[derive(Debug, Clone, Deserialize)]
pub struct Survey {
    /// The activation functions.
    pub sites: Vec<RawSite>,
    /// The convolutions and matrix products.
    pub computes: Vec<Compute>,
    /// The stored tensors.
    pub stored: Vec<RawStored>,
    /// There are batch normalisations, and every one is fixed to evaluation, as `torch.jit.trace` leaves them.
    pub norm_is_baked: bool,
}

/// Shapes that one probe run has seen, in the order of the [`Survey`]; `None` where a node did not run.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Output shape of each site.
    pub sites: Vec<Option<Vec<i64>>>,
    /// Output and weight shape of each compute node.
    pub computes: Vec<Option<(Vec<i64>, Vec<i64>)>>,
    /// Shape of each stored tensor.
    pub stored: Vec<Option<Vec<i64>>>,
}

/// A parameter or buffer under its true dotted name. The tensor shares the network's storage.
#[derive(Debug)]
pub struct NamedTensor {
    /// Dotted name as in Python's `state_dict`.
    pub name: String,
    /// The storage itself, not a copy.
    pub tensor: Tensor,
    /// A parameter rather than a buffer.
    pub is_parameter: bool,
}

/// A loaded TorchScript module, its survey, and its instrumented forward.
///
/// In memory, 4-D parameters and images lie channels last, whatever they come as: convolutions run on their fast kernels
/// and hand on tensors that are matrices `[batch · height · width, channels]` without a copy. Every `view` of the module
/// becomes a `reshape`, since a network written for contiguous tensors may flatten a feature map by one.
pub struct Network {
    handle: *mut CNetwork,
    survey: Survey,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("sites", &self.survey.sites.len()).finish_non_exhaustive()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // SAFETY: the handle came from C++ and is freed once.
        unsafe { ffi::dimbit_network_free(self.handle) }
    }
}

const EXPORT_HELP: &str =
    "make the file with `torch.jit.script(model).save(path)` or `torch.jit.trace(model, example).save(path)`";

impl Network {
    /// Loads a file written by `torch.jit.save`, onto the CPU.
    ///
    /// # Errors
    /// [`LibtorchError::Unreadable`] for a missing file, [`LibtorchError::NotANetwork`] for one that is truncated,
    /// foreign, a mere state dict, or whose `forward` does not take a single tensor.
    pub fn load(path: &Path) -> Result<Self, LibtorchError> {
        let not_a_network =
            |reason: String, help| LibtorchError::NotANetwork { path: path.to_path_buf(), reason, help };
        let mut magic = [0_u8; 4];
        let read = File::open(path)
            .and_then(|mut file| {
                if path.is_dir() {
                    Err(std::io::ErrorKind::IsADirectory.into())
                } else {
                    read_some(&mut file, &mut magic)
                }
            })
            .map_err(|source| LibtorchError::Unreadable { path: path.to_path_buf(), source })?;
        if read < magic.len() || &magic != b"PK\x03\x04" {
            return Err(not_a_network("it isn't a TorchScript archive (no zip signature)".into(), EXPORT_HELP));
        }
        let c_path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| not_a_network("its path holds a zero byte".into(), EXPORT_HELP))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `c_path` outlives the call, `handle` is written on success only.
        call(|error| unsafe { ffi::dimbit_network_load(c_path.as_ptr(), &mut handle, error) }).map_err(|reason| {
            if reason.contains("forward") {
                not_a_network(reason, "wrap the model in a module whose `forward` takes one image batch")
            } else if reason.contains("constants.pkl") || reason.contains("/code/") {
                not_a_network(
                    "it is an archive of `torch.save` (a state dict or an eager module), without code".into(),
                    EXPORT_HELP,
                )
            } else {
                let help = "the file is damaged or was cut short: copy or export it again";
                not_a_network(reason.lines().next().unwrap_or_default().to_owned(), help)
            }
        })?;
        Self::from_handle(handle)
    }

    /// A deep copy: its parameters and buffers are its own.
    ///
    /// # Errors
    /// If libtorch can't copy the module.
    pub fn deep_copy(&self) -> Result<Self, LibtorchError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: `self.handle` is live.
        call(|error| unsafe { ffi::dimbit_network_copy(self.handle, &mut handle, error) })
            .map_err(|reason| LibtorchError::Call { what: "copy the network", reason })?;
        Self::from_handle(handle)
    }

    /// The C++ object, for as long as `self` lives.
    pub(super) fn handle(&self) -> *const CNetwork {
        self.handle
    }

    fn from_handle(handle: *mut CNetwork) -> Result<Self, LibtorchError> {
        let mut network =
            Self { handle, survey: Survey { sites: vec![], computes: vec![], stored: vec![], norm_is_baked: false } };
        let mut text = std::ptr::null_mut();
        // SAFETY: the handle is live; the text is taken over below.
        call(|error| unsafe { ffi::dimbit_network_survey(network.handle, &mut text, error) })
            .map_err(|reason| LibtorchError::Call { what: "survey the network", reason })?;
        // SAFETY: C++ hands over a malloc'ed text.
        let json = unsafe { ffi::take_text(text) };
        network.survey = serde_json::from_str(&json)
            .map_err(|e| LibtorchError::Call { what: "survey the network", reason: e.to_string() })?;
        Ok(network)
    }

    /// The sites, compute nodes and stored tensors of `forward`.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Writes the module as TorchScript, weights as they are now, with contiguous parameters as readers expect them.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save(&self, path: &Path) -> Result<(), LibtorchError> {
        let what = "save the network";
        let c_path = CString::new(path.as_os_str().as_bytes())
            .map_err(|e| LibtorchError::Call { what, reason: e.to_string() })?;
        // SAFETY: both pointers are live.
        call(|error| unsafe { ffi::dimbit_network_save(self.handle, c_path.as_ptr(), error) })
            .map_err(|reason| LibtorchError::Call { what, reason })
    }

    /// All parameters, then all buffers. They share the network's storage.
    ///
    /// # Errors
    /// If libtorch can't enumerate them.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>, LibtorchError> {
        unsafe extern "C" fn visit(
            context: *mut c_void,
            name: *const c_char,
            is_parameter: c_int,
            tensor: *mut C_tensor,
        ) {
            // SAFETY: `context` is the vector below, `name` a C string, `tensor` handed over to us.
            unsafe {
                let list = &mut *context.cast::<Vec<NamedTensor>>();
                let name = CStr::from_ptr(name).to_string_lossy().into_owned();
                list.push(NamedTensor { name, tensor: Tensor::from_ptr(tensor), is_parameter: is_parameter != 0 });
            }
        }
        let mut list: Vec<NamedTensor> = Vec::new();
        let context = (&raw mut list).cast();
        // SAFETY: `list` outlives the call, which calls back on this thread only.
        call(|error| unsafe { ffi::dimbit_network_tensors(self.handle, visit, context, error) })
            .map_err(|reason| LibtorchError::Call { what: "list the parameters", reason })?;
        Ok(list)
    }

    /// Whether the file fixes batch normalisation to evaluation, as `torch.jit.trace` does with a network in evaluation.
    pub fn norm_is_baked(&self) -> bool {
        self.survey.norm_is_baked
    }

    /// Training or evaluation mode. With `freeze_norm`, batch normalisation stays in evaluation while the rest trains.
    ///
    /// # Errors
    /// If the module refuses.
    pub fn set_train(&mut self, train: bool, freeze_norm: bool) -> Result<(), LibtorchError> {
        // SAFETY: the handle is live.
        call(|error| unsafe { ffi::dimbit_network_train(self.handle, train.into(), freeze_norm.into(), error) })
            .map_err(|reason| LibtorchError::Call { what: "switch between training and evaluation", reason })
    }

    /// Evaluation mode, and on the CPU tensors that are contiguous instead of channels last: libtorch's convolutions are two to four
    /// times as exact so, and exports are compared with what they give. [`Self::set_train`] leads back.
    ///
    /// # Errors
    /// If the module refuses.
    pub fn set_exact_evaluation(&mut self) -> Result<(), LibtorchError> {
        // SAFETY: the handle is live.
        call(|error| unsafe { ffi::dimbit_network_evaluate(self.handle, error) })
            .map_err(|reason| LibtorchError::Call { what: "switch to evaluation", reason })
    }

    /// Moves parameters and buffers.
    ///
    /// # Errors
    /// If the device isn't there or is full.
    pub fn to_device(&mut self, device: Device) -> Result<(), LibtorchError> {
        let (kind, index) = match device {
            Device::Cuda(index) => (1, c_int::try_from(index).unwrap_or(c_int::MAX)),
            _ => (-1, 0),
        };
        // SAFETY: the handle is live.
        call(|error| unsafe { ffi::dimbit_network_to(self.handle, kind, index, error) })
            .map_err(|reason| LibtorchError::Call { what: "move the network to the device", reason })
    }

    /// The module's own forward, uninstrumented. `input`: `[batch, channels, height, width]` → `[batch, classes]`.
    ///
    /// # Errors
    /// [`LibtorchError::Forward`] if the input doesn't fit.
    pub fn forward_plain(&self, input: &Tensor) -> Result<Tensor, LibtorchError> {
        let mut output = std::ptr::null_mut();
        // SAFETY: handle and input are live; the output is handed over.
        call(|error| unsafe { ffi::dimbit_network_run_plain(self.handle, input.as_ptr(), &mut output, error) })
            .map_err(|reason| LibtorchError::Forward { input: input.size(), reason })?;
        // SAFETY: set on success, owned by us.
        Ok(unsafe { Tensor::from_ptr(output) })
    }

    /// Runs the instrumented forward: at each site, `hook(site, position, tensor)` may replace the tensor ([`Hooked`], or
    /// `Some`) or leave it (`None`). Gradients flow through whatever the hook did. `input`: `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// [`LibtorchError::Hook`] with the hook's own error, [`LibtorchError::Forward`] if the input doesn't fit.
    pub fn forward<F, H, E>(&self, input: &Tensor, mut hook: F) -> Result<Tensor, LibtorchError>
    where
        F: FnMut(usize, Position, &Tensor) -> Result<H, E>,
        H: Into<Hooked>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (logits, _) = self.forward_training(input, Saved::Full, |site, asked| match asked {
            Asked::Tensor(position, x) => hook(site, position, x).map(Into::into),
            Asked::Fold(_) => Ok(Hooked::Unchanged),
        })?;
        Ok(logits)
    }

    /// Like [`Self::forward`], with a say in what layers keep of the tensors that are put in, and in what they carry out
    /// themselves ([`Asked`]). Returns also at how many sites layers keep codes.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_training<F, E>(
        &self,
        input: &Tensor,
        saved: Saved,
        mut answer: F,
    ) -> Result<(Tensor, usize), LibtorchError>
    where
        F: FnMut(usize, Asked<'_>) -> Result<Hooked, E>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut visit = |call: HookCall| -> Result<Hooked, Box<dyn std::error::Error + Send + Sync>> {
            let asked = match call.position {
                0 => Asked::Tensor(Position::Before, call.input),
                3 => Asked::Fold(Position::Before),
                4 => Asked::Fold(Position::After),
                _ => Asked::Tensor(Position::After, call.input),
            };
            answer(call.index, asked).map_err(Into::into)
        };
        self.run(input, false, saved, &mut visit)
    }

    /// Runs `forward` without changes and reports the shapes that it saw.
    ///
    /// # Errors
    /// [`LibtorchError::Forward`] if the input doesn't fit.
    pub fn observe(&self, input: &Tensor) -> Result<(Observed, Tensor), LibtorchError> {
        let (sites, computes) = (self.survey.sites.len(), self.survey.computes.len());
        let mut seen = Observed {
            sites: vec![None; sites],
            computes: vec![None; computes],
            stored: vec![None; self.survey.stored.len()],
        };
        let mut visit = |call: HookCall| -> Result<Hooked, Box<dyn std::error::Error + Send + Sync>> {
            let shape = call.input.size();
            if call.index < sites {
                seen.sites[call.index] = Some(shape);
            } else if call.index < sites + computes {
                seen.computes[call.index - sites] = Some((shape, call.weight.map(Tensor::size).unwrap_or_default()));
            } else {
                seen.stored[call.index - sites - computes] = Some(shape);
            }
            Ok(Hooked::Unchanged)
        };
        let (output, _) = self.run(input, true, Saved::Full, &mut visit)?;
        Ok((seen, output))
    }

    fn run(
        &self,
        input: &Tensor,
        observed: bool,
        saved: Saved,
        visit: &mut Visitor<'_>,
    ) -> Result<(Tensor, usize), LibtorchError> {
        let mut state = HookState { visit, failure: None };
        let mut output = std::ptr::null_mut();
        let context = (&raw mut state).cast();
        let mut packed = 0_i64;
        let count = if saved == Saved::Packed { &raw mut packed } else { std::ptr::null_mut() };
        // SAFETY: `state` outlives the call, which calls back on this thread only; the output is handed over.
        let result = call(|error| unsafe {
            ffi::dimbit_network_run(
                self.handle,
                observed.into(),
                count,
                input.as_ptr(),
                Some(trampoline),
                context,
                &mut output,
                error,
            )
        });
        if let Some((site, source)) = state.failure {
            return Err(LibtorchError::Hook { site, source });
        }
        result.map_err(|reason| LibtorchError::Forward { input: input.size(), reason })?;
        // SAFETY: set on success, owned by us.
        Ok((unsafe { Tensor::from_ptr(output) }, usize::try_from(packed).unwrap_or(0)))
    }
}

struct HookCall<'a> {
    index: usize,
    position: i64,
    input: &'a Tensor,
    weight: Option<&'a Tensor>,
}

type Visitor<'a> = dyn FnMut(HookCall) -> Result<Hooked, Box<dyn std::error::Error + Send + Sync>> + 'a;

struct HookState<'a, 'b> {
    visit: &'a mut Visitor<'b>,
    failure: Option<(usize, Box<dyn std::error::Error + Send + Sync>)>,
}

/// A tensor that C++ lends for the time of a call. It must not be dropped, which would free C++'s own.
struct Lent(std::mem::ManuallyDrop<Tensor>);

impl Lent {
    /// # Safety
    /// `pointer` is a live tensor for as long as the result is used.
    unsafe fn new(pointer: *const C_tensor) -> Self {
        // SAFETY: as the caller guarantees; ManuallyDrop keeps the ownership where it is.
        Self(std::mem::ManuallyDrop::new(unsafe { Tensor::from_ptr(pointer.cast_mut()) }))
    }
}

unsafe extern "C" fn trampoline(
    context: *mut c_void,
    index: i64,
    position: i64,
    input: *const C_tensor,
    weight: *const C_tensor,
    status: *mut c_int,
) -> *mut C_tensor {
    // SAFETY: `context` is the HookState of the running call; the tensors live until we return.
    let (state, input, weight) = unsafe {
        let weight = (!weight.is_null()).then(|| Lent::new(weight));
        (&mut *context.cast::<HookState<'_, '_>>(), Lent::new(input), weight)
    };
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    let call = HookCall { index, position, input: &input.0, weight: weight.as_ref().map(|lent| &*lent.0) };
    // A panic must not unwind into C++.
    let result = catch_unwind(AssertUnwindSafe(|| (state.visit)(call))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(text.unwrap_or_else(|| "the hook panicked".to_owned()).into())
    });
    match result {
        Ok(Hooked::Unchanged) => std::ptr::null_mut(),
        Ok(Hooked::Replaced(tensor)) => std::mem::ManuallyDrop::new(tensor).as_mut_ptr(),
        Ok(Hooked::Activated(tensor)) => {
            // SAFETY: `status` points at a local of the caller.
            unsafe { *status = ffi::ACTIVATED };
            std::mem::ManuallyDrop::new(tensor).as_mut_ptr()
        }
        Err(error) => {
            state.failure = Some((index, error));
            // SAFETY: `status` points at a local of the caller.
            unsafe { *status = ffi::FAILED };
            std::ptr::null_mut()
        }
    }
}

fn read_some(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
