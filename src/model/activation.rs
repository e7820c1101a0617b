//! What is known of an activation function's values.

use crate::libtorch::{Clamp, RawSite};

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

/// What an activation function does, if it only clamps; with constant bounds.
pub fn clamp(site: &RawSite) -> Option<Clamp> {
    match (site.kind.as_str(), site.low, site.high) {
        ("relu", ..) => Some(Clamp { low: 0.0, high: f64::INFINITY }),
        ("relu6", ..) => Some(Clamp { low: 0.0, high: 6.0 }),
        ("hardtanh" | "clamp", Some(low), Some(high)) => Some(Clamp { low, high }),
        _ => None,
    }
}
