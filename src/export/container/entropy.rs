//! Entropy coding of a group: a range coder with the group's own histogram.
//!
//! The payload of an entropy-coded group:
//!
//! | bytes | content |
//! |---|---|
//! | 1 | least symbol `s` |
//! | 1 | `m`: the table is for the `m + 1` symbols from `s` on |
//! | 2 each | weight of each of them, at least 1, sum 2^16; left out if `m` is 0 |
//! | … | words of the range coder, 4 bytes each, trailing zero words left out |
//! | … | zeros, up to a byte for 1024 values |
//!
//! The coder is the range coder of the crate `constriction` with words of 32 bits and a state of 64. Symbols between the
//! least and the largest that don't occur have a weight as well, of 1/65536 mostly. The last rule bounds what a reader has to set
//! aside for a byte of input.

use constriction::UnwrapInfallible;
use constriction::stream::model::{ContiguousCategoricalEntropyModel, IterableEntropyModel};
use constriction::stream::queue::{DefaultRangeDecoder, DefaultRangeEncoder};
use constriction::stream::{Decode, Encode};

/// Most values that a byte of an entropy-coded payload stands for.
pub(super) const MOST_VALUES_PER_BYTE: u64 = 1024;

/// Binary digits of the table's weights.
const PRECISION: usize = 16;

type Model = ContiguousCategoricalEntropyModel<u32, Vec<u32>, PRECISION>;

/// What entropy coding takes for a group, beside what it can't go below.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entropy {
    /// Shannon bound of the codes as independent draws from their own histogram, in bits: `Σ −count·log2(count/values)`.
    pub bits: f64,
    /// Bytes of the coded payload with its table of weights, whether it is stored or not.
    pub coded_bytes: u64,
}

/// How often each symbol occurs.
fn histogram(symbols: &[u8]) -> [u64; 256] {
    // Four counters for each symbol: equal neighbours would wait for one another.
    let mut counts = [[0_u64; 256]; 4];
    let (fours, rest) = symbols.as_chunks::<4>();
    for four in fours {
        for (counts, &symbol) in counts.iter_mut().zip(four) {
            counts[usize::from(symbol)] += 1;
        }
    }
    for &symbol in rest {
        counts[0][usize::from(symbol)] += 1;
    }
    std::array::from_fn(|symbol| counts.iter().map(|counts| counts[symbol]).sum())
}

/// Shannon bound of a histogram in bits: `Σ −count·log2(count/values)`.
pub fn shannon_bits(counts: &[u64]) -> f64 {
    let values: u64 = counts.iter().sum();
    let bits = |&count: &u64| if count == 0 { 0.0 } else { count as f64 * (values as f64 / count as f64).log2() };
    counts.iter().map(bits).sum()
}

/// The entropy-coded payload of symbols, and its sizes. Empty for no symbols.
pub(super) fn encode(symbols: &[u8]) -> (Vec<u8>, Entropy) {
    let counts = histogram(symbols);
    let bytes = encode_with(symbols, &counts).unwrap_or_default();
    let entropy = Entropy { bits: shannon_bits(&counts), coded_bytes: bytes.len() as u64 };
    (bytes, entropy)
}

