use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use tempfile::TempDir;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn file(magic: u32, lengths: &[u32], content: &[u8]) -> Vec<u8> {
    let header = std::iter::once(&magic).chain(lengths).flat_map(|word| word.to_be_bytes());
    header.chain(content.iter().copied()).collect()
}

fn images() -> Vec<u8> {
    file(0x803, &[2, 2, 3], &(0..12).collect::<Vec<u8>>())
}

fn labels() -> Vec<u8> {
    file(0x801, &[2], &[4, 9])
}

/// A folder with a training split of the given files.
fn folder(images: (&str, &[u8]), labels: (&str, &[u8])) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(format!("train-images-idx3-ubyte{}", images.0)), images.1).unwrap();
    fs::write(folder.path().join(format!("train-labels-idx1-ubyte{}", labels.0)), labels.1).unwrap();
    folder
}

/// The error of a training split with these files, both plain.
fn error(images: &[u8], labels: &[u8]) -> DataError {
    IdxDataset::open(folder(("", images), ("", labels)).path(), Split::Train).unwrap_err()
}

/// The error of a training split whose packed images are these bytes.
fn gzip_error(images: &[u8]) -> DataError {
    IdxDataset::open(folder((".gz", images), ("", &labels())).path(), Split::Train).unwrap_err()
}

#[test]
fn what_was_written_is_read_packed_and_plain() {
    for folder in
        [folder(("", &images()), (".gz", &gzip(&labels()))), folder((".gz", &gzip(&images())), ("", &labels()))]
    {
        let set = IdxDataset::open(folder.path(), Split::Train).unwrap();
        assert_eq!((set.len(), set.image_shape()), (2, [1, 2, 3]));
        assert_eq!(set.image(1).as_ref(), [6, 7, 8, 9, 10, 11]);
        assert_eq!([set.label(0), set.label(1)], [4, 9]);
    }
}

#[test]
fn committed_set_is_whole_and_balanced() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fashion-mnist-mini");
    for (split, count) in [(Split::Train, 4000), (Split::Validation, 1000)] {
        let set = IdxDataset::open(&folder, split).unwrap();
        assert_eq!((set.len(), set.image_shape()), (count, [1, 28, 28]));
        set.check_labels(10).unwrap();
        for class in 0..10 {
            let members = (0..count).filter(|&index| set.label(index) == class).count();
            assert_eq!(members, count / 10, "class {class}");
        }
    }
}

#[test]
fn missing_folder_and_files_are_named() {
    let empty = tempfile::tempdir().unwrap();
    let missing = IdxDataset::open(empty.path().join("none"), Split::Train).unwrap_err();
    assert!(matches!(missing, DataError::FolderMissing { .. }), "{missing}");
    let text = IdxDataset::open(empty.path(), Split::Validation).unwrap_err().to_string();
    assert!(text.ends_with("neither t10k-images-idx3-ubyte.gz nor t10k-images-idx3-ubyte"), "{text}");
}

#[test]
fn damaged_gzip_is_told_from_a_wrong_size() {
    let whole = gzip(&images());
    let cut_off = gzip_error(&whole[..whole.len() - 3]);
    assert!(matches!(cut_off, DataError::Gzip { .. }), "{cut_off}");
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1; // the length that gzip stores
    assert!(matches!(gzip_error(&flipped), DataError::Gzip { .. }));
    assert!(matches!(gzip_error(&images()), DataError::Gzip { .. }));
    assert!(gzip_error(b"").to_string().contains("train-images-idx3-ubyte.gz"));
}

#[test]
fn foreign_headers_are_refused() {
    let swapped = error(&labels(), &images());
    assert!(matches!(swapped, DataError::Magic { expected: 0x803, found: 0x801, .. }), "{swapped}");
    let text = error(&images(), b"abcdefgh").to_string();
    assert!(text.contains("labels begins with 0x00000801") && text.contains("0x61626364"), "{text}");
    let short = error(&images()[..10], &labels());
    assert!(matches!(short, DataError::HeaderCutOff { expected: 16, found: 10, .. }), "{short}");
    assert!(matches!(error(b"", &labels()), DataError::HeaderCutOff { found: 0, .. }));
    for sides in [[0, 28], [28, 0], [28, 5000]] {
        let strange = error(&file(0x803, &[2, sides[0], sides[1]], &[]), &labels());
        assert!(matches!(strange, DataError::Dimensions { .. }), "{strange}");
    }
}

