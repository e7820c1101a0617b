//! What leaves: the activation [`container`], a finished run's activations in one ([`pack_run`]), and what a report shows of
//! a run ([`describe_run`]).

mod codes;
pub mod container;
mod describe;
mod error;
mod pack;

pub use describe::describe_run;
pub use error::PackError;
pub use pack::{check_run, pack_run};
