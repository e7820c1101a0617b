//! Declarations of the C functions in `cpp/`, and the translation of their error texts.

use std::ffi::{CStr, c_char, c_int, c_void};

use torch_sys::C_tensor;

/// A network owned by C++.
#[repr(C)]
pub(super) struct CNetwork {
    _private: [u8; 0],
}

/// A baked module owned by C++.
#[repr(C)]
pub(super) struct CBaked {
    _private: [u8; 0],
}

/// `PlainSite` of `cpp/bake.cpp`.
#[repr(C)]
pub(super) struct CPlainSite {
    pub(super) index: i64,
    pub(super) position: i64,
    pub(super) dimensions: i64,
    pub(super) channels_last: i64,
    pub(super) fold: i64,
    pub(super) has_lower_bound: i64,
    pub(super) lower_bound: f64,
    pub(super) name: *const c_char,
    pub(super) key: *const c_char,
    pub(super) step: *const C_tensor,
    pub(super) offset: *const C_tensor,
    pub(super) low: *const C_tensor,
    pub(super) high: *const C_tensor,
    pub(super) analysis: *const C_tensor,
    pub(super) bias: *const C_tensor,
    pub(super) synthesis: *const C_tensor,
    pub(super) mean: *const C_tensor,
}

pub(super) type Hook = unsafe extern "C" fn(
    context: *mut c_void,
    index: i64,
    position: i64,
    input: *const C_tensor,
    weight: *const C_tensor,
    status: *mut c_int,
) -> *mut C_tensor;

/// What a hook reports through its last argument: it failed.
pub(super) const FAILED: c_int = 1;
/// It did what the activation function does.
pub(super) const ACTIVATED: c_int = 2;

pub(super) type Visit =
    unsafe extern "C" fn(context: *mut c_void, name: *const c_char, is_parameter: c_int, tensor: *mut C_tensor);

unsafe extern "C" {
    pub(super) fn dimbit_network_load(path: *const c_char, out: *mut *mut CNetwork, error: *mut *mut c_char) -> c_int;
    pub(super) fn dimbit_network_copy(
        network: *const CNetwork,
        out: *mut *mut CNetwork,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_network_free(network: *mut CNetwork);
    pub(super) fn dimbit_network_save(network: *const CNetwork, path: *const c_char, error: *mut *mut c_char) -> c_int;
    pub(super) fn dimbit_network_survey(
        network: *const CNetwork,
        json: *mut *mut c_char,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_network_tensors(
        network: *const CNetwork,
        visit: Visit,
        context: *mut c_void,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_network_train(
        network: *mut CNetwork,
        train: c_int,
        freeze_norm: c_int,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_network_evaluate(network: *mut CNetwork, error: *mut *mut c_char) -> c_int;
    pub(super) fn dimbit_network_to(
        network: *mut CNetwork,
        device_type: c_int,
        device_index: c_int,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_network_run(
        network: *mut CNetwork,
        observed: c_int,
        packed: *mut i64,
        input: *const C_tensor,
        hook: Option<Hook>,
        context: *mut c_void,
        output: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_network_run_plain(
        network: *mut CNetwork,
        input: *const C_tensor,
        output: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_quantize(
        z: *const C_tensor,
        step: *const C_tensor,
        range: *const C_tensor,
        offset: *const C_tensor,
        codes: c_int,
        low: f64,
        high: f64,
        out: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_codec(
        x: *const C_tensor,
        step: *const C_tensor,
        range: *const C_tensor,
        offset: *const C_tensor,
        analysis: *const C_tensor,
        bias: *const C_tensor,
        synthesis: *const C_tensor,
        mean: *const C_tensor,
        codes: c_int,
        low: f64,
        high: f64,
        orthonormal: c_int,
        fused: c_int,
        out: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_set_deterministic(enabled: c_int, error: *mut *mut c_char) -> c_int;
    pub(super) fn dimbit_generator_state(
        device_index: c_int,
        state: *mut *mut C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_set_generator_state(
        device_index: c_int,
        state: *const C_tensor,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_peak_memory(device_index: c_int, bytes: *mut i64, error: *mut *mut c_char) -> c_int;

    pub(super) fn dimbit_bake(
        network: *const CNetwork,
        sites: *const CPlainSite,
        count: i64,
        fold_batch_norm: c_int,
        out: *mut *mut CBaked,
        folded: *mut *mut c_char,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_baked_save(
        baked: *const CBaked,
        path: *const c_char,
        name: *const c_char,
        text: *const c_char,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_baked_list(
        baked: *const CBaked,
        images: *const C_tensor,
        visit: Visit,
        context: *mut c_void,
        json: *mut *mut c_char,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_baked_free(baked: *mut CBaked);
    pub(super) fn dimbit_extra_file(
        path: *const c_char,
        name: *const c_char,
        text: *mut *mut c_char,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_unshared_values(
        tensor: *const C_tensor,
        values: *mut *mut f32,
        error: *mut *mut c_char,
    ) -> c_int;
    pub(super) fn dimbit_libtorch_version() -> *const c_char;

    fn free(pointer: *mut c_void);
}

/// Calls a C function that reports through its last argument.
pub(super) fn call(function: impl FnOnce(*mut *mut c_char) -> c_int) -> Result<(), String> {
    let mut error = std::ptr::null_mut();
    if function(&mut error) == 0 {
        return Ok(());
    }
    // SAFETY: on failure the C side hands over a malloc'ed text.
    Err(readable(&unsafe { take_text(error) }))
}

/// Copies and frees a text of the C side.
///
/// # Safety
/// `text` is null or a malloc'ed, zero-terminated string that nobody else frees.
pub(super) unsafe fn take_text(text: *mut c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller guarantees.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        free(text.cast());
        copy
    }
}

/// Keeps what a person can use of a C++ message: TorchScript's interpreter wraps the cause in a trace of Python sources.
fn readable(message: &str) -> String {
    let cause = message.rfind("RuntimeError: ").map_or(message, |at| &message[at + "RuntimeError: ".len()..]);
    let lines = cause.lines().map(str::trim_end).filter(|line| !line.is_empty());
    lines
        .take_while(|line| !line.starts_with("Exception raised from") && !line.starts_with("frame #"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn a_message_keeps_the_cause_and_loses_the_trace() {
        let message = "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript (most recent call last):\n  File \"x.py\", line 3, in forward\nRuntimeError: mat1 and mat2 shapes cannot be multiplied\nException raised from somewhere\nframe #0: c10::Error";
        assert_eq!(readable(message), "mat1 and mat2 shapes cannot be multiplied");
    }
}
