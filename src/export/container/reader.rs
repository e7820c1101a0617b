//! Reads single sites and groups of a container.
//!
//! A container is a stranger's claim: lengths are compared with what is there before anything is set aside for them, and
//! checksums before anything is believed. A byte of input leads to at most 2 KiB of codes.

use std::io::{Cursor, Read, Seek, SeekFrom};

use super::entropy;
use super::error::{ContainerError, Part};
use super::input::{Input, checked};
use super::kernels::{self, BLOCK, Range};
use super::layout::{Coding, ENTRY_BYTES, GroupLayout, HEADER_BYTES, MAGIC, Sizes, VERSION};
use super::plan::{Stored, StoredSite, check_names, check_range, container_sizes};
use super::section;

/// Reads a container's header and directory at once, descriptions and codes on demand.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    images: u32,
    entries: Vec<Entry>,
}

/// A site in the directory.
#[derive(Debug)]
struct Entry {
    name: String,
    /// Where the description begins.
    offset: u64,
    description_bytes: u64,
    payload_bytes: u64,
    /// Once it has been read.
    site: Option<StoredSite>,
}

impl<'a> Reader<Cursor<&'a [u8]>> {
    /// Opens a container in memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, ContainerError> {
        Self::open(Cursor::new(bytes))
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Opens a container that begins at the source's first byte and ends at its last.
    ///
    /// # Errors
    /// If it can't be read, is no container, has another version or length, or its header or directory is damaged.
    pub fn open(mut source: R) -> Result<Self, ContainerError> {
        let part = Part::Header;
        let length =
            source.seek(SeekFrom::End(0)).map_err(|source| ContainerError::Read { part, offset: 0, source })?;
        let magic = fetch(&mut source, part, 0, length.min(MAGIC.len() as u64))?;
        if magic != MAGIC {
            return Err(ContainerError::Foreign { found: magic });
        }
        let header = fetch(&mut source, part, 0, HEADER_BYTES)?;
        let mut input = Input::new(&header, part, 0);
        input.bytes(MAGIC.len())?;
        let version = input.u32()?;
        if version != VERSION {
            return Err(ContainerError::Version { found: version, known: VERSION });
        }
        checked(&header, part, 0)?;
        let (images, sites, directory_bytes, claimed) = (input.u32()?, input.u32()?, input.u32()?, input.u64()?);
        if claimed != length {
            return Err(ContainerError::Length { claimed, found: length });
        }
        let entries = read_directory(&mut source, sites, directory_bytes.into(), length)?;
        Ok(Self { source, images, entries })
    }

    /// Images in the batch.
    pub fn images(&self) -> u32 {
        self.images
    }

    /// Names of the sites, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// Number of the site with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.names().position(|other| other == name)
    }

    /// A site's description. It is read once and kept.
    ///
    /// # Errors
    /// If there is no such site, or its description can't be read, is damaged or makes no sense.
    pub fn site(&mut self, site: usize) -> Result<&StoredSite, ContainerError> {
        let sites = self.entries.len();
        let entry = self.entries.get_mut(site).ok_or(ContainerError::NoSuchSite { site, sites })?;
        let read = match entry.site.take() {
            Some(read) => read,
            None => read_site(&mut self.source, self.images, site, entry)?,
        };
        Ok(entry.site.insert(read))
    }

    /// Codes of a group, `[images, positions, members]`; none if it is dropped.
    ///
    /// # Errors
    /// If there is no such group, or its codes can't be read, are damaged or are none that its quantizer makes.
    pub fn codes(&mut self, site: usize, group: usize) -> Result<Vec<i16>, ContainerError> {
        let payload = self.payload(site, group)?;
        let (layout, stored, offset) = self.group(site, group)?;
        if stored.coding == Coding::Dropped {
            return Ok(vec![]);
        }
        let (range, bits) = (layout.range(), layout.bits);
        // The values were compared with the bytes that hold them, and these have been read.
        let values = usize::try_from(stored.values).unwrap_or(usize::MAX);
        let mut codes = vec![0; values];
        if stored.coding == Coding::Packed {
            unpack(&payload, bits, range, &mut codes);
        } else {
            let part = Part::Payload { site, group };
            let symbols =
                entropy::decode(&payload, values).map_err(|what| ContainerError::Coded { part, offset, what })?;
            range.to_codes(&symbols, &mut codes);
        }
        check_range(site, group, &codes, range)?;
        Ok(codes)
    }

    /// Bytes of a group's payload as they are stored, without their checksum, which was compared; none if it is dropped.
    ///
    /// # Errors
    /// If there is no such group, or its payload can't be read or is damaged.
    pub fn payload(&mut self, site: usize, group: usize) -> Result<Vec<u8>, ContainerError> {
        let (_, stored, offset) = self.group(site, group)?;
        if stored.coding == Coding::Dropped {
            return Ok(vec![]);
        }
        let part = Part::Payload { site, group };
        let bytes = fetch(&mut self.source, part, offset, stored.payload_part())?;
        Ok(checked(&bytes, part, offset)?.to_vec())
    }

    /// A group, how it is stored, and where its payload begins.
    fn group(&mut self, site: usize, group: usize) -> Result<(&GroupLayout, Stored, u64), ContainerError> {
        self.site(site)?;
        let entry = self.entries.get(site);
        let start = entry.map_or(0, |entry| entry.offset + entry.description_bytes);
        let description = entry.and_then(|entry| entry.site.as_ref());
        let found = description.and_then(|site| {
            let before: u64 = site.stored().iter().take(group).map(|stored| stored.payload_part()).sum();
            Some((site.layout().groups.get(group)?, *site.stored().get(group)?, start + before))
        });
        found.ok_or(ContainerError::NoSuchGroup { site, group })
    }

    /// Reads everything once and lists its bytes.
    ///
    /// # Errors
    /// The first one of [`Self::site`] or [`Self::codes`].
    pub fn verify(&mut self) -> Result<Sizes, ContainerError> {
        for site in 0..self.entries.len() {
            let groups = self.site(site)?.layout().groups.len();
            for group in 0..groups {
                self.codes(site, group)?;
            }
        }
        Ok(container_sizes(self.entries.iter().filter_map(|entry| entry.site.as_ref())))
    }
}

