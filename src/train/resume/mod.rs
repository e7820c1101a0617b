//! Checkpoints: a run that was cut off anywhere goes on as if nothing had been.
//!
//! | idea | file |
//! |---|---|
//! | all that the next step depends on, taken down and put back | [`state`] |
//! | a checkpoint on disk: whole and as it was written, or refused | [`disk`] |
//! | which ones are kept, and the best one that meets the budget | [`keeper`] |
//! | numbers that come back to the last bit | [`exact`] |
//!
//! A run resumed on the same machine with the same number of threads ends in the same bits on the CPU. So nothing may be
//! left out that a later number depends on: beside weights and optimizers also the generator of random numbers, which
//! parameters have had a gradient (the others are not touched by momentum and decay), and the sums since the last report.

mod disk;
pub(super) mod exact;
mod keeper;
mod state;

pub use disk::{Checkpoint, Tensors};
pub use keeper::{Cadence, Keeper, Origin};
pub use state::{
    Captured, FitState, Interrupted, Machine, Place, State, WindowState, capture, fitting, on_cpu, restore,
};
