//! The format, version 1.
//!
//! All numbers are little endian, floats are IEEE 754 binary32. `H` marks what is counted as header, `S` as side
//! information, `P` as payload; together they are every byte of the file.
//!
//! | bytes | content | |
//! |---|---|---|
//! | **header** | | |
//! | 8 | magic, [`MAGIC`] | H |
//! | 4 | version, 1 | H |
//! | 4 | images in the batch | H |
//! | 4 | sites | H |
//! | 4 | bytes of the directory | H |
//! | 8 | bytes of the file | H |
//! | 4 | CRC-32 of the header | H |
//! | **directory** | | |
//! | per site: 8 | bytes of its description | H |
//! | 8 | bytes of its payloads | H |
//! | 2 | bytes of its name | H |
//! | … | name, UTF-8 | S |
//! | 4 | CRC-32 of the directory | H |
//! | **then for each site: description** | | |
//! | 2 | bytes of the transform's name | H |
//! | … | transform's name, UTF-8 | S |
//! | 1 | placement: 0 before the activation function, 1 behind it | S |
//! | 1 | dimensions of the shape | H |
//! | 4 each | shape, channels first | S |
//! | 1 | flags: 1 means follow, 2 a basis follows, 4 members take 4 bytes instead of 2 | H |
//! | 4 | groups | H |
//! | per group: 4 | members | H |
//! | 4 | step | S |
//! | 4 | offset: value = offset + step · code | S |
//! | 2 | levels `n`: codes reach from 0, −n or −n − 1, by their kind, to n | S |
//! | 1 | width in bits, 0 to 8 | S |
//! | 1 | kind of codes: 0 unsigned, 1 mid-tread (from −n), 2 mid-rise (from −n − 1) | S |
//! | 1 | coding: 0 dropped, 1 packed, 2 entropy-coded | H |
//! | 8 | bytes of its payload | H |
//! | 2 or 4 each | members: channels, or coefficients behind a transform | S |
//! | 4 each | means, one a channel | S |
//! | 4 each | basis, one column of `channels` floats for each member of each group that is not dropped, in their order | S |
//! | 4 | CRC-32 of the description | H |
//! | **and its payloads, per group that is not dropped** | | |
//! | … | codes | P |
//! | 4 | CRC-32 of the codes | H |
//!
//! Nothing lies between the parts, so each offset is a sum of lengths. CRC-32 is the one of IEEE 802.3 (zlib's, PNG's),
//! over all bytes of the part before it.
//!
//! **Symbols.** A code is stored in offset binary: `symbol = code` if it is unsigned, else `symbol = code + 2^(bits−1)`.
//!
//! **Packed payload.** Symbols in the order `[images, positions, members]` (members vary fastest) form one string of bits:
//! symbol `i` is bits `i·bits` to `(i+1)·bits − 1`, its lowest bit first; bit `k` of the string is bit `k mod 8` (lowest
//! first) of byte `k div 8`. That makes `ceil(values·bits/8)` bytes; what is left of the last byte is 0.
//!
//! **Entropy-coded payload.** See [`entropy`](super::entropy).

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use super::error::LayoutFault;
use super::kernels::Range;
use crate::compress::quantizer::least_bits;
use crate::libtorch::Codes;

/// The first bytes of a container. Its last two show a transfer in text mode.
pub const MAGIC: [u8; 8] = *b"dimbit\x1a\n";

/// The version that this module writes and reads.
pub const VERSION: u32 = 1;

/// The widest code in bits.
pub const MAX_BITS: u8 = 8;

pub(super) const HEADER_BYTES: u64 = 36;
pub(super) const CRC_BYTES: u64 = 4;
/// Bytes of a site in the directory, without its name.
pub(super) const ENTRY_BYTES: u64 = 8 + 8 + 2;

/// Which side of the site's activation function is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Pre-activations: the reader applies the function.
    Before,
    /// The function's results.
    After,
}

/// How the codes of a group are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Dropped,
    /// At the group's width.
    Packed,
    /// Entropy-coded, as that takes fewer bytes.
    Coded,
}

/// The quantizer of a group and who belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupLayout {
    /// Channels, or coefficients behind a transform.
    pub members: Vec<u32>,
    /// Step of the quantizer, positive (0 is allowed if dropped).
    pub step: f32,
    /// Value of code 0.
    pub offset: f32,
    /// Largest code `n`; codes reach from 0 (unsigned), −n (mid-tread) or −n − 1 (mid-rise) to n. 0 if dropped.
    pub levels: u16,
    /// Width of a code, 1 to 8; 0 if dropped.
    pub bits: u8,
    /// Which codes the group has.
    pub codes: Codes,
}

impl GroupLayout {
    /// A group without codes.
    pub fn dropped(members: Vec<u32>) -> Self {
        Self { members, step: 0.0, offset: 0.0, levels: 0, bits: 0, codes: Codes::Unsigned }
    }

    pub(super) fn range(&self) -> Range {
        // Levels were checked to be 255 at most.
        let most = i16::try_from(self.levels).unwrap_or(i16::MAX);
        let bias = 1 << (self.bits.max(1) - 1);
        match self.codes {
            Codes::Unsigned => Range { bias: 0, least: 0, most },
            Codes::MidTread => Range { bias, least: -most, most },
            Codes::MidRise => Range { bias, least: -most - 1, most },
        }
    }