/// Codes of a packed payload, as many as `codes` has room for.
fn unpack(payload: &[u8], bits: u8, range: Range, codes: &mut [i16]) {
    let mut symbols = vec![0; BLOCK.min(codes.len())];
    let blocks = payload.chunks(BLOCK / 8 * usize::from(bits));
    for (block, bytes) in codes.chunks_mut(BLOCK).zip(blocks) {
        let symbols = &mut symbols[..block.len()];
        kernels::unpack(bytes, bits, symbols);
        range.to_codes(symbols, block);
    }
}

fn read_directory(
    source: &mut (impl Read + Seek),
    sites: u32,
    bytes: u64,
    length: u64,
) -> Result<Vec<Entry>, ContainerError> {
    let part = Part::Directory;
    let left = length - HEADER_BYTES;
    if bytes > left {
        return Err(ContainerError::CutOff { part, offset: HEADER_BYTES, needed: bytes, left });
    }
    let directory = fetch(source, part, HEADER_BYTES, bytes)?;
    let content = checked(&directory, part, HEADER_BYTES)?;
    let least = u64::from(sites) * ENTRY_BYTES;
    if least > content.len() as u64 {
        return Err(ContainerError::CutOff { part, offset: HEADER_BYTES, needed: least, left: content.len() as u64 });
    }
    let mut input = Input::new(content, part, HEADER_BYTES);
    let mut entries = Vec::with_capacity(sites as usize);
    let mut offset = HEADER_BYTES + bytes;
    for _ in 0..sites {
        let at = input.offset();
        let (description_bytes, payload_bytes) = (input.u64()?, input.u64()?);
        let name_bytes = input.u16()?;
        let name = input.text(usize::from(name_bytes), "name of a site")?;
        let left = length - offset;
        let needed = description_bytes.saturating_add(payload_bytes);
        if needed > left {
            return Err(ContainerError::CutOff { part, offset: at, needed, left });
        }
        entries.push(Entry { name, offset, description_bytes, payload_bytes, site: None });
        offset += needed;
    }
    input.end()?;
    if offset != length {
        return Err(ContainerError::Surplus { part, offset, surplus: length - offset });
    }
    check_names(entries.iter().map(|entry| entry.name.as_str()))?;
    Ok(entries)
}

fn read_site(
    source: &mut (impl Read + Seek),
    images: u32,
    number: usize,
    entry: &Entry,
) -> Result<StoredSite, ContainerError> {
    let part = Part::Site(number);
    let bytes = fetch(source, part, entry.offset, entry.description_bytes)?;
    let content = checked(&bytes, part, entry.offset)?;
    let site = section::decode(content, number, &entry.name, images, entry.offset)?;
    // Sums of numbers that were compared with the values' bits, at most 2^62 for all groups.
    if site.payload_part() != entry.payload_bytes {
        return Err(ContainerError::Field {
            part,
            offset: entry.offset,
            field: "the number of bytes of its payloads",
            found: site.payload_part(),
            expected: format!("{}, as the directory says", entry.payload_bytes),
        });
    }
    Ok(site)
}

/// `count` bytes from `offset` on. Memory grows with what is there, not with what is asked for.
fn fetch(source: &mut (impl Read + Seek), part: Part, offset: u64, count: u64) -> Result<Vec<u8>, ContainerError> {
    let error = |source| ContainerError::Read { part, offset, source };
    source.seek(SeekFrom::Start(offset)).map_err(error)?;
    let mut bytes = Vec::new();
    source.take(count).read_to_end(&mut bytes).map_err(error)?;
    if (bytes.len() as u64) < count {
        return Err(ContainerError::CutOff { part, offset, needed: count, left: bytes.len() as u64 });
    }
    Ok(bytes)
}
