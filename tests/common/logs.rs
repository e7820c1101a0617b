//! What two runs of one recipe must share, however often one of them was cut off.

use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use super::read_json;

/// Takes out of a JSON value what time alone decides.
pub fn without_time(value: &mut Json) {
    match value {
        Json::Object(map) => {
            for key in ["time", "seconds", "images_per_second"] {
                map.remove(key);
            }
            map.values_mut().for_each(without_time);
        }
        Json::Array(items) => items.iter_mut().for_each(without_time),
        _ => {}
    }
}

/// Requires of two runs' folders the same summary, result, events and scalars, but for times.
#[track_caller]
pub fn assert_same(reference: &Path, resumed: &Path) {
    let summary = |folder: &Path| {
        let mut summary = read_json(&folder.join("summary.json"));
        without_time(&mut summary);
        summary
    };
    assert_eq!(summary(resumed), summary(reference));
    for file in ["final.safetensors", "final.json"] {
        let bytes = |folder: &Path| fs::read(folder.join("checkpoints").join(file)).unwrap();
        assert!(bytes(resumed) == bytes(reference), "{file} differs");
    }
    let (told, wanted) = (events(resumed), events(reference));
    for (index, (told, wanted)) in told.iter().zip(&wanted).enumerate() {
        assert_eq!(told, wanted, "event {index}");
    }
    assert_eq!(told.len(), wanted.len());
    let of = |folder: &Path| {
        let mut all = scalars(&folder.join("tensorboard"));
        all.retain(|(_, tag, _)| !tag.starts_with("speed/"));
        all.into_iter().map(|(step, tag, value)| (step, tag, value.to_bits())).collect::<Vec<_>>()
    };
    assert_eq!(of(resumed), of(reference));
}

/// `metrics.jsonl` without times.
pub fn events(folder: &Path) -> Vec<Json> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let parse = |line: &str| {
        let mut event = serde_json::from_str(line).unwrap();
        without_time(&mut event);
        event
    };
    text.lines().map(parse).collect()
}

/// All scalars of a folder of TensorBoard's event files as its own reader takes them: file after file, record after record.
/// Step, tag, value.
pub fn scalars(folder: &Path) -> Vec<(u64, String, f32)> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let bytes = fs::read(file).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            found.extend(scalar(&rest[12..12 + length]));
            rest = &rest[16 + length..];
        }
    }
    found
}

/// Event.step = 2, Event.summary = 5, Summary.value = 1, Value.tag = 1, Value.simple_value = 2; other events have none.
fn scalar(record: &[u8]) -> Option<(u64, String, f32)> {
    let value = field(&field(record, 5)?, 1)?;
    let step = field(record, 2).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let number = f32::from_le_bytes(field(&value, 2)?.try_into().ok()?);
    Some((step, String::from_utf8(field(&value, 1)?).unwrap(), number))
}

/// The bytes of a protocol buffer's field; a varint's as a little-endian u64.
fn field(message: &[u8], wanted: u64) -> Option<Vec<u8>> {
    let mut rest = message;
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let content = match key & 7 {
            0 => varint(&mut rest).to_le_bytes().to_vec(),
            wire => {
                let length = match wire {
                    1 => 8,
                    2 => varint(&mut rest) as usize,
                    _ => 4,
                };
                let (content, after) = rest.split_at(length);
                rest = after;
                content.to_vec()
            }
        };
        if key >> 3 == wanted {
            return Some(content);
        }
    }
    None
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
