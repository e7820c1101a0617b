//! Damaged, cut and forged containers: an error, never a panic.

use super::*;

/// Opens a container and reads all of it.
fn read(bytes: &[u8]) -> Result<Sizes, ContainerError> {
    Reader::from_bytes(bytes)?.verify()
}

/// Puts the checksum of `from..to` behind it.
fn seal(bytes: &mut [u8], from: usize, to: usize) {
    let checksum = crc32fast::hash(&bytes[from..to]);
    bytes[to..to + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Changes bytes of the header and makes its checksum right again.
fn forge_header(bytes: &mut [u8], at: usize, content: &[u8]) {
    bytes[at..at + content.len()].copy_from_slice(content);
    seal(bytes, 0, 32);
}

/// Where the first site's description begins, and how many bytes it has without its checksum.
fn first_description(bytes: &[u8]) -> (usize, usize) {
    let directory = u32::from_le_bytes(bytes[20..24].try_into().unwrap()) as usize;
    let length = u64::from_le_bytes(bytes[36..44].try_into().unwrap()) as usize;
    (36 + directory, length - 4)
}

/// The error of the example whose first description is changed `at` bytes from its start, with a right checksum.
fn forged(at: usize, content: &[u8]) -> String {
    let (_, mut bytes) = example();
    let (start, length) = first_description(&bytes);
    bytes[start + at..start + at + content.len()].copy_from_slice(content);
    seal(&mut bytes, start, start + length);
    read(&bytes).unwrap_err().to_string()
}

#[test]
fn every_cut_is_found() {
    let (_, bytes) = example();
    for length in 0..bytes.len() {
        let error = read(&bytes[..length]).unwrap_err();
        match length {
            0..8 => assert!(matches!(error, ContainerError::Foreign { .. }), "{length}: {error}"),
            8..36 => assert!(matches!(error, ContainerError::CutOff { part: Part::Header, .. }), "{length}: {error}"),
            _ => assert!(matches!(error, ContainerError::Length { .. }), "{length}: {error}"),
        }
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(read(&longer), Err(ContainerError::Length { .. })));
}

#[test]
fn every_cut_is_found_where_the_header_hides_it() {
    let (plan, bytes) = example();
    for length in 36..bytes.len() {
        let mut cut = bytes[..length].to_vec();
        forge_header(&mut cut, 24, &(length as u64).to_le_bytes());
        let error = read(&cut).unwrap_err();
        assert!(matches!(error, ContainerError::CutOff { part: Part::Directory, .. }), "{length}: {error}");
    }
    // The directory hides it, too.
    let mut short = bytes[..bytes.len() - 14].to_vec();
    let directory = plan.directory_part() as usize;
    let last = 36 + directory - 4 - 15 - 2 - 8;
    assert_eq!(short[last..last + 8], 14_u64.to_le_bytes());
    short[last..last + 8].fill(0);
    seal(&mut short, 36, 36 + directory - 4);
    forge_header(&mut short, 24, &(bytes.len() as u64 - 14).to_le_bytes());
    let error = read(&short).unwrap_err().to_string();
    assert!(error.contains("the number of bytes of its payloads is 14"), "{error}");

    let mut longer = [&bytes[..], &[0]].concat();
    forge_header(&mut longer, 24, &(bytes.len() as u64 + 1).to_le_bytes());
    assert!(matches!(read(&longer), Err(ContainerError::Surplus { part: Part::Directory, surplus: 1, .. })));
}

#[test]
fn every_cut_description_is_found() {
    let (plan, _) = example();
    for site in plan.sites() {
        let description = section::encode(site);
        let read = |length| section::decode(&description[..length], 0, &site.layout().name, 2, 100);
        let whole = description.len() - 4;
        assert_eq!(&read(whole).unwrap(), site);
        for length in 0..whole {
            let error = read(length).unwrap_err();
            let here = matches!(error, ContainerError::CutOff { part: Part::Site(0), offset: 100.., .. });
            assert!(here, "{length}: {error}");
        }
        assert!(matches!(read(whole + 1), Err(ContainerError::Surplus { part: Part::Site(0), surplus: 1, .. })));
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let (_, bytes) = example();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped).is_err(), "bit {bit} of byte {at}");
        }
    }
    // The last payload and its checksum.
    for at in bytes.len() - 14..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let error = read(&flipped).unwrap_err();
        let part = Part::Payload { site: 2, group: 0 };
        assert!(matches!(error, ContainerError::Checksum { part: found, .. } if found == part), "{error}");
        // The others can still be read.
        assert!(Reader::from_bytes(&flipped).unwrap().codes(0, 0).is_ok());
    }
}

#[test]
fn foreign_files_and_versions_are_told_apart() {
    let (_, mut bytes) = example();
    assert!(matches!(read(b"PK\x03\x04 something else"), Err(ContainerError::Foreign { .. })));
    forge_header(&mut bytes, 8, &7_u32.to_le_bytes());
    assert_eq!(read(&bytes).unwrap_err().to_string(), "the container has version 7, this program reads version 1");
}

