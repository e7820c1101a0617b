//! A site's quantizer. The baked network computes `code = min(max(round(z · reciprocal(step)), low), high)` and
//! `ẑ = step · code`. Rounding and clamping to whole numbers can be swapped, so the same codes come from
//!
//! ```text
//! code = QuantizeLinear(Min(Max(z · reciprocal(step), low), high), scale 1)      round: half to even, to int8 or uint8
//! ẑ    = DequantizeLinear(code, step)                                           a step for each coefficient
//! ```
//!
//! digit for digit. `QuantizeLinear` with the step itself would divide, and a division rounds unlike a multiplication by the
//! reciprocal. Codes that fit neither type stay whole numbers in float32.

use std::collections::BTreeMap;

use super::convert::{Call, Converter, Held, Result, bounds, unsupported};
use super::graph::Attribute;
use super::proto::{ValueInfoProto, element};
use crate::libtorch::{Argument, Step};

fn read(step: &Step, argument: &str) -> Option<usize> {
    match step.arguments.get(argument) {
        Some(&Argument::Value(value)) => Some(value),
        _ => None,
    }
}

/// The tensor that a site's quantizer makes, before its codes get their layout and type.
pub(super) fn clamped(makers: &BTreeMap<usize, &Step>, codes: usize) -> Option<usize> {
    let step = makers.get(&codes)?;
    match step.kind.as_str() {
        "aten::to" | "aten::permute" => clamped(makers, read(step, "self")?),
        "aten::minimum" => Some(codes),
        _ => None,
    }
}

/// The codes.
pub(super) fn codes(c: &mut Converter<'_>, call: &Call<'_>) -> Result<Held> {
    let output = call.output()?;
    let above = c.maker(call.value("self")?).filter(|step| step.kind == "aten::maximum");
    let rounded = above.and_then(|step| c.maker(read(step, "self")?)).filter(|step| step.kind == "aten::round");
    let (Some(above), Some(rounded), Some(name)) = (above, rounded, c.codes.get(&output).cloned()) else {
        return unsupported("it is no quantizer of this program");
    };
    let (low, high) = (Call { step: above }.value("other")?, call.value("other")?);
    let (Some(lows), Some(highs)) = (c.constant(low), c.constant(high)) else {
        return unsupported("the bounds of the codes depend on the images");
    };
    let (least, most) = (bounds(lows)?.0, bounds(highs)?.1);
    let scaled = c.input(&Call { step: rounded }, "self")?;
    let (low, high) = (c.value(low)?, c.value(high)?);
    let element = match (least, most) {
        (0.0.., ..=255.0) => element::UINT8,
        (-128.0.., ..=127.0) => element::INT8,
        _ => element::FLOAT,
    };
    let clamp = |c: &mut Converter<'_>, value: &str| {
        let value = c.node(call, "Max", &[value, &low], &[]);
        c.node(call, "Min", &[&value, &high], &[])
    };
    if element == element::FLOAT {
        let value = clamp(c, &scaled);
        c.graph.named(&name, "Round", &[&value], &[]);
    } else {
        let value = clamp(c, &scaled);
        let one = c.graph.floats(&format!("{name}.one"), &[], &[1.0]);
        let zero = c.graph.zeros(&format!("{name}.zero"), element, &[]);
        c.graph.named(&name, "QuantizeLinear", &[&value, &one, &zero], &[]);
    }
    c.code_values.push(ValueInfoProto::new(&name, element, &c.of_type(output).shape));
    Ok(Held::Codes { name, element })
}

/// What the codes stand for, but for the offset.
pub(super) fn values(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let (codes, step) = (call.value("self")?, call.value("other")?);
    let (Held::Codes { name, element }, Some(steps)) = (c.held(codes)?, c.constant(step)) else {
        return unsupported("it multiplies codes with what depends on the images");
    };
    if element == element::FLOAT {
        let step = c.value(step)?;
        return Ok(c.node(call, "Mul", &[&name, &step], &[]));
    }
    // One a coefficient: [kept], [kept, 1, 1].
    let axis = c.of_type(codes).shape.len().saturating_sub(steps.dim()) as i64;
    let step = if steps.dim() == 1 { c.value(step)? } else { c.flat(step)? };
    // Said although it is the default: without it, ONNX Runtime rewrites int8 to uint8 with one zero for all, and then fails.
    let zeros = c.graph.zeros(&format!("{name}.zeros"), element, &[steps.numel() as i64]);
    Ok(c.node(call, "DequantizeLinear", &[&name, &step, &zeros], &[("axis", Attribute::Int(axis))]))
}
