//! The description of a site as bytes, and back.

use super::entropy::MOST_VALUES_PER_BYTE;
use super::error::{ContainerError, Part};
use super::input::Input;
use super::kernels::packed_bytes;
use super::layout::{Coding, GroupLayout, Placement, SiteLayout};
use super::plan::{Stored, StoredSite};
use crate::libtorch::Codes;

const MEANS: u8 = 1;
const BASIS: u8 = 2;
const WIDE_MEMBERS: u8 = 4;

fn codes_byte(codes: Codes) -> u8 {
    match codes {
        Codes::Unsigned => 0,
        Codes::MidTread => 1,
        Codes::MidRise => 2,
    }
}

/// The description of a site, with its checksum. Counts fit their fields: the plan has checked them.
pub(super) fn encode(site: &StoredSite) -> Vec<u8> {
    let layout = site.layout();
    let wide = layout.wide_members();
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let mut bytes = Vec::new();
    bytes.extend((layout.transform.len() as u16).to_le_bytes());
    bytes.extend(layout.transform.as_bytes());
    bytes.push(match layout.placement {
        Placement::Before => 0,
        Placement::After => 1,
    });
    bytes.push(layout.shape.len() as u8);
    bytes.extend(layout.shape.iter().flat_map(|length| length.to_le_bytes()));
    bytes
        .push(flag(!layout.means.is_empty(), MEANS) | flag(!layout.basis.is_empty(), BASIS) | flag(wide, WIDE_MEMBERS));
    bytes.extend((layout.groups.len() as u32).to_le_bytes());
    for (group, stored) in layout.groups.iter().zip(site.stored()) {
        bytes.extend((group.members.len() as u32).to_le_bytes());
        bytes.extend(group.step.to_le_bytes());
        bytes.extend(group.offset.to_le_bytes());
        bytes.extend(group.levels.to_le_bytes());
        bytes.extend([group.bits, codes_byte(group.codes)]);
        bytes.push(match stored.coding {
            Coding::Dropped => 0,
            Coding::Packed => 1,
            Coding::Coded => 2,
        });
        bytes.extend(stored.bytes.to_le_bytes());
        for &member in &group.members {
            let member = member.to_le_bytes();
            bytes.extend(if wide { &member[..] } else { &member[..2] });
        }
    }
    bytes.extend(layout.means.iter().chain(&layout.basis).flat_map(|value| value.to_le_bytes()));
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// The site that `content` describes: a description without its checksum, which begins at byte `offset`.
///
/// # Errors
/// If it ends early or late, or says something that the format or reason does not allow.
pub(super) fn decode(
    content: &[u8],
    number: usize,
    name: &str,
    images: u32,
    offset: u64,
) -> Result<StoredSite, ContainerError> {
    let part = Part::Site(number);
    let mut input = Input::new(content, part, offset);
    let transform_bytes = input.u16()?;
    let transform = input.text(usize::from(transform_bytes), "transform's name")?;
    let placement = match input.u8()? {
        0 => Placement::Before,
        1 => Placement::After,
        found => return Err(input.refuse(1, "the placement", found.into(), "0 or 1")),
    };
    let dimensions = input.u8()?;
    let shape = input.list(dimensions.into(), u32::from_le_bytes)?;
    let flags = input.u8()?;
    let flags_known = MEANS | BASIS | WIDE_MEMBERS;
    if flags & !flags_known != 0 {
        return Err(input.refuse(1, "the sum of the flags", flags.into(), "a sum of 1, 2 and 4"));
    }
    let mut layout =
        SiteLayout { name: name.to_owned(), shape, transform, placement, means: vec![], basis: vec![], groups: vec![] };
    if (flags & WIDE_MEMBERS != 0) != layout.wide_members() {
        return Err(input.refuse(
            1,
            "the sum of the flags",
            flags.into(),
            "a sum with 4 above 65536 channels, and without up to them",
        ));
    }
    let count = input.u32()?;
    let mut stored = Vec::new();
    for _ in 0..count {
        // Grows with what is read, whatever `count` says.
        let (group, coding) = decode_group(&mut input, flags & WIDE_MEMBERS != 0)?;
        layout.groups.push(group);
        stored.push(coding);
    }
    if flags & MEANS != 0 {
        layout.means = input.list(layout.channels().into(), f32::from_le_bytes)?;
    }
    if flags & BASIS != 0 {
        layout.basis = input.list(layout.kept().saturating_mul(layout.channels().into()), f32::from_le_bytes)?;
    }
    input.end()?;
    layout.check(images).map_err(|(group, fault)| ContainerError::Layout { site: name.to_owned(), group, fault })?;
    StoredSite::of_file(layout, images, stored).map_err(|(group, found, expected)| ContainerError::Field {
        part,
        offset,
        field: "the number of bytes of a group's codes",
        found,
        expected: format!("{expected} (group {group})"),
    })
}

/// A group and how it is stored.
fn decode_group(input: &mut Input, wide: bool) -> Result<(GroupLayout, (Coding, u64)), ContainerError> {
    let count = input.u32()?;
    let (step, offset) = (input.f32()?, input.f32()?);
    let levels = input.u16()?;
    let bits = input.u8()?;
    let codes = match input.u8()? {
        0 => Codes::Unsigned,
        1 => Codes::MidTread,
        2 => Codes::MidRise,
        found => return Err(input.refuse(1, "the kind of codes", found.into(), "0, 1 or 2")),
    };
    let coding = match (input.u8()?, bits) {
        (0, 0) => Coding::Dropped,
        (1, 1..) => Coding::Packed,
        (2, 1..) => Coding::Coded,
        (found, 0) => return Err(input.refuse(1, "the coding", found.into(), "0, as the width is 0")),
        (found, _) => return Err(input.refuse(1, "the coding", found.into(), "1 or 2, as the width is not 0")),
    };
    let bytes = input.u64()?;
    let members = if wide {
        input.list(count.into(), u32::from_le_bytes)?
    } else {
        input.list(count.into(), |member| u32::from(u16::from_le_bytes(member)))?
    };
    Ok((GroupLayout { members, step, offset, levels, bits, codes }, (coding, bytes)))
}

impl StoredSite {
    /// A site of a file, whose groups have codings and payload bytes as read.
    ///
    /// # Errors
    /// The first group whose bytes can't be, those bytes and what they should be.
    fn of_file(layout: SiteLayout, images: u32, codings: Vec<(Coding, u64)>) -> Result<Self, (usize, u64, String)> {
        let per_member = layout.values_per_member(images);
        let stored = layout.groups.iter().zip(codings).enumerate().map(|(number, (group, (coding, bytes)))| {
            let values = per_member * group.members.len() as u64;
            let packed = packed_bytes(values, group.bits);
            let (least, most) = match coding {
                Coding::Dropped | Coding::Packed => (packed, packed),
                Coding::Coded => (values.div_ceil(MOST_VALUES_PER_BYTE), packed.saturating_sub(1)),
            };
            if (least..=most).contains(&bytes) {
                Ok(Stored { values, coding, bytes })
            } else if least == most {
                Err((number, bytes, least.to_string()))
            } else {
                Err((number, bytes, format!("from {least} to {most}")))
            }
        });
        let stored = stored.collect::<Result<_, _>>()?;
        Ok(Self::new(layout, stored))
    }
}
