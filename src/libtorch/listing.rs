//! What a baked network does with images, as data: one operation after the other, for writers of other formats.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};

use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::bake::Baked;
use super::error::LibtorchError;
use super::ffi::{self, call};

/// The operations of a baked network for any number of images. Branches are taken and sizes are numbers, as they are for
/// images of one height and width.
#[derive(Debug)]
pub struct Listing {
    /// Each tensor that an operation reads or makes; everywhere else, they are numbered by this list.
    pub values: Vec<ValueType>,
    /// The images: `[batch, channels, height, width]`.
    pub input: usize,
    /// The logits: `[batch, classes]`.
    pub logits: usize,
    /// Names of the sites with their codes, in the network's order.
    pub codes: Vec<(String, usize)>,
    /// The tensors that don't depend on the images.
    pub constants: Vec<Constant>,
    /// The operations.
    pub steps: Vec<Step>,
}

/// A tensor that doesn't depend on the images.
#[derive(Debug)]
pub struct Constant {
    /// Its number.
    pub value: usize,
    /// Dotted name of the parameter or buffer, else of the module that made it; not unique.
    pub name: String,
    /// The tensor, on the CPU.
    pub tensor: Tensor,
}

/// Type of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueType {
    /// Extents; none where one grows with the batch.
    pub shape: Vec<Option<i64>>,
    /// Type of the elements.
    pub kind: ValueKind,
}

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ValueKind {
    /// float32.
    Float,
    /// int16.
    Short,
    /// int64.
    Long,
    /// Any other.
    #[serde(other)]
    Other,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Step {
    /// Name of the operator: `aten::conv2d`.
    pub kind: String,
    /// Dotted path of the module that it belongs to.
    pub place: String,
    /// Arguments by the names of the operator's schema, without those that are `None`.
    pub arguments: BTreeMap<String, Argument>,
    /// The tensors that it makes.
    pub outputs: Vec<usize>,
}

/// An argument of a [`Step`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Argument {
    /// A tensor.
    Value(usize),
    /// A list of tensors.
    Values(Vec<usize>),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A list of whole numbers.
    Ints(Vec<i64>),
    /// A text, or whatever else as text.
    Text(String),
    /// A number that depends on the batch size.
    Varies,
}

/// What C++ tells for one batch.
#[derive(Debug, Deserialize)]
struct Raw {
    input: usize,
    logits: usize,
    codes: Vec<(String, usize)>,
    constants: Vec<usize>,
    values: Vec<RawType>,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct RawType {
    shape: Vec<i64>,
    kind: ValueKind,
}

const WHAT: &str = "list the network's operations";

impl Baked {
    /// Lists the operations. `input`: `[channels, height, width]` of the images.
    ///
    /// # Errors
    /// If what the network does depends on the images' values or on their number, or if it fails on such images.
    pub fn list(&self, input: [i64; 3]) -> Result<Listing, LibtorchError> {
        // What differs between two batch sizes is what grows with the batch.
        let (listed, constants) = self.list_for(2, input)?;
        let (other, _) = self.list_for(3, input)?;
        merge(listed, other, constants)
    }

