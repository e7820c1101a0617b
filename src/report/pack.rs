//! What a run's packed activations take, as JSON and as a table.

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::format::{count, part, shape, thousands};
use super::layout::{Align, Grid};

/// Bytes of a value that is not compressed.
const FLOAT_BYTES: u64 = 4;

/// A container of a run's activations, as it was read back.
#[derive(Debug, Clone, PartialEq)]
pub struct PackReport {
    /// The container.
    pub file: String,
    /// Images whose activations it holds.
    pub images: u64,
    /// The sites in it.
    pub sites: Vec<PackedSite>,
    /// Sites that the run left in floating point; they are not in the container.
    pub uncompressed: Vec<UnpackedSite>,
    /// Bytes of names, shapes, quantizers, members, means and bases.
    pub side_information_bytes: u64,
    /// Bytes of magic, counts, lengths and checksums.
    pub header_bytes: u64,
    /// Length of the file: payload, side information and header.
    pub file_bytes: u64,
    /// Fixed-length bits per value that the run claims (`relu` convention, without side information).
    pub bits_per_value_claimed: f64,
}

/// A site in the container.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedSite {
    /// Its name.
    pub name: String,
    /// Shape of one image's tensor.
    pub shape: Vec<i64>,
    /// The transform's name.
    pub transform: String,
    /// Values of the original tensors of all images.
    pub values: u64,
    /// The groups, dropped ones included.
    pub groups: Vec<PackedGroup>,
}

/// A group in the container.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PackedGroup {
    /// Channels or coefficients.
    pub channels: usize,
    /// Width of a code; 0 if dropped.
    pub bits: u32,
    /// Values of all images, also where none is stored.
    pub values: u64,
    /// `values · bits`.
    pub claimed_bits: u64,
    /// `claimed_bits` rounded up to a byte.
    pub claimed_bytes: u64,
    /// Bytes of the codes in the file.
    pub payload_bytes: u64,
    /// `packed`, `entropy-coded` or `dropped`.
    pub coding: &'static str,
    /// Bytes of the codes entropy-coded with the table, or packed where that is smaller.
    pub entropy_coded_bytes: u64,
    /// Shannon bound of the codes with a histogram of the group, in bits.
    pub shannon_bits: f64,
}

/// A site without codes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnpackedSite {
    /// Its name.
    pub name: String,
    /// Values of all images.
    pub values: u64,
    /// 4 bytes a value.
    pub bytes: u64,
}

impl UnpackedSite {
    /// A site of which `values` values would be stored as they are.
    pub fn new(name: &str, values: u64) -> Self {
        Self { name: name.to_owned(), values, bytes: FLOAT_BYTES * values }
    }
}

/// Sums over groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Sums {
    claimed_bits: u64,
    claimed_bytes: u64,
    payload_bytes: u64,
    entropy_coded_bytes: u64,
    shannon_bits: f64,
}

impl Sums {
    fn of<'a>(groups: impl Iterator<Item = &'a PackedGroup>) -> Self {
        groups.fold(Self::default(), |sums, group| Self {
            claimed_bits: sums.claimed_bits + group.claimed_bits,
            claimed_bytes: sums.claimed_bytes + group.claimed_bytes,
            payload_bytes: sums.payload_bytes + group.payload_bytes,
            entropy_coded_bytes: sums.entropy_coded_bytes + group.entropy_coded_bytes,
            shannon_bits: sums.shannon_bits + group.shannon_bits,
        })
    }
}

impl PackReport {
    fn sums(&self) -> Sums {
        Sums::of(self.sites.iter().flat_map(|site| &site.groups))
    }

    /// Values of all sites and images, uncompressed ones included.
    fn values(&self) -> u64 {
        let packed: u64 = self.sites.iter().map(|site| site.values).sum();
        packed + self.uncompressed.iter().map(|site| site.values).sum::<u64>()
    }

    fn uncompressed_bytes(&self) -> u64 {
        self.uncompressed.iter().map(|site| site.bytes).sum()
    }

    /// Bits per value of the original tensors from the bytes in the file, with 32 for uncompressed ones.
    pub fn bits_per_value(&self) -> f64 {
        8.0 * (self.sums().payload_bytes + self.uncompressed_bytes()) as f64 / self.values().max(1) as f64
    }

    /// The report as one JSON object.
    pub fn json(&self) -> Json {
        let object = |own: Json, sums: Sums| match (own, json!(sums)) {
            (Json::Object(own), Json::Object(sums)) => Json::Object(own.into_iter().chain(sums).collect()),
            (own, _) => own,
        };
        let sites = self.sites.iter().map(|site| {
            let own = json!({
                "name": site.name, "shape": site.shape, "transform": site.transform, "values": site.values,
                "groups": site.groups,
            });
            object(own, Sums::of(site.groups.iter()))
        });
        let own = json!({
            "file": self.file, "images": self.images, "sites": sites.collect::<Vec<_>>(),
            "uncompressed": self.uncompressed, "uncompressed_bytes": self.uncompressed_bytes(),
            "side_information_bytes": self.side_information_bytes, "header_bytes": self.header_bytes,
            "file_bytes": self.file_bytes, "values": self.values(), "bits_per_value": self.bits_per_value(),
            "bits_per_value_claimed": self.bits_per_value_claimed,
        });
        object(own, self.sums())
    }
}

