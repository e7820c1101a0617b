//! Operators that move values: shapes, layouts, parts.

use super::convert::{Call, Converter, Held, Result, from_front, unsupported};
use super::graph::Attribute;
use crate::libtorch::Argument;

/// To the shape that the list says, whatever the operator.
pub(super) fn reshape(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let input = c.input(call, "self")?;
    reshaped(c, call, &input)
}

/// A value in the shape of the step's output.
fn reshaped(c: &mut Converter<'_>, call: &Call<'_>, value: &str) -> Result<String> {
    let shape = &c.of_type(call.output()?).shape;
    if shape.iter().filter(|extent| extent.is_none()).count() > 1 {
        return unsupported("more than one of the extents that it makes grows with the batch");
    }
    let extents: Vec<i64> = shape.iter().map(|extent| extent.unwrap_or(-1)).collect();
    let shape = c.graph.longs(&format!("{value}.shape"), &extents);
    Ok(c.node(call, "Reshape", &[value, &shape], &[]))
}

pub(super) fn transpose(c: &mut Converter<'_>, call: &Call<'_>, operator: &str) -> Result<String> {
    let value = call.value("self")?;
    let rank = c.of_type(value).shape.len();
    let mut order: Vec<i64> = (0..rank as i64).collect();
    match operator {
        "permute" => order = call.ints("dims")?.iter().map(|&d| from_front(d, rank) as i64).collect(),
        "t" => order.reverse(),
        _ => {
            let (a, b) = if operator == "swapaxes" { ("axis0", "axis1") } else { ("dim0", "dim1") };
            order.swap(from_front(call.int(a)?, rank), from_front(call.int(b)?, rank));
        }
    }
    let input = c.value(value)?;
    Ok(c.node(call, "Transpose", &[&input], &[("perm", Attribute::Ints(order))]))
}

pub(super) fn concatenate(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let Some(Argument::Values(values)) = call.argument("tensors") else {
        return unsupported("it has no list of tensors");
    };
    let names = values.iter().map(|&value| c.value(value)).collect::<Result<Vec<_>>>()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let axis = from_front(call.int("dim")?, c.of_type(call.output()?).shape.len());
    Ok(c.node(call, "Concat", &names, &[("axis", Attribute::Int(axis as i64))]))
}

/// Into parts of the extents that the list says.
pub(super) fn split(c: &mut Converter<'_>, call: &Call<'_>) -> Result<Vec<Held>> {
    let input = c.input(call, "self")?;
    let axis = from_front(call.int("dim")?, c.of_type(call.value("self")?).shape.len());
    let extents = call.step.outputs.iter().map(|&output| c.extent(output, axis)).collect::<Result<Vec<_>>>()?;
    let sizes = c.graph.longs(&format!("{input}.parts"), &extents);
    let attributes = [("axis", Attribute::Int(axis as i64))];
    let parts = c.graph.nodes(call.place(), "Split", &[&input, &sizes], &attributes, extents.len());
    Ok(parts.into_iter().map(Held::Value).collect())
}

pub(super) fn slice(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    // Without a start or an end, it is the first or the last.
    let start = if call.argument("start").is_some() { call.int("start")? } else { 0 };
    let end = if call.argument("end").is_some() { call.int("end")? } else { i64::MAX };
    part(c, call, start, end, call.int("step")?)
}

pub(super) fn narrow(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let (start, length) = (call.int("start")?, call.int("length")?);
    if start < 0 {
        return unsupported("it counts its start from the end");
    }
    part(c, call, start, start + length, 1)
}

fn part(c: &mut Converter<'_>, call: &Call<'_>, start: i64, end: i64, step: i64) -> Result<String> {
    let input = c.input(call, "self")?;
    let axis = from_front(call.int("dim")?, c.of_type(call.value("self")?).shape.len());
    let list = |c: &mut Converter<'_>, what: &str, value: i64| c.graph.longs(&format!("{input}.{what}"), &[value]);
    let (start, end) = (list(c, "start", start), list(c, "end", end));
    let (axis, step) = (list(c, "axis", axis as i64), list(c, "by", step));
    Ok(c.node(call, "Slice", &[&input, &start, &end, &axis, &step], &[]))
}

pub(super) fn select(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let index = call.int("index")?;
    // -1 begins the last one, whose end can't be counted from the end.
    let input = part(c, call, index, if index == -1 { i64::MAX } else { index + 1 }, 1)?;
    reshaped(c, call, &input)
}

/// Padding by a constant.
pub(super) fn pad(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    if call.text("mode").is_some_and(|mode| mode != "constant") {
        return unsupported(format!("its mode is {:?}; padding by a constant is supported", call.text("mode")));
    }
    let rank = c.of_type(call.value("self")?).shape.len();
    // Pairs from the last dimension on; ONNX takes all begins, then all ends.
    let mut pads = vec![0; 2 * rank];
    for (number, pair) in call.ints("pad")?.chunks(2).enumerate().take(rank) {
        pads[rank - 1 - number] = pair[0];
        pads[2 * rank - 1 - number] = pair.get(1).copied().unwrap_or(0);
    }
    let input = c.input(call, "self")?;
    let pads = c.graph.longs(&format!("{input}.pads"), &pads);
    let fill = if call.argument("value").is_some() { call.number("value")? } else { 0.0 };
    let fill = c.number(call, fill);
    Ok(c.node(call, "Pad", &[&input, &pads, &fill], &[]))
}

pub(super) fn zeros_like(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let input = c.input(call, "self")?;
    let shape = c.node(call, "Shape", &[&input], &[]);
    // Without a value, it is 0 in float32.
    Ok(c.node(call, "ConstantOfShape", &[&shape], &[]))
}
