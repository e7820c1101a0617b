//! From the list of a baked network's operations to a graph of ONNX operators.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::graph::{Attribute, Graph};
use super::proto::{GraphProto, ValueInfoProto, element};
use super::{layers, pointwise, quantizer, shapes};
use crate::libtorch::{Argument, LibtorchError, Listing, Step, ValueKind, ValueType};

/// The name of the graph's input.
pub(super) const IMAGES: &str = "images";

/// The name of the graph's output.
pub(super) const LOGITS: &str = "logits";

/// What a tensor of the list is in the graph.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// A value of float32.
    Value(String),
    /// Codes of a site, of an element type; all layouts of them are the same value.
    Codes { name: String, element: i32 },
}

/// Why a network can't be carried over.
#[derive(Debug)]
pub(super) enum Refusal {
    /// An operation; its operator, the module that it belongs to, and what about it.
    Step { operator: String, place: String, reason: String },
    /// Anything else.
    Libtorch(LibtorchError),
}

/// Why one operation can't be carried over.
#[derive(Debug)]
pub(super) enum Problem {
    Unsupported(String),
    Libtorch(LibtorchError),
}

impl From<LibtorchError> for Problem {
    fn from(error: LibtorchError) -> Self {
        Self::Libtorch(error)
    }
}

impl From<tch::TchError> for Problem {
    fn from(error: tch::TchError) -> Self {
        Self::Libtorch(error.into())
    }
}

pub(super) type Result<T> = std::result::Result<T, Problem>;

/// `reason` reads after "since".
pub(super) fn unsupported<T>(reason: impl Into<String>) -> Result<T> {
    Err(Problem::Unsupported(reason.into()))
}

/// The graph of a list. `keys`: the sites' keys by their names; the codes of a site are the value `codes.<key>`.
pub(super) fn convert(listing: &Listing, keys: &BTreeMap<String, String>) -> std::result::Result<GraphProto, Refusal> {
    Converter::new(listing, keys).finish()
}

pub(super) struct Converter<'a> {
    pub(super) listing: &'a Listing,
    pub(super) graph: Graph,
    held: BTreeMap<usize, Held>,
    constants: BTreeMap<usize, usize>,
    /// The step that makes a tensor.
    makers: BTreeMap<usize, &'a Step>,
    /// Names of the codes by the tensor that the quantizer makes.
    pub(super) codes: BTreeMap<usize, String>,
    /// The values that hold codes.
    pub(super) code_values: Vec<ValueInfoProto>,
}

impl<'a> Converter<'a> {
    fn new(listing: &'a Listing, keys: &BTreeMap<String, String>) -> Self {
        let mut graph = Graph::default();
        let input = graph.unique(IMAGES);
        graph.unique(LOGITS);
        let makers: BTreeMap<usize, &Step> =
            listing.steps.iter().flat_map(|step| step.outputs.iter().map(move |&output| (output, step))).collect();
        let mut codes = BTreeMap::new();
        for (site, value) in &listing.codes {
            if let (Some(key), Some(value)) = (keys.get(site), quantizer::clamped(&makers, *value)) {
                codes.insert(value, graph.unique(&code_name(key)));
            }
        }
        Self {
            listing,
            graph,
            held: BTreeMap::from([(listing.input, Held::Value(input))]),
            constants: listing.constants.iter().enumerate().map(|(index, c)| (c.value, index)).collect(),
            makers,
            codes,
            code_values: Vec::new(),
        }
    }

    fn finish(mut self) -> std::result::Result<GraphProto, Refusal> {
        let needed = self.needed();
        for (step, _) in self.listing.steps.iter().zip(needed).filter(|(_, needed)| *needed) {
            let operator = step.kind.strip_prefix("aten::").unwrap_or(&step.kind);
            let operator = operator.strip_suffix('_').unwrap_or(operator);
            let made = self.step(operator, &Call { step }).map_err(|problem| match problem {
                Problem::Unsupported(reason) => {
                    Refusal::Step { operator: step.kind.clone(), place: step.place.clone(), reason }
                }
                Problem::Libtorch(error) => Refusal::Libtorch(error),
            })?;
            self.held.extend(step.outputs.iter().copied().zip(made));
        }
        let refuse = |problem| match problem {
            Problem::Unsupported(reason) => Refusal::Step { operator: "forward".into(), place: String::new(), reason },
            Problem::Libtorch(error) => Refusal::Libtorch(error),
        };
        let logits = self.value(self.listing.logits).map_err(refuse)?;
        self.graph.named(LOGITS, "Identity", &[&logits], &[]);
        let shape = |value: usize| self.listing.values[value].shape.as_slice();
        let input = ValueInfoProto::new(IMAGES, element::FLOAT, shape(self.listing.input));
        let output = ValueInfoProto::new(LOGITS, element::FLOAT, shape(self.listing.logits));
        Ok(self.graph.finish(input, output, self.code_values))
    }

