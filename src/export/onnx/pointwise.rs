//! Operators that compute each value by itself, and softmax.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::convert::{Call, Converter, Result, from_front, unsupported};
use super::graph::Attribute;

/// Operators that are one of ONNX's without attributes.
const SAME: &[(&str, &str)] = &[
    ("relu", "Relu"),
    ("sigmoid", "Sigmoid"),
    ("tanh", "Tanh"),
    ("abs", "Abs"),
    ("neg", "Neg"),
    ("exp", "Exp"),
    ("log", "Log"),
    ("sqrt", "Sqrt"),
    ("erf", "Erf"),
    ("floor", "Floor"),
    ("ceil", "Ceil"),
    ("round", "Round"),
    ("reciprocal", "Reciprocal"),
];

/// An operator that computes each value by itself.
pub(super) fn operator(c: &mut Converter<'_>, call: &Call<'_>, operator: &str) -> Result<String> {
    if let Some((_, same)) = SAME.iter().find(|(name, _)| *name == operator) {
        let input = c.input(call, "self")?;
        return Ok(c.node(call, same, &[&input], &[]));
    }
    match operator {
        "add" | "sub" | "rsub" => sum(c, call, operator),
        "mul" => binary(c, call, "Mul"),
        "div" => match call.text("rounding_mode") {
            None => binary(c, call, "Div"),
            Some(mode) => unsupported(format!("it rounds by the mode `{mode}`")),
        },
        "maximum" => binary(c, call, "Max"),
        "minimum" => binary(c, call, "Min"),
        "pow" => {
            let (base, exponent) = (c.operand(call, "self")?, c.operand(call, "exponent")?);
            Ok(c.node(call, "Pow", &[&base, &exponent], &[]))
        }
        "square" => {
            let input = c.input(call, "self")?;
            Ok(c.node(call, "Mul", &[&input, &input], &[]))
        }
        "relu6" => clamp(c, call, Some(0.0), Some(6.0)),
        "hardtanh" => clamp(c, call, Some(call.number("min_val")?), Some(call.number("max_val")?)),
        "clamp" | "clamp_min" | "clamp_max" => {
            let bound = |name| if call.argument(name).is_some() { call.number(name).map(Some) } else { Ok(None) };
            clamp(c, call, bound("min")?, bound("max")?)
        }
        "threshold" => threshold(c, call),
        "softmax" | "log_softmax" => {
            let name = if operator == "softmax" { "Softmax" } else { "LogSoftmax" };
            let axis = from_front(call.int("dim")?, c.of_type(call.value("self")?).shape.len());
            let input = c.input(call, "self")?;
            Ok(c.node(call, name, &[&input], &[("axis", Attribute::Int(axis as i64))]))
        }
        _ => activation(c, call, operator),
    }
}

fn binary(c: &mut Converter<'_>, call: &Call<'_>, operator: &str) -> Result<String> {
    let (a, b) = (c.operand(call, "self")?, c.operand(call, "other")?);
    Ok(c.node(call, operator, &[&a, &b], &[]))
}

/// `self ± alpha·other`; `rsub` is `other − alpha·self`.
fn sum(c: &mut Converter<'_>, call: &Call<'_>, operator: &str) -> Result<String> {
    let (a, b) = if operator == "rsub" { ("other", "self") } else { ("self", "other") };
    let (a, mut b) = (c.operand(call, a)?, c.operand(call, b)?);
    let alpha = if call.argument("alpha").is_some() { call.number("alpha")? } else { 1.0 };
    if alpha != 1.0 {
        let alpha = c.number(call, alpha);
        b = c.node(call, "Mul", &[&b, &alpha], &[]);
    }
    Ok(c.node(call, if operator == "add" { "Add" } else { "Sub" }, &[&a, &b], &[]))
}

fn clamp(c: &mut Converter<'_>, call: &Call<'_>, low: Option<f64>, high: Option<f64>) -> Result<String> {
    let input = c.input(call, "self")?;
    let bound = |c: &mut Converter<'_>, bound: Option<f64>| bound.map(|n| c.number(call, n)).unwrap_or_default();
    let (low, high) = (bound(c, low), bound(c, high));
    Ok(c.node(call, "Clip", &[&input, &low, &high], &[]))
}

/// `x` above the threshold, else `value`.
fn threshold(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let input = c.input(call, "self")?;
    let (threshold, value) = (c.operand(call, "threshold")?, c.operand(call, "value")?);
    let above = c.node(call, "Greater", &[&input, &threshold], &[]);
    Ok(c.node(call, "Where", &[&above, &input, &value], &[]))
}

