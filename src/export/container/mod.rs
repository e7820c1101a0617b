//! The activation container: the codes of quantized activations, bit-packed, and what is needed to read them back.
//!
//! [`layout`] describes the format byte by byte. A [`Plan`] knows every size before a byte is written, a [`Writer`] writes
//! exactly what the plan says to any [`std::io::Write`], and a [`Reader`] fetches single sites and groups. Codes of a group
//! are in position-major order, `[images, positions, members]`: the rows of a site's matrix, a column for each member.
//!
//! ```
//! # use dimbit::export::container::{GroupLayout, Placement, Plan, Reader, SiteLayout, Writer};
//! # use dimbit::libtorch::Codes;
//! # fn main() -> Result<(), dimbit::export::container::ContainerError> {
//! let group = GroupLayout { members: vec![0, 2], step: 0.5, offset: 0.0, levels: 3, bits: 3, codes: Codes::MidTread };
//! let site = SiteLayout {
//!     name: "layer1.0.relu".to_owned(),
//!     shape: vec![3, 1, 2],
//!     transform: "none".to_owned(),
//!     placement: Placement::After,
//!     means: vec![0.0; 3],
//!     basis: vec![],
//!     groups: vec![group, GroupLayout::dropped(vec![1])],
//! };
//! let plan = Plan::new(vec![site], 1)?;
//! assert_eq!(plan.sizes().payload_bytes, 2); // 1 image · 2 positions · 2 members · 3 bits
//!
//! let mut writer = Writer::new(Vec::new(), &plan)?;
//! writer.write_group(0, 0, &[-3, 0, 1, 2])?;
//! let bytes = writer.finish()?;
//! assert_eq!(bytes.len() as u64, plan.sizes().total());
//!
//! let mut reader = Reader::from_bytes(&bytes)?;
//! assert_eq!(reader.codes(0, 0)?, [-3, 0, 1, 2]);
//! # Ok(())
//! # }
//! ```

pub mod entropy;
mod error;
mod input;
pub mod kernels;
pub mod layout;
mod plan;
mod reader;
mod section;
mod writer;

pub use entropy::Entropy;
pub use error::{ContainerError, LayoutFault, Part};
pub use layout::{Coding, GroupLayout, Placement, SiteLayout, Sizes};
pub use plan::{Plan, StoredSite};
pub use reader::Reader;
pub use writer::{Writer, whole_codes};

#[cfg(test)]
mod tests;
