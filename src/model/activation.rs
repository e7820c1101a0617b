//! What is known of an activation function's values.

use crate::libtorch::RawSite;

/// The least value that the function can return: what lies below it needs no code. `None` where it has no bound.
///
/// The minima of the smooth functions are rounded down in the last digit kept.
pub fn lower_bound(site: &RawSite) -> Option<f64> {
    match site.kind.as_str() {
        "relu" | "relu6" | "softplus" | "sigmoid" | "hardsigmoid" => Some(0.0),
        "hardtanh" | "clamp" | "clamp_min" | "threshold" => site.low,
        "hardswish" => Some(-0.375),
        "silu" => Some(-0.278_465),
        "gelu" => Some(-0.170_041),
        "mish" => Some(-0.308_85),
        "selu" => Some(-1.758_1),
        "tanh" => Some(-1.0),
        _ => None,
    }
}
