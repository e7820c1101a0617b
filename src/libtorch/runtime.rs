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

/// The most bytes that tensors of this process have taken on `device` at once: on the CPU the process's largest resident
/// set (none where the system doesn't tell it), on CUDA what libtorch's allocator counts.
///
/// # Errors
/// If libtorch can't tell.
pub fn peak_memory(device: tch::Device) -> Result<Option<u64>, LibtorchError> {
    let tch::Device::Cuda(index) = device else { return Ok(peak_resident_set()) };
    let (index, mut bytes) = (i32::try_from(index).unwrap_or(i32::MAX), 0);
    // SAFETY: the target outlives the call.
    call(|error| unsafe { ffi::dimbit_peak_memory(index, &mut bytes, error) })
        .map_err(|reason| LibtorchError::Call { what: "read the device's peak memory", reason })?;
    Ok(u64::try_from(bytes).ok())
}

/// `VmHWM` of Linux, in bytes.
fn peak_resident_set() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()? * 1024)
}

/// The version of libtorch that the program was built against, for example `2.11.0`.
pub fn version() -> String {
    // SAFETY: a constant text of the C++ part.
    unsafe { std::ffi::CStr::from_ptr(ffi::dimbit_libtorch_version()) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_resident_set_grows_by_what_is_written() {
        let before = peak_memory(tch::Device::Cpu).unwrap().unwrap();
        let size = before as usize + (16 << 20);
        let filled = std::hint::black_box(vec![1_u8; size]);
        let after = peak_memory(tch::Device::Cpu).unwrap().unwrap();
        assert!(after as usize > size && filled.len() == size, "{before} {after}");
    }
}