    /// Which steps the logits need: what nothing reads, such as the codes in another layout, is left out.
    fn needed(&self) -> Vec<bool> {
        let mut read = vec![false; self.listing.values.len()];
        read[self.listing.logits] = true;
        let mut needed = Vec::new();
        for step in self.listing.steps.iter().rev() {
            let is_needed = step.outputs.iter().any(|&output| read[output]);
            needed.push(is_needed);
            for argument in step.arguments.values().filter(|_| is_needed) {
                match argument {
                    Argument::Value(value) => read[*value] = true,
                    Argument::Values(values) => values.iter().for_each(|&value| read[value] = true),
                    _ => {}
                }
            }
        }
        needed.reverse();
        needed
    }

    fn step(&mut self, operator: &str, call: &Call<'a>) -> Result<Vec<Held>> {
        if operator == "split" || operator == "chunk" || operator == "split_with_sizes" {
            return shapes::split(self, call);
        }
        let made = match operator {
            "clone"
            | "contiguous"
            | "detach"
            | "alias"
            | "dropout"
            | "feature_dropout"
            | "alpha_dropout"
            | "feature_alpha_dropout" => return self.unchanged(call),
            "to" | "type_as" => return self.converted(call),
            "minimum" if self.codes.contains_key(&call.output()?) => return Ok(vec![quantizer::codes(self, call)?]),
            "mul" if self.reads_codes(call) => quantizer::values(self, call)?,
            "conv1d" | "conv2d" | "conv3d" | "_convolution" | "convolution" | "_convolution_mode" => {
                layers::convolution(self, call)?
            }
            "linear" => layers::linear(self, call)?,
            "addmm" => layers::addmm(self, call)?,
            "matmul" | "mm" | "bmm" => layers::product(self, call)?,
            "batch_norm" => layers::batch_norm(self, call)?,
            "layer_norm" => layers::layer_norm(self, call)?,
            "max_pool1d" | "max_pool2d" | "max_pool3d" => layers::max_pool(self, call)?,
            "avg_pool1d" | "avg_pool2d" | "avg_pool3d" => layers::average_pool(self, call)?,
            "adaptive_avg_pool2d" => layers::adaptive_average_pool(self, call)?,
            "mean" | "sum" => layers::reduce(self, call, operator)?,
            "flatten" | "reshape" | "view" | "_unsafe_view" | "squeeze" | "unsqueeze" | "view_as" | "reshape_as" => {
                shapes::reshape(self, call)?
            }
            "permute" | "transpose" | "t" | "swapaxes" => shapes::transpose(self, call, operator)?,
            "cat" | "concat" => shapes::concatenate(self, call)?,
            "slice" => shapes::slice(self, call)?,
            "narrow" => shapes::narrow(self, call)?,
            "select" => shapes::select(self, call)?,
            "constant_pad_nd" | "pad" => shapes::pad(self, call)?,
            "zeros_like" => shapes::zeros_like(self, call)?,
            _ => pointwise::operator(self, call, operator)?,
        };
        Ok(vec![Held::Value(made)])
    }

    /// What is a copy at most.
    fn unchanged(&mut self, call: &Call<'_>) -> Result<Vec<Held>> {
        let input = call.argument("self").or_else(|| call.argument("input"));
        match input {
            Some(&Argument::Value(value)) if call.flag("train") != Some(true) => Ok(vec![self.held(value)?]),
            _ => unsupported("it is in training mode"),
        }
    }

    /// A conversion of float32 or of codes, which only says again what they are.
    fn converted(&mut self, call: &Call<'_>) -> Result<Vec<Held>> {
        let held = self.held(call.value("self")?)?;
        let to = self.listing.values[call.output()?].kind;
        match (&held, to) {
            (Held::Value(_), ValueKind::Float) | (Held::Codes { .. }, ValueKind::Short) => Ok(vec![held]),
            _ => unsupported("it converts to another type"),
        }
    }

    fn reads_codes(&self, call: &Call<'_>) -> bool {
        call.value("self").is_ok_and(|value| matches!(self.held.get(&value), Some(Held::Codes { .. })))
    }

    /// What a tensor is in the graph; one that doesn't depend on the images becomes a weight.
    pub(super) fn held(&mut self, value: usize) -> Result<Held> {
        if let Some(held) = self.held.get(&value) {
            return Ok(held.clone());
        }
        let Some(&index) = self.constants.get(&value) else { return unsupported("it reads what nothing makes") };
        let constant = &self.listing.constants[index];
        let name = if constant.name.is_empty() { "constant" } else { &constant.name };
        let held = Held::Value(self.graph.weight(name, &constant.tensor)?);
        self.held.insert(value, held.clone());
        Ok(held)
    }

    /// The name of a float32 tensor.
    pub(super) fn value(&mut self, value: usize) -> Result<String> {
        match self.held(value)? {
            Held::Value(name) => Ok(name),
            Held::Codes { .. } => unsupported("it computes with codes"),
        }
    }

    /// The name of a float32 tensor that is an argument.
    pub(super) fn input(&mut self, call: &Call<'_>, argument: &str) -> Result<String> {
        self.value(call.value(argument)?)
    }

