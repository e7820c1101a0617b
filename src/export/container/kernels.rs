//! Packing and unpacking of symbols, eight at a time, and the way between codes and symbols.
//!
//! Eight symbols of one byte each are one word of 64 bits; three steps of masks and shifts move them together: bytes to
//! pairs in 16 bits, pairs to fours in 32, fours to eight in one string of `8·bits` bits. The way back is the same in
//! reverse. [`mod@reference`] does it bit by bit, as the format is defined.

/// Symbols that are worked on at once, so that they stay in the first cache: a multiple of 8.
pub(super) const BLOCK: usize = 8192;

/// Codes of a group and their distance from symbols: `symbol = code + bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// `2^(bits−1)`; 0 of unsigned codes.
    pub bias: i16,
    /// Least code.
    pub least: i16,
    /// Largest code.
    pub most: i16,
}

impl Range {
    /// Whether a quantizer with this range makes all of the codes.
    pub fn contains(self, codes: &[i16]) -> bool {
        // Without an early end, so that it is vectorised.
        codes.iter().fold(true, |inside, code| inside & (self.least..=self.most).contains(code))
    }

    /// Turns codes into symbols, as many as there are of both.
    pub fn to_symbols(self, codes: &[i16], symbols: &mut [u8]) {
        for (symbol, &code) in symbols.iter_mut().zip(codes) {
            *symbol = code.wrapping_add(self.bias) as u8;
        }
    }

    /// Turns symbols into codes, as many as there are of both.
    pub fn to_codes(self, symbols: &[u8], codes: &mut [i16]) {
        for (code, &symbol) in codes.iter_mut().zip(symbols) {
            *code = i16::from(symbol).wrapping_sub(self.bias);
        }
    }
}

/// Bytes of `values` symbols: `ceil(values·bits/8)`.
pub fn packed_bytes(values: u64, bits: u8) -> u64 {
    (u128::from(values) * u128::from(bits)).div_ceil(8).try_into().unwrap_or(u64::MAX)
}

/// Packs symbols below `2^bits` into `bytes`, which has room for [`packed_bytes`] of them. `bits`: 1 to 8; for other widths
/// nothing is done.
pub fn pack(symbols: &[u8], bits: u8, bytes: &mut [u8]) {
    match bits {
        1 => pack_width::<1>(symbols, bytes),
        2 => pack_width::<2>(symbols, bytes),
        3 => pack_width::<3>(symbols, bytes),
        4 => pack_width::<4>(symbols, bytes),
        5 => pack_width::<5>(symbols, bytes),
        6 => pack_width::<6>(symbols, bytes),
        7 => pack_width::<7>(symbols, bytes),
        8 => bytes.iter_mut().zip(symbols).for_each(|(byte, &symbol)| *byte = symbol),
        _ => {}
    }
}

/// Unpacks `bytes` into symbols, as many as `symbols` has room for. `bits`: 1 to 8; for other widths nothing is done.
pub fn unpack(bytes: &[u8], bits: u8, symbols: &mut [u8]) {
    match bits {
        1 => unpack_width::<1>(bytes, symbols),
        2 => unpack_width::<2>(bytes, symbols),
        3 => unpack_width::<3>(bytes, symbols),
        4 => unpack_width::<4>(bytes, symbols),
        5 => unpack_width::<5>(bytes, symbols),
        6 => unpack_width::<6>(bytes, symbols),
        7 => unpack_width::<7>(bytes, symbols),
        8 => symbols.iter_mut().zip(bytes).for_each(|(symbol, &byte)| *symbol = byte),
        _ => {}
    }
}

/// Moves the lower `B` bits of each byte together.
#[inline(always)]
fn together<const B: usize>(word: u64) -> u64 {
    let pairs = (word & 0x00FF_00FF_00FF_00FF) | ((word & 0xFF00_FF00_FF00_FF00) >> (8 - B));
    let fours = (pairs & 0x0000_FFFF_0000_FFFF) | ((pairs & 0xFFFF_0000_FFFF_0000) >> (16 - 2 * B));
    (fours & 0x0000_0000_FFFF_FFFF) | ((fours & 0xFFFF_FFFF_0000_0000) >> (32 - 4 * B))
}

/// Spreads a string of `8·B` bits over eight bytes.
#[inline(always)]
fn apart<const B: usize>(word: u64) -> u64 {
    let low = |bits: usize| (1_u64 << bits) - 1;
    let fours = (word & low(4 * B)) | ((word & (low(4 * B) << (4 * B))) << (32 - 4 * B));
    let mask = low(2 * B) | (low(2 * B) << 32);
    let pairs = (fours & mask) | ((fours & (mask << (2 * B))) << (16 - 2 * B));
    let mask = low(B) * 0x0001_0001_0001_0001;
    (pairs & mask) | ((pairs & (mask << B)) << (8 - B))
}

