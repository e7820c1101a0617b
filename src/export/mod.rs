//! What leaves: networks with their codecs baked in ([`torchscript`], [`onnx`]), checked against their run ([`verify()`]); a
//! run's activations ([`pack_run`]) in a [`container`]; and what a report shows of a run ([`describe_run`]).

mod bake;
mod codes;
pub mod container;
mod describe;
mod error;
mod metadata;
pub mod onnx;
mod open;
mod pack;
mod pack_error;
pub mod torchscript;
mod verdict;
mod verify;

pub use bake::Options;
pub use describe::describe_run;
pub use error::ExportError;
pub use metadata::{GroupData, InputData, METADATA, Metadata, SiteData};
pub use open::open;
pub use pack::{check_run, pack_run};
pub use pack_error::PackError;
pub use verdict::{Difference, Verdict};
pub use verify::{Answers, Exported, LOGITS, TIE, verify};
