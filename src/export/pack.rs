//! A finished run's activations in a container: written, read back, compared, and counted.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use super::codes::RunCodes;
use super::container::kernels::{packed_bytes, reference};
use super::container::{Coding, ContainerError, Entropy, Plan, Reader, StoredSite, Writer};
use super::pack_error::PackError;
use crate::libtorch::Codes;
use crate::recipe::Override;
use crate::report::{PackReport, PackedGroup, PackedSite, UnpackedSite, write_atomically_with};

/// Packs the codes of a finished run on its first `images` validation images (without a number, on the first batch) into the
/// container `out`, reads them back from the file and compares every one. With `entropy`, groups are entropy-coded where
/// that takes fewer bytes. Codes are held in memory, 2 bytes each.
///
/// The file appears whole and compared, or not at all.
///
/// # Errors
/// If the run can't be opened, has nothing to pack or fewer images, or `out` can't be written.
pub fn pack_run(
    folder: &Path,
    overrides: &[Override],
    images: Option<usize>,
    entropy: bool,
    out: &Path,
) -> Result<PackReport, PackError> {
    let run = RunCodes::of_run(folder, overrides, images)?;
    let (packed, coded, entropies) = plans(&run).map_err(failed(out))?;
    let plan = if entropy { coded } else { packed };
    write_atomically_with(out, |file| {
        write(&run, &plan, file).map_err(failed(out))?;
        read_back(&run, file, out, &entropies)
    })
}

/// Compares a container with what the run computes on as many images.
///
/// # Errors
/// If the run can't be opened, the container can't be read or is damaged, or anything in it differs.
pub fn check_run(folder: &Path, overrides: &[Override], container: &Path) -> Result<PackReport, PackError> {
    let read = |source| PackError::Read { path: container.to_path_buf(), source };
    let mut file = File::open(container).map_err(read)?;
    let images = Reader::open(BufReader::new(&file)).map_err(failed(container))?.images();
    let images = usize::try_from(images).unwrap_or(usize::MAX);
    let run = RunCodes::of_run(folder, overrides, Some(images))?;
    let (_, _, entropies) = plans(&run).map_err(failed(container))?;
    read_back(&run, &mut file, container, &entropies)
}

fn failed(path: &Path) -> impl Fn(ContainerError) -> PackError + '_ {
    |source| PackError::Container { path: path.to_path_buf(), source }
}

/// By site and group, what entropy coding takes; none for dropped groups.
type Entropies = Vec<Vec<Option<Entropy>>>;

/// A plan at the groups' widths, one with entropy coding where it is smaller, and what entropy coding takes.
fn plans(run: &RunCodes) -> Result<(Plan, Plan, Entropies), ContainerError> {
    let images = u32::try_from(run.images).unwrap_or(u32::MAX);
    let packed = Plan::new(run.sites.clone(), images)?;
    let mut coded = packed.clone();
    let mut entropies = Vec::with_capacity(run.sites.len());
    for (site, (layout, codes)) in run.sites.iter().zip(&run.codes).enumerate() {
        let of_group = |(group, codes): (usize, &Vec<i16>)| match layout.groups.get(group) {
            Some(own) if own.bits > 0 => coded.entropy_code(site, group, codes).map(Some),
            _ => Ok(None),
        };
        entropies.push(codes.iter().enumerate().map(of_group).collect::<Result<_, _>>()?);
    }
    Ok((packed, coded, entropies))
}

fn write(run: &RunCodes, plan: &Plan, file: &mut File) -> Result<(), ContainerError> {
    let mut writer = Writer::new(BufWriter::new(file), plan)?;
    while let Some((site, group)) = writer.next_group() {
        let codes = run.codes.get(site).and_then(|groups| groups.get(group));
        writer.write_group(site, group, codes.map_or(&[], Vec::as_slice))?;
    }
    writer.finish()?;
    Ok(())
}

