//! Against what Pillow and torchvision made of the pictures in `tests/fixtures/pictures`; `make-pictures` there wrote it.

use std::fs;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    crops: Vec<Crop>,
}

/// What a picture becomes.
#[derive(Deserialize)]
struct Case {
    kind: String,
    name: String,
    offset: usize,
    bytes: usize,
    #[serde(default)]
    size: [usize; 2],
    #[serde(default)]
    area: [usize; 4],
    #[serde(default)]
    how: String,
    #[serde(default)]
    resize: usize,
    #[serde(default)]
    input: [usize; 2],
}

/// Which part of an image is cut out.
#[derive(Deserialize)]
struct Crop {
    seed: u64,
    size: [usize; 2],
    scale: [f64; 2],
    ratio: [f64; 2],
    area: [usize; 4],
}

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures")
}

fn picture(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

fn golden() -> (Golden, Vec<u8>) {
    let golden = serde_json::from_str(&fs::read_to_string(folder().join("golden.json")).unwrap()).unwrap();
    (golden, fs::read(folder().join("golden.bin")).unwrap())
}

/// The cases of a kind, with their bytes.
fn cases(kind: &str) -> Vec<(Case, Vec<u8>)> {
    let (golden, bytes) = golden();
    let cases = golden.cases.into_iter().filter(|case| case.kind == kind);
    let cases: Vec<_> = cases.map(|c| (bytes[c.offset..c.offset + c.bytes].to_vec(), c)).map(|(b, c)| (c, b)).collect();
    assert!(!cases.is_empty());
    cases
}

fn interpolation(name: &str) -> Interpolation {
    match name {
        "bilinear" => Interpolation::Bilinear,
        "bicubic" => Interpolation::Bicubic,
        _ => panic!("{name}"),
    }
}

fn area([left, top, width, height]: [usize; 4]) -> Area {
    Area { left, top, width, height }
}

/// Equal to the last bit, or how far off.
#[track_caller]
fn assert_pixels(name: &str, found: &[u8], wanted: &[u8]) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let apart = found.iter().zip(wanted).map(|(a, b)| a.abs_diff(*b));
    let (count, most) = apart.fold((0, 0), |(count, most), d| (count + usize::from(d > 0), most.max(d)));
    assert_eq!((count, most), (0, 0), "{name}: {count} of {} values differ, by up to {most}", found.len());
}

#[test]
fn every_kind_of_file_decodes_as_in_pillow() {
    for (case, wanted) in cases("decode") {
        let decoded = decode(&picture(&case.name), whole).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!([decoded.width, decoded.height], case.size, "{}", case.name);
        assert_pixels(&case.name, &decoded.pixels, &wanted);
    }
}

#[test]
fn a_part_is_that_part_of_the_whole() {
    for (case, wanted) in cases("decode") {
        let [width, height] = case.size;
        for part in [[width / 3, height / 4, width.div_ceil(2), height.div_ceil(3)], [width - 1, height - 1, 1, 1]] {
            let part = area(part);
            let decoded = decode(&picture(&case.name), |_| part).unwrap();
            let rows = wanted.chunks_exact(3 * width).skip(part.top).take(part.height);
            let cut: Vec<u8> =
                rows.flat_map(|row| &row[3 * part.left..3 * (part.left + part.width)]).copied().collect();
            assert_pixels(&case.name, &decoded.pixels, &cut);
        }
    }
}

#[test]
fn scaling_is_pillows() {
    for (case, wanted) in cases("crop") {
        let picture = decode(&picture(&case.name), |_| area(case.area)).unwrap();
        let all = area([0, 0, 32, 24]);
        let pixels = resample(&picture, [32, 24], all, interpolation(&case.how));
        assert_pixels(&format!("{} {:?} {}", case.name, case.area, case.how), &pixels, &wanted);
    }
}

#[test]
fn evaluation_is_torchvisions() {
    for (case, wanted) in cases("evaluate") {
        let interpolation = interpolation(&case.how);
        let preprocessing =
            Preprocessing { input: case.input, resize: case.resize, interpolation, mean: MEAN, std: STD };
        let transform = Transform::new(preprocessing, None).unwrap();
        let mut out = vec![f32::NAN; wanted.len() / 4];
        transform.apply(&picture(&case.name), &mut ChaCha8Rng::seed_from_u64(0), &mut out).unwrap();
        let wanted: Vec<f32> = wanted.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        // The same pixels; the last bit of a value is left to the order of its arithmetic.
        for (at, (a, b)) in out.iter().zip(&wanted).enumerate() {
            assert!((a - b).abs() < 1e-6, "{} {} at {at}: {a} instead of {b}", case.name, case.how);
        }
    }
}

