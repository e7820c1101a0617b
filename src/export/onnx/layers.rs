//! Convolutions, matrix products, normalisation, pooling.

use tch::{Device, Kind, Tensor};

use super::convert::{Call, Converter, Result, from_front, unsupported};
use super::graph::Attribute;
use crate::libtorch::Argument;

/// A list with one entry for each of `rank` dimensions, given in full or as one for all.
fn spread(call: &Call<'_>, name: &str, rank: usize) -> Result<Vec<i64>> {
    let list = match call.argument(name) {
        Some(&Argument::Int(int)) => vec![int],
        _ => call.ints(name)?.to_vec(),
    };
    match list[..] {
        [one] => Ok(vec![one; rank]),
        _ if list.len() == rank => Ok(list),
        _ => unsupported(format!("its `{name}` has {} entries for {rank} dimensions", list.len())),
    }
}

/// The spatial extents of a tensor of `rank` such dimensions.
fn spatial(c: &Converter<'_>, value: usize, rank: usize) -> Result<Vec<i64>> {
    let all = c.of_type(value).shape.len();
    (all.saturating_sub(rank)..all).map(|dimension| c.extent(value, dimension)).collect()
}

/// Number of spatial dimensions, for operators named after it.
fn rank_of(call: &Call<'_>) -> usize {
    call.step.kind.trim_end_matches('d').chars().last().and_then(|c| c.to_digit(10)).map_or(2, |d| d as usize)
}

pub(super) fn convolution(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let weight = call.value("weight")?;
    let kernel: Vec<i64> = c.of_type(weight).shape.iter().skip(2).copied().map(Option::unwrap_or_default).collect();
    let rank = kernel.len();
    let dilations = spread(call, "dilation", rank)?;
    let pads = match call.text("padding") {
        Some("valid") => vec![0; 2 * rank],
        Some("same") => {
            let total: Vec<i64> = dilations.iter().zip(&kernel).map(|(d, k)| d * (k - 1)).collect();
            total.iter().map(|t| t / 2).chain(total.iter().map(|t| t - t / 2)).collect()
        }
        Some(other) => return unsupported(format!("its padding is `{other}`")),
        None => spread(call, "padding", rank)?.repeat(2),
    };
    let mut attributes = vec![
        ("kernel_shape", Attribute::Ints(kernel)),
        ("strides", Attribute::Ints(spread(call, "stride", rank)?)),
        ("dilations", Attribute::Ints(dilations)),
        ("pads", Attribute::Ints(pads)),
        ("group", Attribute::Int(call.int("groups")?)),
    ];
    let transposed = call.flag("transposed") == Some(true);
    if transposed {
        attributes.push(("output_padding", Attribute::Ints(spread(call, "output_padding", rank)?)));
    }
    let (input, weight, bias) = (c.input(call, "input")?, c.value(weight)?, c.optional(call, "bias")?);
    Ok(c.node(call, if transposed { "ConvTranspose" } else { "Conv" }, &[&input, &weight, &bias], &attributes))
}

/// `input·weightᵀ + bias` over the last dimension.
pub(super) fn linear(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let (input, weight) = (call.value("input")?, call.value("weight")?);
    let rank = c.of_type(input).shape.len();
    let (input, bias) = (c.value(input)?, c.optional(call, "bias")?);
    if rank == 2 {
        let weight = c.value(weight)?;
        return Ok(c.node(call, "Gemm", &[&input, &weight, &bias], &[("transB", Attribute::Int(1))]));
    }
    let weight = match c.constant(weight) {
        Some(tensor) => c.graph.weight(&format!("{input}.weight"), &tensor.f_tr()?)?,
        None => {
            let weight = c.value(weight)?;
            c.node(call, "Transpose", &[&weight], &[("perm", Attribute::Ints(vec![1, 0]))])
        }
    };
    let product = c.node(call, "MatMul", &[&input, &weight], &[]);
    Ok(if bias.is_empty() { product } else { c.node(call, "Add", &[&product, &bias], &[]) })
}

pub(super) fn addmm(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let attributes =
        [("alpha", Attribute::Float(call.number("alpha")?)), ("beta", Attribute::Float(call.number("beta")?))];
    let (a, b, bias) = (c.input(call, "mat1")?, c.input(call, "mat2")?, c.input(call, "self")?);
    Ok(c.node(call, "Gemm", &[&a, &b, &bias], &attributes))
}