#[test]
fn sizes_must_match_the_header() {
    let short = error(&images()[..20], &labels());
    assert!(matches!(short, DataError::TooShort { claimed: 12, found: 4, .. }), "{short}");
    let long = error(&[images(), vec![0]].concat(), &labels());
    assert!(matches!(long, DataError::TooLong { claimed: 12, .. }), "{long}");
    let short = gzip_error(&gzip(&images()[..20]));
    assert!(matches!(short, DataError::TooShort { claimed: 12, found: 4, .. }), "{short}");
    let long = gzip_error(&gzip(&[images(), vec![0]].concat()));
    assert!(matches!(long, DataError::TooLong { claimed: 12, .. }), "{long}");
}

#[test]
fn wild_claims_cost_nothing() {
    let claim = file(0x803, &[u32::MAX, 4096, 4096], &[0; 100]);
    assert!(matches!(error(&claim, &labels()), DataError::TooShort { .. }));
    assert!(matches!(gzip_error(&gzip(&claim)), DataError::TooShort { .. }));
}

#[test]
fn splits_that_can_not_be_used_are_refused() {
    let differ = error(&images(), &file(0x801, &[3], &[1, 2, 3]));
    assert!(matches!(differ, DataError::CountsDiffer { images: 2, labels: 3, .. }), "{differ}");
    let none = error(&file(0x803, &[0, 28, 28], &[]), &file(0x801, &[0], &[]));
    assert!(matches!(none, DataError::NoImages { .. }), "{none}");
}

#[test]
fn labels_beyond_the_classes_are_found() {
    let folder = folder(("", &images()), ("", &labels()));
    let set = IdxDataset::open(folder.path(), Split::Train).unwrap();
    set.check_labels(10).unwrap();
    let text = set.check_labels(9).unwrap_err().to_string();
    assert!(text.starts_with("image 1 has label 9 in "), "{text}");
    assert!(text.contains("train-labels-idx1-ubyte") && text.ends_with("(labels 0 to 8)"), "{text}");
}

/// Counts what is taken from a reader.
struct Counting<R>(R, Rc<Cell<u64>>);

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.set(self.1.get() + read as u64);
        Ok(read)
    }
}

/// Parses and checks that nothing but a whole file is accepted, and no more unpacked than claimed.
fn parse_checked(bytes: &[u8], packed: bool) -> Result<(), DataError> {
    let taken = Rc::new(Cell::new(0));
    let size = bytes.len() as u64;
    let path = Path::new("file");
    let result = if packed {
        let reader = Counting(MultiGzDecoder::new(bytes), Rc::clone(&taken));
        parse::<3>(path, "images", reader, size * GZIP_LARGEST_RATIO)
    } else {
        parse::<3>(path, "images", Counting(bytes, Rc::clone(&taken)), size)
    };
    let allowed = match &result {
        Ok((lengths, values)) => {
            let claimed: usize = lengths.iter().map(|&length| length as usize).product();
            assert_eq!(values.len(), claimed);
            assert!(values.capacity() <= 2 * claimed + 64);
            16 + claimed as u64
        }
        Err(DataError::TooLong { claimed, .. }) => 16 + claimed + 1,
        Err(DataError::Gzip { .. } | DataError::TooShort { .. }) => size * GZIP_LARGEST_RATIO,
        Err(_) => 16,
    };
    assert!(taken.get() <= allowed, "{} bytes taken", taken.get());
    result.map(drop)
}

#[test]
fn bombs_are_not_unpacked() {
    let bomb = gzip(&file(0x803, &[1, 2, 2], &vec![0; 10_000_000]));
    let error = parse_checked(&bomb, true).unwrap_err();
    assert!(matches!(error, DataError::TooLong { claimed: 4, .. }), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_checked(&bytes, false);
        let _ = parse_checked(&bytes, true);
        let _ = parse_checked(&gzip(&bytes), true);
    }

    #[test]
    fn arbitrary_headers_never_panic(
        lengths in prop::array::uniform3(prop_oneof![0..4u32, any::<u32>()]),
        content in prop::collection::vec(any::<u8>(), 0..40),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let bytes = file(0x803, &lengths, &content);
        let mut packed = gzip(&bytes);
        if let Some((index, byte)) = damage {
            let index = index.index(packed.len());
            packed[index] = byte;
        }
        let _ = parse_checked(&packed, true);
        let whole = lengths.iter().try_fold(1u64, |all, &length| all.checked_mul(length.into()))
            == Some(content.len() as u64);
        prop_assert_eq!(
            parse_checked(&bytes, false).is_ok(),
            whole && lengths[1] > 0 && lengths[2] > 0 && lengths[1] <= 4096 && lengths[2] <= 4096
        );
    }
}
