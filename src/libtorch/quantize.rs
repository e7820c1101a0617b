//! The quantizer's forward and straight-through backward.

use tch::Tensor;

use super::error::LibtorchError;
use super::ffi::{self, call};

/// Uniform quantization `Q(z) = o + d · clamp(round((z − o)/d), low, n)` with `n = range/d`, and `low = −n` for signed
/// coefficients, `0` for non-negative ones. A range of 0 drops the channel: its output is the offset `o`.
///
/// Straight-through gradients (Uhlich et al., arXiv 1905.11452, eq. 3c): inside the range `∂Q/∂z = 1` and
/// `∂Q/∂d = (Q(z) − z)/d`; outside `∂Q/∂z = 0` and `∂Q/∂range = sign(z)`. The offset gets none.
///
/// * `z`: `[batch, channels, ...]`
/// * `step`, `range`, `offset`: `[channels]`, step > 0
///
/// # Errors
/// If the shapes don't fit, or on any failure of libtorch.
pub fn quantize(
    z: &Tensor,
    step: &Tensor,
    range: &Tensor,
    offset: &Tensor,
    signed: bool,
) -> Result<Tensor, LibtorchError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: all tensors are live; the result is handed over.
    call(|error| unsafe {
        ffi::dimbit_quantize(z.as_ptr(), step.as_ptr(), range.as_ptr(), offset.as_ptr(), signed.into(), &mut out, error)
    })
    .map_err(|reason| LibtorchError::Call { what: "quantize", reason })?;
    // SAFETY: set on success, owned by us.
    Ok(unsafe { Tensor::from_ptr(out) })
}