pub(super) fn product(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let other = if call.argument("other").is_some() { "other" } else { "mat2" };
    let (a, b) = (c.input(call, "self")?, c.input(call, other)?);
    Ok(c.node(call, "MatMul", &[&a, &b], &[]))
}

pub(super) fn batch_norm(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let statistics = call.argument("running_mean").is_some() && call.argument("running_var").is_some();
    if call.flag("training") != Some(false) || !statistics {
        return unsupported("it normalises by the statistics of the batch");
    }
    let (mean, variance) = (call.value("running_mean")?, call.value("running_var")?);
    let channels = c.extent(mean, 0)?;
    // Without weight and bias, it only normalises.
    let or_all = |c: &mut Converter<'_>, name: &str, number: f32| -> Result<String> {
        let given = c.optional(call, name)?;
        let all = vec![number; usize::try_from(channels).unwrap_or(0)];
        Ok(if given.is_empty() { c.graph.floats(name, &[channels], &all) } else { given })
    };
    let (weight, bias) = (or_all(c, "weight", 1.0)?, or_all(c, "bias", 0.0)?);
    let (input, mean, variance) = (c.input(call, "input")?, c.value(mean)?, c.value(variance)?);
    let attributes = [("epsilon", Attribute::Float(call.number("eps")?))];
    Ok(c.node(call, "BatchNormalization", &[&input, &weight, &bias, &mean, &variance], &attributes))
}

pub(super) fn layer_norm(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let shape = call.ints("normalized_shape")?;
    let (input, bias) = (c.input(call, "input")?, c.optional(call, "bias")?);
    let mut weight = c.optional(call, "weight")?;
    if weight.is_empty() {
        weight = c.graph.weight("weight", &Tensor::f_ones(shape, (Kind::Float, Device::Cpu))?)?;
    }
    let attributes =
        [("axis", Attribute::Int(-(shape.len() as i64))), ("epsilon", Attribute::Float(call.number("eps")?))];
    Ok(c.node(call, "LayerNormalization", &[&input, &weight, &bias], &attributes))
}

/// A pool's windows. ONNX and PyTorch round the number of windows up by different rules, so padding at the ends says how
/// many there are: `pads` has the begins, then the ends.
struct Windows {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
    /// There is more padding at an end than the step says.
    widened: bool,
}

fn windows(c: &Converter<'_>, call: &Call<'_>) -> Result<Windows> {
    let rank = rank_of(call);
    let kernel = spread(call, "kernel_size", rank)?;
    let strides = match call.argument("stride") {
        Some(Argument::Ints(list)) if list.is_empty() => kernel.clone(),
        _ => spread(call, "stride", rank)?,
    };
    let dilations = if call.argument("dilation").is_some() { spread(call, "dilation", rank)? } else { vec![1; rank] };
    let begins = spread(call, "padding", rank)?;
    let (inputs, outputs) = (spatial(c, call.value("self")?, rank)?, spatial(c, call.output()?, rank)?);
    let mut ends = Vec::new();
    for d in 0..rank {
        let last = (outputs[d] - 1) * strides[d] + dilations[d] * (kernel[d] - 1) + 1;
        ends.push(begins[d].max(last - inputs[d] - begins[d]));
    }
    let widened = ends != begins;
    Ok(Windows { kernel, strides, dilations, pads: [begins, ends].concat(), widened })
}

pub(super) fn max_pool(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let windows = windows(c, call)?;
    let attributes = [
        ("kernel_shape", Attribute::Ints(windows.kernel)),
        ("strides", Attribute::Ints(windows.strides)),
        ("dilations", Attribute::Ints(windows.dilations)),
        ("pads", Attribute::Ints(windows.pads)),
    ];
    let input = c.input(call, "self")?;
    Ok(c.node(call, "MaxPool", &[&input], &attributes))
}