/// Reads everything back, by the bit-by-bit reference where codes are packed and by the fast kernels everywhere, compares
/// all of it with the run, and counts the bytes that were read.
fn read_back(run: &RunCodes, file: &mut File, path: &Path, entropies: &Entropies) -> Result<PackReport, PackError> {
    let other = |what: String| PackError::OtherRun { path: path.to_path_buf(), what };
    let unreadable = |source| PackError::Read { path: path.to_path_buf(), source };
    let file_bytes = file.metadata().map_err(unreadable)?.len();
    let mut reader = Reader::open(BufReader::new(file)).map_err(failed(path))?;
    let names: Vec<&str> = reader.names().collect();
    if names != run.sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>() {
        return Err(other(format!("the list of its sites ({})", names.join(", "))));
    }
    let sizes = reader.verify().map_err(failed(path))?;
    let mut sites = Vec::with_capacity(run.sites.len());
    for (site, layout) in run.sites.iter().enumerate() {
        let stored = reader.site(site).map_err(failed(path))?.clone();
        if stored.layout() != layout {
            return Err(other(format!("the description of site `{}`", layout.name)));
        }
        let mut groups = Vec::with_capacity(layout.groups.len());
        for group in 0..layout.groups.len() {
            let computed = run.codes.get(site).and_then(|groups| groups.get(group)).map_or(&[][..], Vec::as_slice);
            let payload = reader.payload(site, group).map_err(failed(path))?;
            let mut readings = vec![reader.codes(site, group).map_err(failed(path))?];
            readings.extend(by_reference(&stored, group, &payload));
            for codes in readings {
                compare(&codes, computed).map_err(|(index, stored, computed)| {
                    let (path, site) = (path.to_path_buf(), layout.name.clone());
                    PackError::Differs { path, site, group, index, stored, computed }
                })?;
            }
            let entropy = entropies.get(site).and_then(|groups| groups.get(group).copied().flatten());
            groups.push(packed_group(&stored, group, payload.len() as u64, entropy));
        }
        let per_image: u64 = layout.shape.iter().map(|&extent| u64::from(extent)).product();
        sites.push(PackedSite {
            name: layout.name.clone(),
            shape: layout.shape.iter().map(|&extent| i64::from(extent)).collect(),
            transform: layout.transform.clone(),
            values: per_image * run.images as u64,
            groups,
        });
    }
    let images = run.images as u64;
    let unpacked = run.uncompressed.iter();
    Ok(PackReport {
        file: path.display().to_string(),
        images,
        sites,
        uncompressed: unpacked.map(|(name, values)| UnpackedSite::new(name, values * images)).collect(),
        side_information_bytes: sizes.side_information_bytes,
        header_bytes: sizes.header_bytes,
        file_bytes,
        bits_per_value_claimed: run.bits_per_value,
    })
}

/// The codes of a packed payload by the format's definition; none where a group is stored in another way.
fn by_reference(site: &StoredSite, group: usize, payload: &[u8]) -> Option<Vec<i16>> {
    let layout = site.layout().groups.get(group).filter(|_| site.coding(group) == Some(Coding::Packed))?;
    let values = usize::try_from(site.values(group)?).unwrap_or(usize::MAX);
    let bias = if layout.codes == Codes::Unsigned { 0 } else { 1_i16 << (layout.bits - 1) };
    let symbols = reference::unpack(payload, layout.bits, values);
    Some(symbols.into_iter().map(|symbol| i16::from(symbol) - bias).collect())
}

/// The first difference: its index, and both codes.
fn compare(stored: &[i16], computed: &[i16]) -> Result<(), (usize, i16, i16)> {
    let mut pairs = stored.iter().zip(computed).enumerate();
    match pairs.find(|(_, (stored, computed))| stored != computed) {
        Some((index, (&stored, &computed))) => Err((index, stored, computed)),
        // The layouts are the same, and so are the numbers of codes; but a comparison must not depend on that.
        None if stored.len() != computed.len() => Err((stored.len().min(computed.len()), 0, 0)),
        None => Ok(()),
    }
}

fn packed_group(site: &StoredSite, group: usize, payload_bytes: u64, entropy: Option<Entropy>) -> PackedGroup {
    let layout = site.layout().groups.get(group);
    let (bits, channels) = layout.map_or((0, 0), |layout| (layout.bits, layout.members.len()));
    let values = site.values(group).unwrap_or(0);
    let claimed_bytes = packed_bytes(values, bits);
    PackedGroup {
        channels,
        bits: u32::from(bits),
        values,
        claimed_bits: values * u64::from(bits),
        claimed_bytes,
        payload_bytes,
        coding: match site.coding(group) {
            Some(Coding::Packed) => "packed",
            Some(Coding::Coded) => "entropy-coded",
            _ => "dropped",
        },
        entropy_coded_bytes: entropy.map_or(0, |entropy| entropy.coded_bytes.min(claimed_bytes)),
        shannon_bits: entropy.map_or(0.0, |entropy| entropy.bits),
    }
}
