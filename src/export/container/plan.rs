//! What a container will hold and how many bytes each part of it takes, before any of them is written.

use std::collections::HashSet;

use super::entropy::{self, Entropy};
use super::error::ContainerError;
use super::kernels::{Range, packed_bytes};
use super::layout::{CRC_BYTES, Coding, ENTRY_BYTES, GroupLayout, HEADER_BYTES, SiteLayout, Sizes};

/// How a group is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Codes of the group: images · positions · members.
    pub values: u64,
    pub coding: Coding,
    /// Bytes of the payload, without its checksum.
    pub bytes: u64,
}

impl Stored {
    /// Bytes of the payload with its checksum: nothing at all if the group is dropped.
    pub fn payload_part(self) -> u64 {
        if self.coding == Coding::Dropped { 0 } else { self.bytes + CRC_BYTES }
    }
}

/// A site and how its groups are stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSite {
    layout: SiteLayout,
    /// As many as the layout has groups.
    stored: Vec<Stored>,
}

impl StoredSite {
    pub(super) fn new(layout: SiteLayout, stored: Vec<Stored>) -> Self {
        Self { layout, stored }
    }

    /// The site and its groups.
    pub fn layout(&self) -> &SiteLayout {
        &self.layout
    }

    pub(super) fn stored(&self) -> &[Stored] {
        &self.stored
    }

    /// Codes of a group, `images · positions · members`, also where none is stored; `None` if there is no such group.
    pub fn values(&self, group: usize) -> Option<u64> {
        self.stored.get(group).map(|stored| stored.values)
    }

    /// How a group is stored; `None` if there is no such group.
    pub fn coding(&self, group: usize) -> Option<Coding> {
        self.stored.get(group).map(|stored| stored.coding)
    }

    /// Bytes of a group; `None` if there is no such group. Means and basis belong to the site.
    pub fn group_sizes(&self, group: usize) -> Option<Sizes> {
        let stored = self.stored.get(group)?;
        let members = self.layout.groups.get(group)?.members.len() as u64;
        Some(Sizes {
            payload_bytes: stored.bytes,
            // Step, offset, levels, width, kind of codes and members.
            side_information_bytes: 4 + 4 + 2 + 1 + 1 + members * if self.layout.wide_members() { 4 } else { 2 },
            // Number of members, coding, bytes of the payload; its checksum.
            header_bytes: 4 + 1 + 8 + stored.payload_part() - stored.bytes,
        })
    }

    /// Bytes of the site with all its groups.
    pub fn sizes(&self) -> Sizes {
        let layout = &self.layout;
        let texts = layout.name.len() + layout.transform.len();
        let numbers = layout.shape.len() + layout.means.len() + layout.basis.len();
        let own = Sizes {
            payload_bytes: 0,
            // Texts, placement, numbers of four bytes.
            side_information_bytes: texts as u64 + 1 + 4 * numbers as u64,
            // In the directory; length of the transform's name, dimensions, flags, groups; checksum.
            header_bytes: ENTRY_BYTES + 2 + 1 + 1 + 4 + CRC_BYTES,
        };
        (0..self.stored.len()).filter_map(|group| self.group_sizes(group)).sum::<Sizes>() + own
    }

    /// Bytes of the payloads with their checksums.
    pub(super) fn payload_part(&self) -> u64 {
        self.stored.iter().map(|stored| stored.payload_part()).sum()
    }

    /// Bytes of the description with its checksum.
    pub(super) fn description_part(&self) -> u64 {
        self.sizes().total() - ENTRY_BYTES - self.layout.name.len() as u64 - self.payload_part()
    }
}

/// A container before it is written: its sites, and the size of every part.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    images: u32,
    sites: Vec<StoredSite>,
}

impl Plan {
    /// A plan for the codes of `images` images in which every group is packed at its width.
    ///
    /// # Errors
    /// If a site is not sound, two have one name, or there is more of something than the format can count.
    pub fn new(sites: Vec<SiteLayout>, images: u32) -> Result<Self, ContainerError> {
        check_names(sites.iter().map(|site| site.name.as_str()))?;
        let sites = sites.into_iter().map(|layout| {
            layout.check(images).map_err(|(group, fault)| ContainerError::Layout {
                site: layout.name.clone(),
                group,
                fault,
            })?;
            fits("groups", layout.groups.len() as u64)?;
            let per_member = layout.values_per_member(images);
            let packed = layout.groups.iter().map(|group| {
                let values = per_member * group.members.len() as u64;
                let coding = if group.bits == 0 { Coding::Dropped } else { Coding::Packed };
                Stored { values, coding, bytes: packed_bytes(values, group.bits) }
            });
            let stored = packed.collect();
            Ok(StoredSite { layout, stored })
        });
        let sites: Vec<StoredSite> = sites.collect::<Result<_, ContainerError>>()?;
        fits("sites", sites.len() as u64)?;
        // Each site's bits were checked to be below 2^62 and one more.
        let total = sites.iter().try_fold(0_u64, |sum, site| sum.checked_add(site.sizes().total()));
        if total.is_none_or(|total| total > u64::MAX / 2) {
            return Err(ContainerError::TooLarge { what: "bytes", found: u64::MAX, limit: u64::MAX / 2 });
        }
        let plan = Self { images, sites };
        fits("bytes of the directory", plan.directory_part())?;
        Ok(plan)
    }

