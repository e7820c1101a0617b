//! Reads numbers from a part of a container. Every length is compared with what is left before anything is set aside.

use super::error::{ContainerError, Part};

/// Bytes of one part and how far they have been read.
pub(super) struct Input<'a> {
    rest: &'a [u8],
    part: Part,
    /// Offset of `rest` in the container.
    offset: u64,
}

impl<'a> Input<'a> {
    /// `offset`: where `bytes` begin in the container.
    pub fn new(bytes: &'a [u8], part: Part, offset: u64) -> Self {
        Self { rest: bytes, part, offset }
    }

    /// Where the next byte is in the container.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], ContainerError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            let (needed, left) = (count as u64, self.rest.len() as u64);
            return Err(ContainerError::CutOff { part: self.part, offset: self.offset, needed, left });
        };
        self.rest = rest;
        self.offset += count as u64;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ContainerError> {
        let bytes = self.bytes(N)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, ContainerError> {
        self.array().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, ContainerError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, ContainerError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, ContainerError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn f32(&mut self) -> Result<f32, ContainerError> {
        self.array().map(f32::from_le_bytes)
    }

    /// `count` items of `N` bytes.
    pub fn list<const N: usize, T>(
        &mut self,
        count: u64,
        convert: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, ContainerError> {
        let needed = count.saturating_mul(N as u64);
        let bytes = self.bytes(usize::try_from(needed).unwrap_or(usize::MAX))?;
        Ok(bytes.as_chunks().0.iter().map(|&item| convert(item)).collect())
    }

    pub fn text(&mut self, bytes: usize, field: &'static str) -> Result<String, ContainerError> {
        let offset = self.offset;
        let text = self.bytes(bytes)?.to_vec();
        String::from_utf8(text).map_err(|_| ContainerError::Text { part: self.part, offset, field })
    }

    /// The error for a number that was read `size` bytes ago.
    pub fn refuse(&self, size: u64, field: &'static str, found: u64, expected: impl Into<String>) -> ContainerError {
        ContainerError::Field { part: self.part, offset: self.offset - size, field, found, expected: expected.into() }
    }

    /// Everything must have been read.
    pub fn end(self) -> Result<(), ContainerError> {
        match self.rest.len() as u64 {
            0 => Ok(()),
            surplus => Err(ContainerError::Surplus { part: self.part, offset: self.offset, surplus }),
        }
    }
}

/// The content of a part whose last four bytes are its CRC-32. `offset`: where the part begins.
///
/// # Errors
/// If it is shorter than that or the checksum is another one.
pub(super) fn checked(bytes: &[u8], part: Part, offset: u64) -> Result<&[u8], ContainerError> {
    let Some((content, &stored)) = bytes.split_last_chunk::<4>() else {
        return Err(ContainerError::CutOff { part, offset, needed: 4, left: bytes.len() as u64 });
    };
    let (stored, computed) = (u32::from_le_bytes(stored), crc32fast::hash(content));
    if stored != computed {
        return Err(ContainerError::Checksum { part, offset: offset + content.len() as u64, stored, computed });
    }
    Ok(content)
}
