//! What leaves: networks with their codecs baked in ([`torchscript`]), checked against their run ([`verify()`]), and the
//! activation [`container`].

pub mod container;
mod error;
mod metadata;
pub mod torchscript;
mod verdict;
mod verify;

pub use error::ExportError;
pub use metadata::{GroupData, InputData, METADATA, Metadata, SiteData};
pub use verdict::{Difference, Verdict};
pub use verify::{Answers, Exported, LOGITS, ROUNDING, TIE, device_of, verify};