    /// Has a group entropy-coded if its `codes` take fewer bytes that way than packed. The same codes must be written
    /// later on. Returns what entropy coding takes in either case.
    ///
    /// # Errors
    /// If there is no such group, or these are not its codes.
    pub fn entropy_code(&mut self, site: usize, group: usize, codes: &[i16]) -> Result<Entropy, ContainerError> {
        let (layout, stored) = self.group(site, group)?;
        check_codes(site, group, codes, layout.range(), stored)?;
        let (_, entropy) = entropy::encode(&symbols(codes, layout.range()));
        if stored.coding != Coding::Dropped {
            let packed = packed_bytes(stored.values, layout.bits);
            let chosen = if entropy.coded_bytes < packed {
                Stored { coding: Coding::Coded, bytes: entropy.coded_bytes, ..stored }
            } else {
                Stored { coding: Coding::Packed, bytes: packed, ..stored }
            };
            if let Some(stored) = self.sites.get_mut(site).and_then(|site| site.stored.get_mut(group)) {
                *stored = chosen;
            }
        }
        Ok(entropy)
    }

    /// A group and how it is stored.
    pub(super) fn group(&self, site: usize, group: usize) -> Result<(&GroupLayout, Stored), ContainerError> {
        let found =
            self.sites.get(site).and_then(|site| site.layout.groups.get(group).zip(site.stored.get(group).copied()));
        found.ok_or(ContainerError::NoSuchGroup { site, group })
    }

    /// Images in the batch.
    pub fn images(&self) -> u32 {
        self.images
    }

    /// The sites and the bytes of each.
    pub fn sites(&self) -> &[StoredSite] {
        &self.sites
    }

    /// Bytes of the whole container; their total is its length.
    pub fn sizes(&self) -> Sizes {
        container_sizes(&self.sites)
    }

    /// Bytes of the directory with its checksum.
    pub(super) fn directory_part(&self) -> u64 {
        self.sites.iter().map(|site| ENTRY_BYTES + site.layout.name.len() as u64).sum::<u64>() + CRC_BYTES
    }
}

/// Bytes of a container with these sites.
pub(super) fn container_sizes<'a>(sites: impl IntoIterator<Item = &'a StoredSite>) -> Sizes {
    let own = Sizes { header_bytes: HEADER_BYTES + CRC_BYTES, ..Sizes::default() };
    sites.into_iter().map(StoredSite::sizes).sum::<Sizes>() + own
}

/// A group's codes as symbols.
pub(super) fn symbols(codes: &[i16], range: Range) -> Vec<u8> {
    let mut symbols = vec![0; codes.len()];
    range.to_symbols(codes, &mut symbols);
    symbols
}

/// Codes that are to be stored: as many as the group has values (none if it is dropped), and all in its range.
pub(super) fn check_codes(
    site: usize,
    group: usize,
    codes: &[i16],
    range: Range,
    stored: Stored,
) -> Result<(), ContainerError> {
    let expected = if stored.coding == Coding::Dropped { 0 } else { stored.values };
    let found = codes.len() as u64;
    if expected == found {
        check_range(site, group, codes, range)
    } else {
        Err(ContainerError::Count { site, group, expected, found })
    }
}

/// No code is out of range.
pub(super) fn check_range(site: usize, group: usize, codes: &[i16], range: Range) -> Result<(), ContainerError> {
    if range.contains(codes) {
        return Ok(());
    }
    let Range { least, most, .. } = range;
    match codes.iter().enumerate().find(|&(_, code)| !(least..=most).contains(code)) {
        Some((index, &code)) => Err(ContainerError::Code { site, group, index, code, least, most }),
        None => Ok(()),
    }
}

/// No name is there twice.
pub(super) fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), ContainerError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(ContainerError::DuplicateSite { name: name.to_owned() });
        }
    }
    Ok(())
}

fn fits(what: &'static str, found: u64) -> Result<(), ContainerError> {
    let limit = u64::from(u32::MAX);
    if found <= limit { Ok(()) } else { Err(ContainerError::TooLarge { what, found, limit }) }
}