/// The first bytes of `bytes`, filled up with zeros.
#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
    u64::from_le_bytes(word)
}

fn pack_width<const B: usize>(symbols: &[u8], bytes: &mut [u8]) {
    let (eights, rest) = symbols.as_chunks::<8>();
    let (strings, last) = bytes.split_at_mut((eights.len() * B).min(bytes.len()));
    for (string, &eight) in strings.as_chunks_mut::<B>().0.iter_mut().zip(eights) {
        string.copy_from_slice(&together::<B>(u64::from_le_bytes(eight)).to_le_bytes()[..B]);
    }
    let tail = together::<B>(word(rest)).to_le_bytes();
    last.iter_mut().zip(&tail[..(rest.len() * B).div_ceil(8)]).for_each(|(to, &from)| *to = from);
}

fn unpack_width<const B: usize>(bytes: &[u8], symbols: &mut [u8]) {
    let (eights, rest) = symbols.as_chunks_mut::<8>();
    let (strings, last) = bytes.split_at((eights.len() * B).min(bytes.len()));
    for (string, eight) in strings.as_chunks::<B>().0.iter().zip(eights) {
        *eight = apart::<B>(word(string)).to_le_bytes();
    }
    let tail = apart::<B>(word(last)).to_le_bytes();
    rest.iter_mut().zip(tail).for_each(|(to, from)| *to = from);
}

pub mod reference {
    //! The format's definition, one bit at a time.

    use super::packed_bytes;

    /// Packs symbols below `2^bits`.
    pub fn pack(symbols: &[u8], bits: u8) -> Vec<u8> {
        let width = usize::from(bits);
        let mut bytes = vec![0; packed_bytes(symbols.len() as u64, bits) as usize];
        for (i, symbol) in symbols.iter().enumerate() {
            for bit in 0..width {
                let k = i * width + bit;
                bytes[k / 8] |= (symbol >> bit & 1) << (k % 8);
            }
        }
        bytes
    }

    /// Unpacks as many of `count` symbols as `bytes` hold.
    pub fn unpack(bytes: &[u8], bits: u8, count: usize) -> Vec<u8> {
        let width = usize::from(bits);
        let held = (bytes.len() * 8).checked_div(width).unwrap_or(0);
        let symbol = |i: usize| {
            (0..width).fold(0, |symbol, bit| {
                let k = i * width + bit;
                symbol | (bytes[k / 8] >> (k % 8) & 1) << bit
            })
        };
        (0..count.min(held)).map(symbol).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_are_where_the_format_says() {
        let mut bytes = [0; 2];
        pack(&[0b101, 0b011, 0b110, 0b001], 3, &mut bytes);
        // The string from its end: 001 110 011 101.
        assert_eq!(bytes, [0b1001_1101, 0b0000_0011]);
        assert_eq!(reference::pack(&[0b101, 0b011, 0b110, 0b001], 3), bytes);
    }

    #[test]
    fn sizes_are_rounded_up_once_a_group() {
        assert_eq!([0, 1, 7, 8, 9].map(|values| packed_bytes(values, 3)), [0, 1, 3, 3, 4]);
        assert_eq!(packed_bytes(u64::MAX, 8), u64::MAX);
        assert_eq!(packed_bytes(1000, 0), 0);
    }

    #[test]
    fn signs_are_stored_as_offset_binary() {
        let range = Range { bias: 4, least: -3, most: 3 };
        let (mut symbols, mut codes) = ([0; 3], [0; 3]);
        range.to_symbols(&[-3, 0, 3], &mut symbols);
        range.to_codes(&symbols, &mut codes);
        assert_eq!((symbols, codes), ([1, 4, 7], [-3, 0, 3]));
        assert!(range.contains(&codes) && !range.contains(&[0, 4]) && !range.contains(&[-4]));
    }

    #[test]
    fn wrong_sizes_and_widths_do_no_harm() {
        let mut symbols = [9; 20];
        for bits in 0..=255 {
            unpack(&[0xFF; 3], bits, &mut symbols);
            pack(&[1; 20], bits, &mut [0; 3]);
        }
    }

    proptest! {
        #[test]
        fn kernels_do_what_the_reference_does(
            (bits, symbols) in (1_u8..=8).prop_flat_map(|bits| {
                (Just(bits), prop::collection::vec(0..=(u8::MAX >> (8 - bits)), 0..200))
            })
        ) {
            let expected = reference::pack(&symbols, bits);
            let mut bytes = vec![0xAA; expected.len()];
            pack(&symbols, bits, &mut bytes);
            prop_assert_eq!(&bytes, &expected);

            let mut unpacked = vec![0xAA; symbols.len()];
            unpack(&bytes, bits, &mut unpacked);
            prop_assert_eq!(&unpacked, &symbols);
            prop_assert_eq!(reference::unpack(&bytes, bits, symbols.len()), symbols);
        }
    }
}
