//! What a network's activations cost: memory traffic, the energy of a DRAM that takes it, and the largest tensor.
//!
//! Each tensor is written once and read once for an image: `2 · Σ values · bits per value`. A tensor with several readers is
//! counted as read once, as by a device that holds it until all of them have run; weights, side information and the input
//! image are not in it.

use serde::Serialize;

/// Energy of a bit to or from DRAM in pJ, where nothing else is said.
pub const DRAM_PJ_PER_BIT: f64 = 20.0;

/// Where [`DRAM_PJ_PER_BIT`] comes from.
pub const DRAM_SOURCE: &str = "the lower end of 1.3–2.6 nJ for 64 bits: M. Horowitz, \"Computing's energy problem (and what we can do \
about it)\", ISSCC 2014, pp. 10–14, doi 10.1109/ISSCC.2014.6757323, table of rough energy costs in 45 nm";

/// A tensor and what its values take.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorBits {
    /// Its name.
    pub name: String,
    /// Values for one image.
    pub values: u64,
    /// Stored bits per value in the run; 32 if nothing compresses it.
    pub bits_per_value: f64,
}

/// The same for 32-bit floats, 8-bit integers and a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Variants {
    /// Every value in 32 bits.
    pub float32: f64,
    /// Every value in 8 bits.
    pub int8: f64,
    /// As the run stores them.
    pub run: f64,
}

impl Variants {
    fn map(self, change: impl Fn(f64) -> f64) -> Self {
        Self { float32: change(self.float32), int8: change(self.int8), run: change(self.run) }
    }
}

/// Traffic of one image in one convention.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Traffic {
    /// Number of tensors.
    pub tensors: usize,
    /// Their values.
    pub values: u64,
    /// Bytes written and read.
    pub bytes: Variants,
    /// Energy of the DRAM in µJ.
    pub dram_microjoules: Variants,
    /// Bytes of the largest single tensor: a lower bound of what an on-chip memory must hold to keep every tensor from DRAM.
    pub largest_tensor_bytes: Variants,
    /// Which tensor is the largest as the run stores them.
    pub largest_tensor: Option<String>,
}

impl Traffic {
    /// Traffic of the tensors of one convention at an energy of `pj_per_bit`.
    pub fn of(tensors: &[TensorBits], pj_per_bit: f64) -> Self {
        let bits = |tensor: &TensorBits| Variants {
            float32: 32.0 * tensor.values as f64,
            int8: 8.0 * tensor.values as f64,
            run: tensor.bits_per_value * tensor.values as f64,
        };
        let none = Variants { float32: 0.0, int8: 0.0, run: 0.0 };
        let fold = |join: fn(f64, f64) -> f64| {
            tensors.iter().map(bits).fold(none, |a, b| Variants {
                float32: join(a.float32, b.float32),
                int8: join(a.int8, b.int8),
                run: join(a.run, b.run),
            })
        };
        let moved = fold(|a, b| a + b).map(|bits| 2.0 * bits);
        let largest = tensors.iter().max_by(|a, b| bits(a).run.total_cmp(&bits(b).run));
        Self {
            tensors: tensors.len(),
            values: tensors.iter().map(|tensor| tensor.values).sum(),
            bytes: moved.map(|bits| bits / 8.0),
            dram_microjoules: moved.map(|bits| bits * pj_per_bit / 1e6),
            largest_tensor_bytes: fold(f64::max).map(|bits| bits / 8.0),
            largest_tensor: largest.map(|tensor| tensor.name.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, values: u64, bits_per_value: f64) -> TensorBits {
        TensorBits { name: name.to_owned(), values, bits_per_value }
    }

    #[test]
    fn each_tensor_is_written_and_read_once() {
        let traffic = Traffic::of(&[tensor("a", 1000, 2.5), tensor("b", 100, 32.0)], 20.0);
        assert_eq!((traffic.tensors, traffic.values), (2, 1100));
        // 2 · (1100 · 32, 1100 · 8, 1000 · 2.5 + 100 · 32) / 8.
        assert_eq!(traffic.bytes, Variants { float32: 8800.0, int8: 2200.0, run: 1425.0 });
        // 11,400 bits at 20 pJ are 0.228 µJ.
        assert!((traffic.dram_microjoules.run - 0.228).abs() < 1e-12);
        // The largest tensor need not be the same for all.
        assert_eq!(traffic.largest_tensor_bytes, Variants { float32: 4000.0, int8: 1000.0, run: 400.0 });
        assert_eq!(traffic.largest_tensor.as_deref(), Some("b"));
    }

    #[test]
    fn nothing_takes_nothing() {
        let traffic = Traffic::of(&[], 20.0);
        assert_eq!((traffic.bytes.run, traffic.largest_tensor_bytes.run, traffic.largest_tensor), (0.0, 0.0, None));
    }
}