    fn list_for(&self, batch: i64, input: [i64; 3]) -> Result<(Raw, Vec<(String, Tensor)>), LibtorchError> {
        unsafe extern "C" fn visit(context: *mut c_void, name: *const c_char, _: c_int, tensor: *mut C_tensor) {
            // SAFETY: `context` is the vector below, `name` a C string, `tensor` handed over to us.
            unsafe {
                let list = &mut *context.cast::<Vec<(String, Tensor)>>();
                list.push((CStr::from_ptr(name).to_string_lossy().into_owned(), Tensor::from_ptr(tensor)));
            }
        }
        let images = Tensor::f_zeros([batch, input[0], input[1], input[2]], (Kind::Float, Device::Cpu))?;
        let mut constants: Vec<(String, Tensor)> = Vec::new();
        let (context, mut json) = ((&raw mut constants).cast(), std::ptr::null_mut::<c_char>());
        // SAFETY: all pointers outlive the call, which calls back on this thread only; the text is handed over.
        call(|error| unsafe {
            ffi::dimbit_baked_list(self.handle(), images.as_ptr(), visit, context, &mut json, error)
        })
        .map_err(|reason| LibtorchError::Call { what: WHAT, reason })?;
        // SAFETY: C++ hands over a malloc'ed text.
        let json = unsafe { ffi::take_text(json) };
        let raw = serde_json::from_str(&json);
        Ok((raw.map_err(|e| LibtorchError::Call { what: WHAT, reason: e.to_string() })?, constants))
    }
}

fn merge(listed: Raw, other: Raw, constants: Vec<(String, Tensor)>) -> Result<Listing, LibtorchError> {
    let differs = || {
        LibtorchError::Call {
        what: WHAT,
        reason: "for two images they are others than for three; only a network that does the same with any number of images has a list".into(),
    }
    };
    let whole = |raw: &Raw| (raw.input, raw.logits, raw.codes.clone(), raw.constants.clone());
    if whole(&listed) != whole(&other) || listed.values.len() != other.values.len() {
        return Err(differs());
    }
    let mut values = Vec::new();
    for (a, b) in listed.values.into_iter().zip(other.values) {
        if a.kind != b.kind || a.shape.len() != b.shape.len() {
            return Err(differs());
        }
        let extents = a.shape.into_iter().zip(b.shape).map(|(a, b)| (a == b).then_some(a));
        values.push(ValueType { shape: extents.collect(), kind: a.kind });
    }
    if listed.steps.len() != other.steps.len() {
        return Err(differs());
    }
    let mut steps = Vec::new();
    for (mut step, other) in listed.steps.into_iter().zip(other.steps) {
        let same = step.kind == other.kind && step.outputs == other.outputs;
        if !same || step.arguments.len() != other.arguments.len() {
            return Err(differs());
        }
        for ((name, argument), (other_name, other)) in step.arguments.iter_mut().zip(other.arguments) {
            let is_tensor = matches!(argument, Argument::Value(_) | Argument::Values(_));
            if *name != other_name || (is_tensor && *argument != other) {
                return Err(differs());
            }
            if *argument != other {
                *argument = Argument::Varies;
            }
        }
        steps.push(step);
    }
    let constants = listed.constants.into_iter().zip(constants);
    Ok(Listing {
        values,
        input: listed.input,
        logits: listed.logits,
        codes: listed.codes,
        constants: constants.map(|(value, (name, tensor))| Constant { value, name, tensor }).collect(),
        steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(batch: i64, shape: &str) -> Raw {
        let json = format!(
            r#"{{"input":0,"logits":1,"codes":[["relu",1]],"constants":[],
                "values":[{{"shape":[{batch},3],"kind":"Float"}},{{"shape":{shape},"kind":"Int"}}],
                "steps":[{{"kind":"aten::view","place":"a.b","arguments":{{"self":{{"value":0}},"size":{{"ints":[{batch},3]}},"x":{{"bool":true}}}},"outputs":[1]}}]}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn what_grows_with_the_batch_is_no_number() {
        let listing = merge(raw(2, "[1,2]"), raw(3, "[1,3]"), vec![]).unwrap();
        assert_eq!(listing.values[0], ValueType { shape: vec![None, Some(3)], kind: ValueKind::Float });
        assert_eq!(listing.values[1], ValueType { shape: vec![Some(1), None], kind: ValueKind::Other });
        assert_eq!(listing.steps[0].arguments["size"], Argument::Varies);
        assert_eq!(listing.steps[0].arguments["x"], Argument::Bool(true));
    }

    #[test]
    fn lists_that_differ_are_refused() {
        let more = Raw { steps: vec![], ..raw(3, "[1,3]") };
        assert!(merge(raw(2, "[1,2]"), more, vec![]).unwrap_err().to_string().contains("any number of images"));
        assert!(merge(raw(2, "[1,2]"), raw(3, "[1,3,1]"), vec![]).is_err());
    }
}