#[test]
fn random_parts_are_torchvisions() {
    let crops = golden().0.crops;
    assert!(crops.len() > 100);
    for Crop { seed, size, scale, ratio, area: wanted } in crops {
        let mut state = seed;
        let draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / 2_f64.powi(53)
        };
        assert_eq!(random_area(size, scale, ratio, draw), area(wanted), "seed {seed}, {size:?}, {scale:?}, {ratio:?}");
    }
}

fn training(scale: [f64; 2], horizontal_flip: bool) -> Transform {
    let interpolation = Interpolation::Bilinear;
    let preprocessing =
        Preprocessing { input: [24, 32], resize: 36, interpolation, mean: [0.0; 3], std: [1.0 / 255.0; 3] };
    Transform::new(
        preprocessing,
        Some(Augmentation { scale, ratio: [0.75, 1.5], horizontal_flip, scaled_decoding: false }),
    )
    .unwrap()
}

fn apply(transform: &Transform, name: &str, seed: u64) -> Vec<f32> {
    let mut out = vec![f32::NAN; 3 * 24 * 32];
    transform.apply(&picture(name), &mut ChaCha8Rng::seed_from_u64(seed), &mut out).unwrap();
    out.iter().map(|value| value.round()).collect()
}

/// Mean and greatest difference of two pictures' values.
fn apart(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let apart: Vec<u8> = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).collect();
    (apart.iter().map(|&d| f64::from(d)).sum::<f64>() / apart.len() as f64, apart.into_iter().max().unwrap())
}

#[test]
fn images_decode_smaller_where_that_is_asked_for() {
    for name in ["420.jpg", "444.JPEG", "progressive.jpg", "grey.jpg", "cmyk.jpg", "one.jpg", "narrow.jpg"] {
        let bytes = picture(name);
        let full = decode(&bytes, whole).unwrap();
        for by in [2, 4, 8] {
            let small = decode_scaled(&bytes, |size| (whole(size), by)).unwrap();
            let size = [full.width.div_ceil(by), full.height.div_ceil(by)];
            assert_eq!([small.width, small.height], size, "{name} {by}");
            // Any part is that part of the smaller image, its edges moved outwards to whole pixels.
            let part = |[width, height]: [usize; 2]| Area {
                left: width / 3,
                top: height / 4,
                width: width.div_ceil(2),
                height: height.div_ceil(3),
            };
            let wanted = part([full.width, full.height]);
            let cut = decode_scaled(&bytes, |size| (part(size), by)).unwrap();
            let (left, top) = (wanted.left / by, wanted.top / by);
            let right = (wanted.left + wanted.width).div_ceil(by);
            let rows = small.pixels.chunks_exact(3 * small.width).skip(top).take(cut.height);
            let expected: Vec<u8> = rows.flat_map(|row| &row[3 * left..3 * right]).copied().collect();
            assert_pixels(&format!("{name} {by}"), &cut.pixels, &expected);
        }
    }
    // What is no JPEG image stays as large as it is.
    let png = picture("palette.png");
    assert_eq!(decode_scaled(&png, |size| (whole(size), 4)).unwrap(), decode(&png, whole).unwrap());
}

#[test]
fn smaller_decoding_is_nearly_the_same_picture() {
    // A gradient, which the cosine transform keeps, of ten times the input's size.
    let [width, height] = [320, 240];
    let rows = (0..height).flat_map(|y| (0..width).flat_map(move |x| [(x / 2) as u8, y as u8, ((x + y) / 3) as u8]));
    let pixels: Vec<u8> = rows.collect();
    let mut encoder = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    encoder.set_size(width, height);
    encoder.set_quality(95.0);
    let mut encoder = encoder.start_compress(Vec::new()).unwrap();
    encoder.write_scanlines(&pixels).unwrap();
    let bytes = encoder.finish().unwrap();
    for (scale, by) in [(1.0, 8), (0.3, 4)] {
        let render = |scaled_decoding| {
            let preprocessing = Preprocessing {
                input: [24, 32],
                resize: 36,
                interpolation: Interpolation::Bilinear,
                mean: [0.0; 3],
                std: [1.0 / 255.0; 3],
            };
            let ratio = [4.0 / 3.0; 2];
            let augmentation = Augmentation { scale: [scale; 2], ratio, horizontal_flip: false, scaled_decoding };
            let transform = Transform::new(preprocessing, Some(augmentation)).unwrap();
            let mut out = vec![f32::NAN; 3 * 24 * 32];
            transform.apply(&bytes, &mut ChaCha8Rng::seed_from_u64(1), &mut out).unwrap();
            out.iter().map(|value| value.round() as u8).collect::<Vec<u8>>()
        };
        let (mean, most) = apart(&render(true), &render(false));
        // A part's edges move by up to one of the smaller image's pixels, over which the gradient climbs by `by` levels.
        assert!(mean > 0.0 && mean < 0.5 * by as f64 && usize::from(most) <= by + 2, "{by}: {mean} {most}");
    }
    let area = |width, height| Area { left: 3, top: 5, width, height };
    let by = |width, height| times_smaller(area(width, height), [32, 24]);
    assert_eq!((by(63, 48), by(64, 47), by(64, 48)), (1, 1, 2));
    assert_eq!((by(127, 96), by(128, 96), by(256, 192), by(5000, 4000)), (2, 4, 8, 8));
}

