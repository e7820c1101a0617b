//! Process-wide switches.

use super::error::LibtorchError;
use super::ffi::{self, call};

/// Asks for deterministic algorithms and flushes denormal numbers; seeds libtorch's generators.
///
/// # Errors
/// If libtorch refuses.
pub fn set_deterministic(seed: u64) -> Result<(), LibtorchError> {
    // SAFETY: no pointers but the error's.
    call(|error| unsafe { ffi::dimbit_set_deterministic(1, error) })
        .map_err(|reason| LibtorchError::Call { what: "switch to deterministic algorithms", reason })?;
    tch::manual_seed(i64::from_ne_bytes(seed.to_ne_bytes()));
    Ok(())
}

/// The number of CUDA devices that can be used; 0 on a machine without one.
pub fn cuda_devices() -> usize {
    if tch::Cuda::is_available() { usize::try_from(tch::Cuda::device_count()).unwrap_or(0) } else { 0 }
}

/// The version of libtorch that the program was built against, for example `2.11.0`.
pub fn version() -> String {
    // SAFETY: a constant text of the C++ part.
    unsafe { std::ffi::CStr::from_ptr(ffi::dimbit_libtorch_version()) }.to_string_lossy().into_owned()
}
