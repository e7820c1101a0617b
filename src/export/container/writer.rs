//! Writes a container from front to back.

use std::io::Write;

use super::entropy;
use super::error::{ContainerError, Part};
use super::kernels::{self, BLOCK, Range, packed_bytes};
use super::layout::{Coding, MAGIC, VERSION};
use super::plan::{Plan, check_codes, symbols};
use super::section;

/// Writes the container of a [`Plan`], a few KiB at a time. Groups come in the plan's order, without those that are dropped.
#[derive(Debug)]
pub struct Writer<'a, W> {
    out: W,
    plan: &'a Plan,
    /// Site and group that come next.
    next: Option<(usize, usize)>,
}

impl<'a, W: Write> Writer<'a, W> {
    /// Writes the header and the directory.
    ///
    /// # Errors
    /// If `out` does not take them.
    pub fn new(out: W, plan: &'a Plan) -> Result<Self, ContainerError> {
        let mut writer = Self { out, plan, next: None };
        // The plan has checked that these fit.
        let sites = plan.sites();
        let mut header = MAGIC.to_vec();
        for number in [VERSION, plan.images(), sites.len() as u32, plan.directory_part() as u32] {
            header.extend(number.to_le_bytes());
        }
        header.extend(plan.sizes().total().to_le_bytes());
        writer.write_checked(Part::Header, header)?;

        let mut directory = Vec::new();
        for site in sites {
            let name = &site.layout().name;
            directory.extend(site.description_part().to_le_bytes());
            directory.extend(site.payload_part().to_le_bytes());
            directory.extend((name.len() as u16).to_le_bytes());
            directory.extend(name.as_bytes());
        }
        writer.write_checked(Part::Directory, directory)?;
        writer.go_on(0, None)?;
        Ok(writer)
    }

    /// Site and group that are to be written next; `None` if all are.
    pub fn next_group(&self) -> Option<(usize, usize)> {
        self.next
    }

    /// Writes the codes of a group, `[images, positions, members]`.
    ///
    /// # Errors
    /// If another group comes next, the codes are too few, too many or out of the group's range, a group that was planned
    /// with entropy coding has other codes now, or they can't be written. Nothing has been written but in the last case.
    pub fn write_group(&mut self, site: usize, group: usize, codes: &[i16]) -> Result<(), ContainerError> {
        if self.next != Some((site, group)) {
            return Err(ContainerError::Order { expected: self.next, found: (site, group) });
        }
        let (layout, stored) = self.plan.group(site, group)?;
        let range = layout.range();
        check_codes(site, group, codes, range, stored)?;
        let part = Part::Payload { site, group };
        if stored.coding == Coding::Coded {
            let (bytes, _) = entropy::encode(&symbols(codes, range));
            let found = bytes.len() as u64;
            if found != stored.bytes {
                return Err(ContainerError::PlanDiffers { site, group, planned: stored.bytes, found });
            }
            self.write_checked(part, bytes)?;
        } else {
            self.write_packed(part, codes, range, layout.bits)?;
        }
        self.go_on(site, Some(group))
    }

    /// Ends the container.
    ///
    /// # Errors
    /// If a group is missing or the rest can't be written.
    pub fn finish(mut self) -> Result<W, ContainerError> {
        if let Some((site, group)) = self.next {
            return Err(ContainerError::Incomplete { site, group });
        }
        self.out.flush().map_err(|source| ContainerError::Write { part: Part::Container, source })?;
        Ok(self.out)
    }

    fn write_packed(&mut self, part: Part, codes: &[i16], range: Range, bits: u8) -> Result<(), ContainerError> {
        let mut symbols = vec![0; BLOCK.min(codes.len())];
        let mut bytes = vec![0; symbols.len()];
        let mut checksum = crc32fast::Hasher::new();
        // Whole blocks end at a byte's end, so that the blocks' bytes follow one another.
        for block in codes.chunks(BLOCK) {
            let symbols = &mut symbols[..block.len()];
            range.to_symbols(block, symbols);
            let bytes = &mut bytes[..packed_bytes(block.len() as u64, bits) as usize];
            kernels::pack(symbols, bits, bytes);
            checksum.update(bytes);
            self.write(part, bytes)?;
        }
        self.write(part, &checksum.finalize().to_le_bytes())
    }

    /// Finds the next group after `group` of `site` (its first, if `None`) and writes the descriptions up to it.
    fn go_on(&mut self, mut site: usize, mut group: Option<usize>) -> Result<(), ContainerError> {
        let plan = self.plan;
        self.next = None;
        while let Some(current) = plan.sites().get(site) {
            if group.is_none() {
                self.write(Part::Site(site), &section::encode(current))?;
            }
            let from = group.map_or(0, |group| group + 1);
            let more = current.stored().iter().skip(from).position(|stored| stored.coding != Coding::Dropped);
            if let Some(more) = more {
                self.next = Some((site, from + more));
                return Ok(());
            }
            (site, group) = (site + 1, None);
        }
        Ok(())
    }

    fn write(&mut self, part: Part, bytes: &[u8]) -> Result<(), ContainerError> {
        self.out.write_all(bytes).map_err(|source| ContainerError::Write { part, source })
    }

    fn write_checked(&mut self, part: Part, mut bytes: Vec<u8>) -> Result<(), ContainerError> {
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        self.write(part, &bytes)
    }
}

/// Codes from a float tensor of whole numbers.
///
/// # Errors
/// [`ContainerError::NotWhole`] with the first value that is no whole number from −255 to 255.
pub fn whole_codes(values: &[f32]) -> Result<Vec<i16>, ContainerError> {
    let code = |(index, &value): (usize, &f32)| {
        let code = value as i16;
        // An integer cast takes every float to some integer: the comparison finds those that were none.
        if f32::from(code) == value && (-255..=255).contains(&code) {
            Ok(code)
        } else {
            Err(ContainerError::NotWhole { index, value })
        }
    };
    values.iter().enumerate().map(code).collect()
}