#[test]
fn training_varies_with_the_generator_alone() {
    let transform = training([0.08, 1.0], true);
    assert_eq!(apply(&transform, "420.jpg", 1), apply(&transform, "420.jpg", 1));
    assert_ne!(apply(&transform, "420.jpg", 1), apply(&transform, "420.jpg", 2));
    assert_eq!(apply(&transform.plain(), "420.jpg", 1), apply(&transform.plain(), "420.jpg", 2));
}

#[test]
fn half_of_the_images_are_mirrored() {
    let (plain, mirrored) = (training([0.3, 1.0], false), training([0.3, 1.0], true));
    let mut flips = 0;
    for seed in 0..100 {
        let (straight, other) = (apply(&plain, "422.jpg", seed), apply(&mirrored, "422.jpg", seed));
        let turned: Vec<f32> = straight.chunks_exact(32).flat_map(|row| row.iter().rev().copied()).collect();
        assert!(other == straight || other == turned, "seed {seed}");
        flips += usize::from(other == turned);
    }
    assert!((30..70).contains(&flips), "{flips} of 100");
}

#[test]
fn values_that_can_not_be_normalised_by_are_refused() {
    let new = |mean, std| {
        let interpolation = Interpolation::Bilinear;
        let preprocessing = Preprocessing { input: [8, 8], resize: 8, interpolation, mean, std };
        Transform::new(preprocessing, None).map(|_| ()).unwrap_err().to_string()
    };
    assert!(new([0.0, f32::NAN, 0.0], [1.0; 3]).starts_with("mean has the value NaN"));
    assert!(new([0.0; 3], [1.0, 1.0, 0.0]).starts_with("std has the value 0"));
}

fn refused(bytes: &[u8]) -> ImageError {
    // The uppermost pixel alone: what is wrong further down must show all the same.
    decode(bytes, |_| Area { left: 0, top: 0, width: 1, height: 1 }).unwrap_err()
}

#[test]
fn images_that_are_cut_short_or_damaged_are_no_images() {
    assert_eq!(refused(b""), ImageError::Empty);
    assert_eq!(refused(b"GIF89a..."), ImageError::Format);
    assert_eq!(refused(b"\xff"), ImageError::Format);
    for name in ["420.jpg", "grey.jpg", "cmyk.jpg", "progressive.jpg", "restarts.jpg"] {
        let whole = picture(name);
        for length in [2, 3, 100, whole.len() / 2, whole.len() - 40, whole.len() - 4] {
            let error = refused(&whole[..length]);
            assert!(matches!(error, ImageError::CutShort | ImageError::Damaged { .. }), "{name} {length}: {error}");
        }
        assert_eq!(refused(&whole[..whole.len() / 2]), ImageError::CutShort, "{name}");
    }
    let whole = picture("alpha.png");
    for length in [4, 8, 20, whole.len() / 2, whole.len() - 30] {
        let error = refused(&whole[..length]);
        assert!(matches!(error, ImageError::CutShort | ImageError::Damaged { .. }), "{length}: {error}");
    }
}

#[test]
fn any_damage_is_an_error_or_an_image() {
    let mut state = 1_u64;
    for name in ["420.jpg", "progressive.jpg", "cmyk.jpg", "palette.png", "grey-alpha.png"] {
        let whole = picture(name);
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 20) as usize % bytes.len();
                bytes[at] = (state >> 56) as u8;
            }
            // Sizes of images may have been damaged, too.
            let small =
                |[width, height]: [usize; 2]| Area { left: 0, top: 0, width: width.min(4), height: height.min(4) };
            if let Ok(picture) = decode(&bytes, small) {
                assert_eq!(picture.pixels.len(), picture.width * picture.height * 3);
            }
        }
    }
}

#[test]
fn images_beyond_pillows_limit_are_refused_unread() {
    let mut bytes = picture("420.jpg");
    let frame = bytes.windows(2).position(|mark| mark == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x4e, 0x20, 0x4e, 0x20]);
    assert_eq!(refused(&bytes), ImageError::TooLarge { width: 20_000, height: 20_000 });
    // 12,000x12,000 are within it; there the bytes are missing.
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x2e, 0xe0, 0x2e, 0xe0]);
    let first_rows = |_| Area { left: 11_000, top: 0, width: 8, height: 8 };
    assert!(decode(&bytes, first_rows).is_ok(), "only what is wanted is decoded");
}