    /// The same of an optional argument; empty without one.
    pub(super) fn optional(&mut self, call: &Call<'_>, argument: &str) -> Result<String> {
        match call.argument(argument) {
            Some(&Argument::Value(value)) => self.value(value),
            None => Ok(String::new()),
            Some(_) => unsupported(format!("its `{argument}` is no tensor")),
        }
    }

    /// An argument that is a tensor or a number.
    pub(super) fn operand(&mut self, call: &Call<'_>, argument: &str) -> Result<String> {
        match call.argument(argument) {
            Some(&Argument::Value(value)) => self.value(value),
            _ => {
                let number = call.number(argument)?;
                Ok(self.number(call, number))
            }
        }
    }

    /// A number as a weight.
    pub(super) fn number(&mut self, call: &Call<'_>, number: f64) -> String {
        let name = if call.place().is_empty() { "number".to_owned() } else { format!("{}.number", call.place()) };
        self.graph.floats(&name, &[], &[number as f32])
    }

    /// A node for a step.
    pub(super) fn node(
        &mut self,
        call: &Call<'_>,
        operator: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> String {
        self.graph.node(call.place(), operator, inputs, attributes)
    }

    /// The tensor of an argument that doesn't depend on the images.
    pub(super) fn constant(&self, value: usize) -> Option<&'a Tensor> {
        self.constants.get(&value).map(|&index| &self.listing.constants[index].tensor)
    }

    /// A tensor that doesn't depend on the images as a weight of one dimension.
    pub(super) fn flat(&mut self, value: usize) -> Result<String> {
        match self.constants.get(&value).map(|&index| &self.listing.constants[index]) {
            Some(constant) => Ok(self.graph.weight(&constant.name, &constant.tensor.f_reshape([-1])?)?),
            None => unsupported("it reads what depends on the images"),
        }
    }

    /// The step that makes a tensor.
    pub(super) fn maker(&self, value: usize) -> Option<&'a Step> {
        self.makers.get(&value).copied()
    }

    pub(super) fn of_type(&self, value: usize) -> &'a ValueType {
        &self.listing.values[value]
    }

    /// A fixed extent of a tensor.
    pub(super) fn extent(&self, value: usize, dimension: usize) -> Result<i64> {
        match self.of_type(value).shape.get(dimension) {
            Some(&Some(extent)) => Ok(extent),
            _ => unsupported(format!("dimension {dimension} of what it reads grows with the batch")),
        }
    }
}

/// The name of the value that holds the codes of a site.
pub(super) fn code_name(key: &str) -> String {
    format!("codes.{key}")
}

/// A step with a reader for its arguments.
pub(super) struct Call<'a> {
    pub(super) step: &'a Step,
}

impl<'a> Call<'a> {
    pub(super) fn place(&self) -> &'a str {
        &self.step.place
    }

    pub(super) fn argument(&self, name: &str) -> Option<&'a Argument> {
        self.step.arguments.get(name)
    }

    pub(super) fn output(&self) -> Result<usize> {
        match self.step.outputs[..] {
            [output] => Ok(output),
            _ => unsupported("it makes more than one tensor"),
        }
    }

    pub(super) fn value(&self, name: &str) -> Result<usize> {
        match self.argument(name) {
            Some(&Argument::Value(value)) => Ok(value),
            _ => unsupported(format!("it has no tensor `{name}`")),
        }
    }

    pub(super) fn int(&self, name: &str) -> Result<i64> {
        match self.argument(name) {
            Some(&Argument::Int(int)) => Ok(int),
            Some(Argument::Varies) => unsupported(format!("its `{name}` depends on the batch size")),
            _ => unsupported(format!("it has no whole number `{name}`")),
        }
    }

    pub(super) fn ints(&self, name: &str) -> Result<&'a [i64]> {
        match self.argument(name) {
            Some(Argument::Ints(ints)) => Ok(ints),
            Some(Argument::Varies) => unsupported(format!("its `{name}` depends on the batch size")),
            _ => unsupported(format!("it has no list `{name}`")),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<f64> {
        match self.argument(name) {
            Some(&Argument::Int(int)) => Ok(int as f64),
            Some(&Argument::Float(float)) => Ok(float),
            Some(Argument::Varies) => unsupported(format!("its `{name}` depends on the batch size")),
            _ => unsupported(format!("it has no number `{name}`")),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.argument(name) {
            Some(&Argument::Bool(flag)) => Some(flag),
            _ => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        match self.argument(name) {
            Some(Argument::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// A dimension counted from the front.
pub(super) fn from_front(dimension: i64, rank: usize) -> usize {
    let rank = rank as i64;
    usize::try_from(if dimension < 0 { dimension + rank } else { dimension }).unwrap_or(0)
}

/// The least and the largest number of a tensor.
pub(super) fn bounds(tensor: &Tensor) -> Result<(f64, f64)> {
    let flat = tensor.f_to_kind(Kind::Double)?;
    Ok((flat.f_min()?.f_double_value(&[])?, flat.f_max()?.f_double_value(&[])?))
}
