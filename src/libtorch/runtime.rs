//! Process-wide switches.

use std::ffi::c_int;

use tch::{Device, Tensor};

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

/// What the random numbers to come on `device` depend on, as bytes: `[bytes]`, uint8, on the CPU.
///
/// # Errors
/// If libtorch can't tell.
pub fn generator_state(device: Device) -> Result<Tensor, LibtorchError> {
    let mut state = std::ptr::null_mut();
    // SAFETY: the result is handed over.
    call(|error| unsafe { ffi::dimbit_generator_state(index_of(device), &mut state, error) })
        .map_err(|reason| LibtorchError::Call { what: "read the state of the random numbers", reason })?;
    // SAFETY: set on success, owned by us.
    Ok(unsafe { Tensor::from_ptr(state) })
}

/// Goes on with the random numbers of `device` where [`generator_state`] was called.
///
/// # Errors
/// If `state` is none of that device.
pub fn set_generator_state(device: Device, state: &Tensor) -> Result<(), LibtorchError> {
    // SAFETY: the tensor is live; libtorch checks its size and kind.
    call(|error| unsafe { ffi::dimbit_set_generator_state(index_of(device), state.as_ptr(), error) })
        .map_err(|reason| LibtorchError::Call { what: "set the state of the random numbers", reason })
}

/// −1 for the CPU.
fn index_of(device: Device) -> c_int {
    match device {
        Device::Cuda(index) => c_int::try_from(index).unwrap_or(c_int::MAX),
        _ => -1,
    }
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
    fn random_numbers_go_on_where_their_state_was_read() {
        // Other tests of this process draw from the same generator and may come in between.
        let draws = || Tensor::rand([8], (tch::Kind::Float, Device::Cpu));
        let alike = (0..100).any(|_| {
            let state = generator_state(Device::Cpu).unwrap();
            let first = draws();
            set_generator_state(Device::Cpu, &state).unwrap();
            first == draws()
        });
        assert!(alike);
        for wrong in [Tensor::zeros([3], (tch::Kind::Uint8, Device::Cpu)), Tensor::from_slice(&[1.0_f32])] {
            assert!(set_generator_state(Device::Cpu, &wrong).unwrap_err().to_string().contains("random numbers"));
        }
    }

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