/// A packed run for reading; plain text without colours, ends in a newline.
pub fn pack_table(report: &PackReport) -> String {
    use Align::{Left, Right};

    let mut grid = Grid::new(&[Left, Left, Right, Right, Right, Right, Right]);
    grid.row(["site", "shape", "values", "claimed bits", "bytes in file", "entropy-coded", "Shannon bound"]);
    grid.rule();
    let numbers = |values: u64, sums: Sums| {
        let bound = (sums.shannon_bits / 8.0).ceil() as u64;
        [values, sums.claimed_bits, sums.payload_bytes, sums.entropy_coded_bytes, bound].map(thousands)
    };
    for site in &report.sites {
        let cells = numbers(site.values, Sums::of(site.groups.iter()));
        grid.row([site.name.clone(), shape(&site.shape)].into_iter().chain(cells));
    }
    grid.rule();
    let sums = report.sums();
    let packed = report.sites.iter().map(|site| site.values).sum();
    let label = part(report.sites.len(), report.sites.len() + report.uncompressed.len(), "site");
    grid.row([label, count(report.images as usize, "image")].into_iter().chain(numbers(packed, sums)));
    let mut text = grid.render();
    text.push('\n');

    let mut totals = Grid::new(&[Left, Right, Left]);
    let mut total = |label: &str, bytes: u64, note: String| totals.row([label.to_owned(), thousands(bytes), note]);
    let claimed = thousands(sums.claimed_bytes);
    let expected = match sums.payload_bytes < sums.claimed_bytes {
        true => format!("bytes, entropy-coded; at the claimed bits {claimed}"),
        false => format!("bytes; claimed: {claimed}, each group rounded up to a byte"),
    };
    total("payload", sums.payload_bytes, expected);
    total("side information", report.side_information_bytes, "bytes, once for all images".to_owned());
    total("header", report.header_bytes, "bytes: counts, lengths, checksums".to_owned());
    total("file", report.file_bytes, format!("bytes: {}", report.file));
    text.push_str(&totals.render());
    if !report.uncompressed.is_empty() {
        let names: Vec<&str> = report.uncompressed.iter().map(|site| site.name.as_str()).collect();
        text.push_str(&format!(
            "not packed: {} ({} bytes at 32 bits a value)\n",
            names.join(", "),
            thousands(report.uncompressed_bytes())
        ));
    }
    text.push_str(&format!(
        "{:.4} bits per value of the original tensors in the file, {:.4} claimed by the run\n",
        report.bits_per_value(),
        report.bits_per_value_claimed
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> PackReport {
        let group = |channels, bits: u32, values: u64, coding| PackedGroup {
            channels,
            bits,
            values,
            claimed_bits: values * u64::from(bits),
            claimed_bytes: (values * u64::from(bits)).div_ceil(8),
            payload_bytes: (values * u64::from(bits)).div_ceil(8),
            coding,
            entropy_coded_bytes: values / 8,
            shannon_bits: values as f64 / 2.0,
        };
        PackReport {
            file: "run/activations.dimbit".to_owned(),
            images: 3,
            sites: vec![PackedSite {
                name: "relu".to_owned(),
                shape: vec![4, 3, 3],
                transform: "pca".to_owned(),
                values: 108,
                groups: vec![group(1, 3, 27, "packed"), group(3, 0, 81, "dropped")],
            }],
            uncompressed: vec![UnpackedSite::new("fc.relu", 12)],
            side_information_bytes: 100,
            header_bytes: 120,
            file_bytes: 231,
            bits_per_value_claimed: 3.875,
        }
    }

    #[test]
    fn a_packed_run_reads_like_this() {
        let expected = "\
site    shape   values  claimed bits  bytes in file  entropy-coded  Shannon bound
─────────────────────────────────────────────────────────────────────────────────
relu    4x3x3      108            81             11             13              7
─────────────────────────────────────────────────────────────────────────────────
1 of 2 sites  3 images   108            81             11             13              7

";
        let text = pack_table(&report());
        // Only the columns' widths are the grid's concern.
        let words =
            |text: &str| text.split_whitespace().filter(|w| !w.starts_with('─')).map(str::to_owned).collect::<Vec<_>>();
        assert!(words(&text).starts_with(&words(expected)), "{text}");
        assert!(text.contains("claimed: 11, each group rounded up to a byte"), "{text}");
        assert!(text.contains("not packed: fc.relu (48 bytes at 32 bits a value)"), "{text}");
        // (11 + 48) · 8 / 120.
        assert!(text.contains("3.9333 bits per value of the original tensors in the file, 3.8750 claimed"), "{text}");
    }

    #[test]
    fn json_has_sums_beside_groups() {
        let json = report().json();
        assert_eq!(json["claimed_bits"], 81);
        assert_eq!(json["payload_bytes"], 11);
        assert_eq!(json["sites"][0]["claimed_bytes"], 11);
        assert_eq!(json["sites"][0]["groups"][1]["coding"], "dropped");
        assert_eq!(json["uncompressed"][0]["bytes"], 48);
    }
}
