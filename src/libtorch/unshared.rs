//! Tensors as plain memory, where nobody else holds them.

use tch::{Device, Kind, Tensor};

use super::error::LibtorchError;
use super::ffi::{self, call};

/// A contiguous float32 tensor on the CPU whose memory nothing else can reach: neither another handle of the tensor nor a
/// view of it, a detached copy or a graph that keeps it for its backward pass. Like [`std::sync::Arc::get_mut`] it gives
/// its values to be written.
#[derive(Debug)]
pub struct Unshared(Tensor);

impl Unshared {
    /// `tensor`, if nothing else holds it or its memory; else, and if it is of another kind, layout or device, has no
    /// values or needs a gradient, `tensor` as it was.
    pub fn new(tensor: Tensor) -> Result<Self, Tensor> {
        let mut values = std::ptr::null_mut();
        // SAFETY: the tensor is live, the target outlives the call.
        let found = call(|error| unsafe { ffi::dimbit_unshared_values(tensor.as_ptr(), &mut values, error) });
        if found.is_ok() && !values.is_null() { Ok(Self(tensor)) } else { Err(tensor) }
    }

    /// Memory for `shape`, at least one value, all 0.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub fn zeros(shape: &[i64]) -> Result<Self, LibtorchError> {
        let new = Self::new(Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?);
        let memory = new.map_err(|tensor| LibtorchError::Call {
            what: "give memory for values",
            reason: format!("a tensor of shape {:?} has none of its own", tensor.size()),
        })?;
        // On this thread: libtorch would begin a team of threads for it.
        // SAFETY: as in `as_mut`; the values are written before anybody refers to them.
        unsafe { memory.0.data_ptr().cast::<f32>().write_bytes(0, memory.0.numel()) };
        Ok(memory)
    }

    /// The tensor's shape.
    pub fn size(&self) -> Vec<i64> {
        self.0.size()
    }

    /// The tensor, for others to hold as well.
    pub fn into_tensor(self) -> Tensor {
        self.0
    }
}

impl AsMut<[f32]> for Unshared {
    fn as_mut(&mut self) -> &mut [f32] {
        // SAFETY: checked in `new`, the tensor has so many values one behind the other. Since then it was in here, where
        // nobody can get at it to hold it or to change its memory; the borrow of `self` keeps it so.
        unsafe { std::slice::from_raw_parts_mut(self.0.data_ptr().cast(), self.0.numel()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(shape: &[i64]) -> Tensor {
        Tensor::ones(shape, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn values_are_written_where_the_tensor_has_them() {
        let mut memory = Unshared::zeros(&[2, 3]).unwrap();
        assert_eq!(memory.as_mut(), [0.0; 6]);
        assert_eq!(memory.size(), [2, 3]);
        memory.as_mut().copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let tensor = memory.into_tensor();
        assert_eq!(Vec::<Vec<f32>>::try_from(&tensor).unwrap(), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        assert_eq!(Unshared::new(tensor).unwrap().as_mut(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn whoever_holds_the_memory_is_noticed() {
        let holders: [fn(&Tensor) -> Tensor; 5] =
            [Tensor::shallow_clone, Tensor::detach, |t| t.narrow(0, 1, 1), |t| t.view([4]), |t| t.tr()];
        for hold in holders {
            let tensor = filled(&[2, 2]);
            let other = hold(&tensor);
            let tensor = Unshared::new(tensor).unwrap_err();
            drop(Unshared::new(other).unwrap_err());
            assert!(Unshared::new(tensor).is_ok());
        }
    }

    #[test]
    fn a_backward_pass_that_needs_the_values_holds_them() {
        let weight = filled(&[2, 2]).set_requires_grad(true);
        let images = filled(&[2, 2]);
        let loss = (&weight * &images).sum(Kind::Float);
        let images = Unshared::new(images).unwrap_err();
        drop(loss);
        assert!(Unshared::new(images).is_ok());
    }

    #[test]
    fn other_tensors_are_refused() {
        let mut transposed = filled(&[2, 3]);
        drop(transposed.t_());
        let refused = [
            filled(&[2, 2]).set_requires_grad(true),
            filled(&[2, 2]).to_kind(Kind::Double),
            filled(&[2, 2]).to_kind(Kind::Int),
            filled(&[2, 2]).to_sparse_sparse_dim(2),
            transposed,
            filled(&[2, 3]).narrow(1, 0, 2),
            filled(&[0, 3]),
            Tensor::new(),
        ];
        for tensor in refused {
            assert!(Unshared::new(tensor).is_err());
        }
        assert!(Unshared::zeros(&[0]).unwrap_err().to_string().contains("[0]"));
    }
}