pub(super) fn average_pool(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    if call.argument("divisor_override").is_some() {
        return unsupported("it divides by another number than that of the values");
    }
    let windows = windows(c, call)?;
    let padded = windows.pads.iter().any(|&pad| pad > 0);
    let counts = padded && call.flag("count_include_pad") == Some(true);
    if counts && windows.widened {
        // What rounding up adds is not counted, unlike other padding; a pool without padding counts none either way.
        if windows.pads[..windows.kernel.len()].iter().any(|&pad| pad > 0) {
            return unsupported("it rounds the number of windows up and counts padding");
        }
    }
    let attributes = [
        ("kernel_shape", Attribute::Ints(windows.kernel)),
        ("strides", Attribute::Ints(windows.strides)),
        ("pads", Attribute::Ints(windows.pads)),
        ("count_include_pad", Attribute::Int((counts && !windows.widened).into())),
    ];
    let input = c.input(call, "self")?;
    Ok(c.node(call, "AveragePool", &[&input], &attributes))
}

/// Averages of `[height, width]` down (or up) to a given size.
pub(super) fn adaptive_average_pool(c: &mut Converter<'_>, call: &Call<'_>) -> Result<String> {
    let value = call.value("self")?;
    let (from, to) = (spatial(c, value, 2)?, spatial(c, call.output()?, 2)?);
    let input = c.value(value)?;
    if from == to {
        return Ok(input);
    }
    if to == [1, 1] {
        return Ok(c.node(call, "GlobalAveragePool", &[&input], &[]));
    }
    if from[0] % to[0] == 0 && from[1] % to[1] == 0 {
        let window = vec![from[0] / to[0], from[1] / to[1]];
        let attributes = [("kernel_shape", Attribute::Ints(window.clone())), ("strides", Attribute::Ints(window))];
        return Ok(c.node(call, "AveragePool", &[&input], &attributes));
    }
    // Windows of unlike size: an average is a matrix product along each dimension.
    let columns = averaging(from[1], to[1]);
    let columns = Tensor::from_slice(&columns).f_reshape([to[1], from[1]])?.f_tr()?;
    let columns = c.graph.weight(&format!("{input}.columns"), &columns)?;
    let rows = c.graph.floats(&format!("{input}.rows"), &[to[0], from[0]], &averaging(from[0], to[0]));
    let narrow = c.node(call, "MatMul", &[&input, &columns], &[]);
    Ok(c.node(call, "MatMul", &[&rows, &narrow], &[]))
}

/// `[to, from]`: row `i` averages the values from `⌊i·from/to⌋` to `⌈(i+1)·from/to⌉`.
fn averaging(from: i64, to: i64) -> Vec<f32> {
    let row = |i: i64| {
        let (start, end) = (i * from / to, ((i + 1) * from + to - 1) / to);
        (0..from).map(move |j| if (start..end).contains(&j) { 1.0 / (end - start) as f32 } else { 0.0 })
    };
    (0..to).flat_map(row).collect()
}

pub(super) fn reduce(c: &mut Converter<'_>, call: &Call<'_>, operator: &str) -> Result<String> {
    let value = call.value("self")?;
    let rank = c.of_type(value).shape.len();
    let axes: Vec<i64> = match call.argument("dim") {
        Some(Argument::Ints(dims)) if !dims.is_empty() => dims.iter().map(|&d| from_front(d, rank) as i64).collect(),
        Some(Argument::Varies) => return unsupported("its `dim` depends on the batch size"),
        _ => (0..rank as i64).collect(),
    };
    let input = c.value(value)?;
    let keep = ("keepdims", Attribute::Int((call.flag("keepdim") == Some(true)).into()));
    if operator == "mean" {
        return Ok(c.node(call, "ReduceMean", &[&input], &[("axes", Attribute::Ints(axes)), keep]));
    }
    let axes = c.graph.longs(&format!("{input}.axes"), &axes);
    Ok(c.node(call, "ReduceSum", &[&input, &axes], &[keep]))
}

#[cfg(test)]
mod tests {
    use super::averaging;

    #[test]
    fn windows_of_an_adaptive_average_overlap_where_they_must() {
        // PyTorch's rule: 3 windows over 5 values are [0, 2), [1, 4) and [3, 5).
        let third = 1.0 / 3.0;
        let wanted = [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, third, third, third, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5];
        assert_eq!(averaging(5, 3), wanted);
        assert_eq!(averaging(1, 2), [1.0, 1.0]);
    }
}