    fn check(&self, channels: u32) -> Result<(), LayoutFault> {
        let least_bits = least_bits(self.codes) as u8;
        if self.bits > MAX_BITS || (self.bits != 0 && self.bits < least_bits) {
            return Err(LayoutFault::Width { bits: self.bits, least: least_bits });
        }
        let dropped = self.bits == 0;
        let signed = self.codes != Codes::Unsigned;
        let most = if dropped { 0 } else { (1_u16 << (self.bits - u8::from(signed))) - 1 };
        // Of mid-rise codes of one bit, −1 and 0, the largest is 0.
        let none = self.levels == 0 && !(dropped || self.codes == Codes::MidRise);
        if self.levels > most || none {
            return Err(LayoutFault::Levels { levels: self.levels, bits: self.bits, most });
        }
        if !(self.step.is_finite() && (self.step > 0.0 || (dropped && self.step == 0.0))) {
            return Err(LayoutFault::Step { step: self.step });
        }
        if !self.offset.is_finite() {
            return Err(LayoutFault::NotFinite { what: "offset" });
        }
        match self.members.iter().find(|&&member| member >= channels) {
            Some(&member) => Err(LayoutFault::Member { member, channels }),
            None => Ok(()),
        }
    }
}

/// A site: where it is in the network, its transform and its groups.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteLayout {
    /// Name in the network, unique in a container; at most 65,535 bytes.
    pub name: String,
    /// Shape of the site's tensor for one image, channels first: `[channels, height, width]`.
    pub shape: Vec<u32>,
    /// The transform's name: `none`, `pca`, …; at most 65,535 bytes.
    pub transform: String,
    /// Which side of the activation function is stored.
    pub placement: Placement,
    /// Mean of each channel, `[channels]`; or empty.
    pub means: Vec<f32>,
    /// Columns of the basis that leads back from coefficients to channels, `[kept, channels]`: one for each member of each
    /// group that is not dropped, in their order; or empty.
    pub basis: Vec<f32>,
    /// The groups; no member is in two of them.
    pub groups: Vec<GroupLayout>,
}

impl SiteLayout {
    /// Channels, the first dimension.
    pub fn channels(&self) -> u32 {
        self.shape.first().copied().unwrap_or(0)
    }

    /// Members of groups that are not dropped.
    pub fn kept(&self) -> u64 {
        self.groups.iter().filter(|group| group.bits != 0).map(|group| group.members.len() as u64).sum()
    }

    /// Values of one member over all images: `images · positions`. [`Self::check`] has shown that they can be counted.
    pub(super) fn values_per_member(&self, images: u32) -> u64 {
        self.shape.iter().skip(1).fold(u64::from(images), |count, &length| count.saturating_mul(u64::from(length)))
    }

    /// Whether members take four bytes.
    pub(super) fn wide_members(&self) -> bool {
        self.channels() > 1 << 16
    }

    /// Whether the description is sound; the number of the group at fault, if it is one.
    pub(super) fn check(&self, images: u32) -> Result<(), (Option<usize>, LayoutFault)> {
        let site = |fault| Err((None, fault));
        for (what, text) in [("name", &self.name), ("transform", &self.transform)] {
            if u16::try_from(text.len()).is_err() {
                return site(LayoutFault::TextTooLong { what, bytes: text.len() });
            }
        }
        if self.shape.is_empty() || self.shape.len() > usize::from(u8::MAX) || self.shape.contains(&0) {
            return site(LayoutFault::Shape { shape: self.shape.clone() });
        }
        // In bits, with room for every sum of the file.
        let largest =
            self.shape.iter().try_fold(u64::from(images) * 8, |count, &length| count.checked_mul(length.into()));
        if largest.is_none_or(|bits| bits > 1 << 62) {
            return site(LayoutFault::TooManyValues);
        }
        for (number, group) in self.groups.iter().enumerate() {
            group.check(self.channels()).map_err(|fault| (Some(number), fault))?;
        }
        let mut members: Vec<u32> = self.groups.iter().flat_map(|group| group.members.iter().copied()).collect();
        members.sort_unstable();
        if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            return site(LayoutFault::MemberTwice { member: pair[0] });
        }
        let channels = u64::from(self.channels());
        for (what, floats, expected) in
            [("means", &self.means, channels), ("basis", &self.basis, channels * self.kept())]
        {
            if !floats.is_empty() && floats.len() as u64 != expected {
                return site(LayoutFault::Floats { what, expected, found: floats.len() as u64 });
            }
            if !floats.iter().all(|value| value.is_finite()) {
                return site(LayoutFault::NotFinite { what });
            }
        }
        Ok(())
    }
}

/// Bytes of a group, a site or a whole container by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Codes.
    pub payload_bytes: u64,
    /// What the codes' meaning depends on: names, shapes, quantizers, members, means, bases.
    pub side_information_bytes: u64,
    /// What the container adds: magic, counts, lengths, checksums.
    pub header_bytes: u64,
}

impl Sizes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.payload_bytes + self.side_information_bytes + self.header_bytes
    }
}

impl Add for Sizes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            payload_bytes: self.payload_bytes + other.payload_bytes,
            side_information_bytes: self.side_information_bytes + other.side_information_bytes,
            header_bytes: self.header_bytes + other.header_bytes,
        }
    }
}

impl AddAssign for Sizes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Sizes {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), Self::add)
    }
}