#[test]
fn claims_beyond_the_bytes_that_are_there_are_refused() {
    let claim = |at, content: &[u8]| {
        let (_, mut bytes) = example();
        forge_header(&mut bytes, at, content);
        read(&bytes).unwrap_err().to_string()
    };
    let images = claim(12, &u32::MAX.to_le_bytes());
    assert!(images.contains("the number of bytes of a group's codes is 9 at byte"), "{images}");
    let sites = claim(16, &u32::MAX.to_le_bytes());
    assert!(sites.contains("the directory needs 77309411310 bytes at byte 36, but "), "{sites}");
    let directory = claim(20, &u32::MAX.to_le_bytes());
    assert!(directory.contains("the directory needs 4294967295 bytes at byte 36"), "{directory}");

    // Transform's name at 0, placement 6, dimensions 7, shape 8, flags 20, groups 21, then members at 25, levels 37,
    // width 39, kind of codes 40, coding 41, bytes 42.
    assert!(forged(0, &[255, 255]).contains("the description of site 0 needs 65535 bytes at byte "));
    assert!(forged(2, &[0xFF]).contains("is no UTF-8"));
    assert!(forged(6, &[2]).contains("the placement is 2 at byte "));
    assert!(forged(7, &[200]).contains("needs 800 bytes"));
    assert!(forged(8, &[255; 12]).contains("the sum of the flags is 1"), "{}", forged(8, &[255; 12]));
    assert!(forged(20, &[9]).contains("the sum of the flags is 9"));
    assert!(forged(20, &[3]).contains("needs 48 bytes"));
    assert!(forged(20, &[0]).contains("16 bytes before the end"));
    // The means are taken for a third group.
    assert!(forged(21, &[255; 4]).contains("the description of site 0"));
    assert!(forged(25, &[255; 4]).contains("needs 8589934590 bytes"));
    assert!(forged(39, &[9]).contains("the width is 9 bits"));
    assert!(forged(40, &[3]).contains("the kind of codes is 3"));
    assert!(forged(41, &[0]).contains("the coding is 0 at byte"));
    assert!(forged(42, &[255; 8]).contains("the number of bytes of a group's codes is 18446744073709551615"));
    // Entropy-coded in as many bytes as packed.
    assert!(forged(41, &[2]).contains("it must be from 1 to 8 (group 0)"), "{}", forged(41, &[2]));
}

#[test]
fn codes_beyond_the_levels_are_found() {
    let (_, mut bytes) = example();
    // Symbol 0 would be code −8 of levels up to 7.
    let end = bytes.len();
    bytes[end - 14] &= 0xF0;
    seal(&mut bytes, end - 14, end - 4);
    let error = read(&bytes).unwrap_err().to_string();
    assert_eq!(error, "group 0 of site 2: code 0 is -8, its levels reach from -7 to 7");
}

#[test]
fn a_source_that_fails_is_reported() {
    #[derive(Debug)]
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("no disk"))
        }
    }
    impl std::io::Seek for Broken {
        fn seek(&mut self, _: std::io::SeekFrom) -> std::io::Result<u64> {
            Ok(u64::MAX)
        }
    }
    let error = Reader::open(Broken).unwrap_err();
    assert_eq!(error.to_string(), "the header can't be read at byte 0: no disk");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_damage_is_found(
        sites in any_sites(),
        seed in 0_u64..1 << 40,
        entropy in any::<bool>(),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..=255,
    ) {
        let (_, mut bytes) = container(sites, 20, seed, entropy);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(read(&bytes).is_err());
        prop_assert!(read(&bytes[..at]).is_err());
    }

    /// Bytes changed by someone who makes all checksums right: any answer but a panic.
    #[test]
    fn forged_parts_do_no_harm(
        site in any_site(0),
        seed in 0_u64..1 << 40,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (plan, mut bytes) = container(vec![site], 60, seed, true);
        for (at, value) in changes {
            let at = 12 + at.index(bytes.len() - 12);
            bytes[at] = value;
        }
        let (start, length) = {
            let directory = plan.directory_part() as usize;
            (36 + directory, plan.sites()[0].description_part() as usize - 4)
        };
        seal(&mut bytes, 36, start - 4);
        seal(&mut bytes, start, start + length);
        let mut payload = start + length + 4;
        for stored in plan.sites()[0].stored().iter().filter(|stored| stored.coding != Coding::Dropped) {
            seal(&mut bytes, payload, payload + stored.bytes as usize);
            payload += stored.bytes as usize + 4;
        }
        seal(&mut bytes, 0, 32);
        let _ = read(&bytes);
    }

    #[test]
    fn random_bytes_are_no_container(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&bytes).is_err());
        // With a header that is right, and a directory of one site.
        if bytes.len() >= 70 {
            let length = bytes.len() as u64;
            bytes[..8].copy_from_slice(b"dimbit\x1a\n");
            bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
            bytes[16..20].copy_from_slice(&1_u32.to_le_bytes());
            bytes[20..24].copy_from_slice(&22_u32.to_le_bytes());
            bytes[36..54].fill(0);
            bytes[36..44].copy_from_slice(&(length - 58).to_le_bytes());
            seal(&mut bytes, 36, 54);
            forge_header(&mut bytes, 24, &length.to_le_bytes());
            let end = bytes.len() - 4;
            seal(&mut bytes, 58, end);
            prop_assert!(read(&bytes).is_err());
        }
    }
}