fn activation(c: &mut Converter<'_>, call: &Call<'_>, operator: &str) -> Result<String> {
    if call.argument("self").is_none() {
        return unsupported("there is no ONNX operator for it here");
    }
    let x = c.input(call, "self")?;
    let float =
        |name: &str| -> Result<(&'static str, Attribute)> { Ok(("alpha", Attribute::Float(call.number(name)?))) };
    match operator {
        "hardswish" => Ok(c.node(call, "HardSwish", &[&x], &[])),
        "hardsigmoid" => {
            let attributes = [("alpha", Attribute::Float(1.0 / 6.0)), ("beta", Attribute::Float(0.5))];
            Ok(c.node(call, "HardSigmoid", &[&x], &attributes))
        }
        "silu" => {
            let gate = c.node(call, "Sigmoid", &[&x], &[]);
            Ok(c.node(call, "Mul", &[&x, &gate], &[]))
        }
        "gelu" => gelu(c, call, &x),
        "leaky_relu" => Ok(c.node(call, "LeakyRelu", &[&x], &[float("negative_slope")?])),
        "rrelu" if call.flag("training") == Some(false) => {
            let slope = (call.number("lower")? + call.number("upper")?) / 2.0;
            Ok(c.node(call, "LeakyRelu", &[&x], &[("alpha", Attribute::Float(slope))]))
        }
        "elu" if call.number("scale")? == 1.0 && call.number("input_scale")? == 1.0 => {
            Ok(c.node(call, "Elu", &[&x], &[float("alpha")?]))
        }
        "celu" => Ok(c.node(call, "Celu", &[&x], &[float("alpha")?])),
        "selu" => Ok(c.node(call, "Selu", &[&x], &[])),
        "mish" => {
            let soft = c.node(call, "Softplus", &[&x], &[]);
            let gate = c.node(call, "Tanh", &[&soft], &[]);
            Ok(c.node(call, "Mul", &[&x, &gate], &[]))
        }
        "softplus" => softplus(c, call, &x),
        "prelu" => {
            // One slope for all, or one for each channel, which is the second dimension.
            let value = call.value("weight")?;
            let rank = c.of_type(call.value("self")?).shape.len();
            let Some(weight) = c.constant(value) else { return unsupported("its slopes depend on the images") };
            let mut shape = vec![1; rank.saturating_sub(1).max(1)];
            shape[0] = weight.numel() as i64;
            let slope = c.graph.weight(&format!("{x}.slope"), &weight.f_reshape(shape)?)?;
            Ok(c.node(call, "PRelu", &[&x, &slope], &[]))
        }
        _ => unsupported("there is no ONNX operator for it here"),
    }
}

/// `x/2 · (1 + erf(x/√2))`, or its approximation by the hyperbolic tangent.
fn gelu(c: &mut Converter<'_>, call: &Call<'_>, x: &str) -> Result<String> {
    let (half, one) = (c.number(call, 0.5), c.number(call, 1.0));
    let inner = match call.text("approximate") {
        Some("tanh") => {
            let cubic = c.number(call, 0.044_715);
            let square = c.node(call, "Mul", &[x, x], &[]);
            let cube = c.node(call, "Mul", &[&square, x], &[]);
            let cube = c.node(call, "Mul", &[&cube, &cubic], &[]);
            let sum = c.node(call, "Add", &[x, &cube], &[]);
            let scale = c.number(call, (2.0 / PI).sqrt());
            let scaled = c.node(call, "Mul", &[&sum, &scale], &[]);
            c.node(call, "Tanh", &[&scaled], &[])
        }
        _ => {
            let scale = c.number(call, FRAC_1_SQRT_2);
            let scaled = c.node(call, "Mul", &[x, &scale], &[]);
            c.node(call, "Erf", &[&scaled], &[])
        }
    };
    let gate = c.node(call, "Add", &[&inner, &one], &[]);
    let product = c.node(call, "Mul", &[x, &gate], &[]);
    Ok(c.node(call, "Mul", &[&product, &half], &[]))
}

/// `log(1 + exp(beta·x)) / beta`. Above its threshold PyTorch takes `x` itself, which from 16 on is the same to the last digit.
fn softplus(c: &mut Converter<'_>, call: &Call<'_>, x: &str) -> Result<String> {
    let beta = call.number("beta")?;
    if call.number("threshold")? < 16.0 {
        return unsupported("its threshold is so low that it is no softplus");
    }
    if beta == 1.0 {
        return Ok(c.node(call, "Softplus", &[x], &[]));
    }
    let beta = c.number(call, beta);
    let scaled = c.node(call, "Mul", &[x, &beta], &[]);
    let soft = c.node(call, "Softplus", &[&scaled], &[]);
    Ok(c.node(call, "Div", &[&soft, &beta], &[]))
}