fn encode_with(symbols: &[u8], counts: &[u64; 256]) -> Option<Vec<u8>> {
    let least = counts.iter().position(|&count| count > 0)?;
    let largest = counts.iter().rposition(|&count| count > 0)?;
    let mut bytes = vec![u8::try_from(least).ok()?, u8::try_from(largest - least).ok()?];
    if largest > least {
        let counts: Vec<f64> = counts[least..=largest].iter().map(|&count| count as f64).collect();
        let model = Model::from_floating_point_probabilities_perfect(&counts).ok()?;
        for (_, _, weight) in model.symbol_table() {
            // Two symbols or more, each with a weight: none has 2^16.
            bytes.extend(u16::try_from(weight.get()).ok()?.to_le_bytes());
        }
        let mut encoder = DefaultRangeEncoder::new();
        encoder.encode_iid_symbols(symbols.iter().map(|&symbol| usize::from(symbol) - least), model.as_view()).ok()?;
        let mut words = encoder.into_compressed().unwrap_infallible();
        words.truncate(words.iter().rposition(|&word| word != 0).map_or(0, |last| last + 1));
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    let least_bytes = (symbols.len() as u64).div_ceil(MOST_VALUES_PER_BYTE) as usize;
    bytes.resize(bytes.len().max(least_bytes), 0);
    Some(bytes)
}

/// The `values` symbols of an entropy-coded payload.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(bytes: &[u8], values: usize) -> Result<Vec<u8>, &'static str> {
    if (bytes.len() as u64).saturating_mul(MOST_VALUES_PER_BYTE) < values as u64 {
        return Err("it is too short for its values");
    }
    let [least, more, rest @ ..] = bytes else { return Err("it ends within its table") };
    if u16::from(*least) + u16::from(*more) > 255 {
        return Err("its table goes beyond symbol 255");
    }
    if *more == 0 {
        return Ok(vec![*least; values]);
    }
    let (table, stream) = rest.split_at_checked(2 * (usize::from(*more) + 1)).ok_or("it ends within its table")?;
    let weights = table.as_chunks().0.iter().map(|&weight| u32::from(u16::from_le_bytes(weight)));
    if weights.clone().any(|weight| weight == 0) || weights.clone().sum::<u32>() != 1 << PRECISION {
        return Err("its table's weights are not those of a probability");
    }
    let model = Model::from_nonzero_fixed_point_probabilities(weights, false)
        .map_err(|()| "its table's weights are not those of a probability")?;

    // Words that were left out, or cut off by the end of the zeros that fill the payload up, are zeros.
    let words: Vec<u32> =
        stream.chunks(4).map(|chunk| chunk.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))).collect();
    let mut decoder = DefaultRangeDecoder::from_compressed(words).unwrap_infallible();
    let decoded = decoder.decode_iid_symbols(values, model.as_view());
    // The model has at most 256 − least symbols.
    decoded
        .map(|symbol| symbol.map(|symbol| least + symbol as u8))
        .collect::<Result<_, _>>()
        .map_err(|_| "its range coder's words are no codes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_shannons() {
        assert_eq!(shannon_bits(&[4, 4, 0, 8]), 24.0);
        assert_eq!(shannon_bits(&[7]), 0.0);
        assert_eq!(shannon_bits(&[]), 0.0);
    }

    #[test]
    fn coded_bytes_come_close_to_the_bound() {
        // 3/4 zeros, falling: 20,000 symbols of 1.3 bits.
        let symbols: Vec<u8> =
            (0..20_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8).trailing_zeros() as u8 % 9).collect();
        let (bytes, entropy) = encode(&symbols);
        assert_eq!(decode(&bytes, symbols.len()).unwrap(), symbols);
        let over = entropy.coded_bytes as f64 - entropy.bits / 8.0;
        // The table takes 20 bytes, the last words up to 8.
        assert!((20.0..32.0).contains(&over), "{over} bytes more than the bound of {}", entropy.bits / 8.0);
    }

    #[test]
    fn one_symbol_takes_no_stream() {
        let (bytes, entropy) = encode(&[7; 5000]);
        assert_eq!((bytes.as_slice(), entropy.bits), (&[7, 0, 0, 0, 0][..], 0.0));
        assert_eq!(decode(&bytes, 5000).unwrap(), [7; 5000]);
        assert!(encode(&[]).0.is_empty());
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(decode(&[], 1).is_err());
        assert!(decode(&[3], 1).is_err());
        assert!(decode(&[3, 0], 2049).is_err(), "2 bytes stand for at most 2048 values");
        assert!(decode(&[200, 100], 1).is_err());
        assert!(decode(&[0, 1, 0, 0], 1).is_err());
        assert!(decode(&[0, 1, 0, 0, 0, 0], 1).is_err(), "no weight");
        assert!(decode(&[0, 1, 255, 255, 2, 0], 1).is_err(), "sum 65537");
        // The second symbol's interval ends before the last quantile of 64 bits does.
        assert!(decode(&[0, 1, 0, 128, 0, 128, 255, 255, 255, 255, 255, 255, 255, 255], 1).is_err());
        assert_eq!(decode(&[5, 1, 0, 128, 0, 128], 3).unwrap(), [5, 5, 5]);
    }
}
