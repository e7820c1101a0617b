//! A graph while it is built: nodes and weights with names of their own.

use std::collections::BTreeSet;

use tch::{Device, Kind, Tensor};

use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, attribute, element};
use crate::libtorch::LibtorchError;

/// An attribute of a node.
#[derive(Debug, Clone)]
pub(super) enum Attribute {
    Int(i64),
    Float(f64),
    Ints(Vec<i64>),
}

/// A graph while it is built.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    taken: BTreeSet<String>,
}

impl Graph {
    /// A name that nothing else has.
    pub(super) fn unique(&mut self, wanted: &str) -> String {
        let numbered = (2..).map(|count| format!("{wanted}_{count}"));
        let mut all = std::iter::once(wanted.to_owned()).chain(numbered);
        let name = all.find(|name| !self.taken.contains(name)).unwrap_or_default();
        self.taken.insert(name.clone());
        name
    }

    /// Adds a node with one output; hands back the output's name. `inputs`: empty names are left out.
    pub(super) fn node(
        &mut self,
        place: &str,
        operator: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> String {
        self.nodes(place, operator, inputs, attributes, 1).remove(0)
    }

    /// Adds a node with `count` outputs; hands back their names.
    pub(super) fn nodes(
        &mut self,
        place: &str,
        operator: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
        count: usize,
    ) -> Vec<String> {
        let name = self.unique(&join(place, operator));
        let outputs = match count {
            1 => vec![name.clone()],
            _ => (0..count).map(|number| self.unique(&format!("{name}.{number}"))).collect(),
        };
        self.push(&name, operator, inputs, attributes, outputs.clone());
        outputs
    }

    /// Adds a node whose output has the given name, one of [`unique`](Self::unique).
    pub(super) fn named(&mut self, output: &str, operator: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) {
        let name = self.unique(&join(output, operator));
        self.push(&name, operator, inputs, attributes, vec![output.to_owned()]);
    }

    fn push(
        &mut self,
        name: &str,
        operator: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
        output: Vec<String>,
    ) {
        let mut input: Vec<String> = inputs.iter().map(|&name| name.to_owned()).collect();
        while input.last().is_some_and(String::is_empty) {
            input.pop();
        }
        let attribute = attributes.iter().map(|(name, value)| encoded(name, value)).collect();
        self.nodes.push(NodeProto { input, output, name: name.to_owned(), op_type: operator.to_owned(), attribute });
    }

    /// A weight in float32; hands back its name.
    ///
    /// # Errors
    /// If libtorch can't copy it.
    pub(super) fn weight(&mut self, name: &str, tensor: &Tensor) -> Result<String, LibtorchError> {
        let flat = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?.f_reshape([-1])?;
        let values = Vec::<f32>::try_from(flat)?;
        Ok(self.floats(name, &tensor.size(), &values))
    }

    /// Numbers in float32; hands back their name.
    pub(super) fn floats(&mut self, name: &str, shape: &[i64], values: &[f32]) -> String {
        self.initializer(name, element::FLOAT, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A list of whole numbers, as sizes and axes are given; hands back its name.
    pub(super) fn longs(&mut self, name: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(name, element::INT64, &[values.len() as i64], bytes)
    }

    /// Zeros of a type of 8 bits; hands back their name.
    pub(super) fn zeros(&mut self, name: &str, data_type: i32, shape: &[i64]) -> String {
        let count = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
        self.initializer(name, data_type, shape, vec![0; count])
    }

    fn initializer(&mut self, name: &str, data_type: i32, shape: &[i64], raw_data: Vec<u8>) -> String {
        let name = self.unique(name);
        self.initializers.push(TensorProto { dims: shape.to_vec(), data_type, name: name.clone(), raw_data });
        name
    }

    /// The graph, without what its outputs don't need.
    pub(super) fn finish(
        self,
        input: ValueInfoProto,
        output: ValueInfoProto,
        value_info: Vec<ValueInfoProto>,
    ) -> GraphProto {
        let mut needed = BTreeSet::from([output.name.clone()]);
        let mut nodes = Vec::new();
        for node in self.nodes.into_iter().rev() {
            if node.output.iter().any(|name| needed.contains(name)) {
                needed.extend(node.input.iter().cloned());
                nodes.push(node);
            }
        }
        nodes.reverse();
        GraphProto {
            node: nodes,
            name: "dimbit".to_owned(),
            initializer: self.initializers.into_iter().filter(|tensor| needed.contains(&tensor.name)).collect(),
            input: vec![input],
            output: vec![output],
            value_info: value_info.into_iter().filter(|value| needed.contains(&value.name)).collect(),
        }
    }
}

/// A name below a dotted path.
fn join(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

fn encoded(name: &str, value: &Attribute) -> AttributeProto {
    let name = name.to_owned();
    match value {
        Attribute::Int(i) => AttributeProto { name, i: Some(*i), r#type: attribute::INT, ..Default::default() },
        Attribute::Float(f) => {
            AttributeProto { name, f: Some(*f as f32), r#type: attribute::FLOAT, ..Default::default() }
        }
        Attribute::Ints(ints) => {
            AttributeProto { name, ints: ints.clone(), r#type: attribute::INTS, ..Default::default() }
        }
    }
}
