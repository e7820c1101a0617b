//! What two runs of one recipe must share, however often one of them was cut off.

use std::fs;
use std::path::Path;

use protobuf::Message;
use serde_json::Value as Json;
use tensorboard_proto::event::Event as Record;
use tensorboard_proto::summary::Summary_Value;

use super::read_json;

/// Takes out of a JSON value what time alone decides.
pub fn without_time(value: &mut Json) {
    match value {
        Json::Object(map) => {
            for key in ["time", "seconds", "images_per_second", "waiting"] {
                map.remove(key);
            }
            map.values_mut().for_each(without_time);
        }
        Json::Array(items) => items.iter_mut().for_each(without_time),
        _ => {}
    }
}

/// Requires of two runs' folders the same summary, result, events and values for TensorBoard, but for times.
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
    let of = |folder: &Path| values(&folder.join("tensorboard")).into_iter().map(timeless).collect::<Vec<_>>();
    let (told, wanted) = (of(resumed), of(reference));
    for (told, wanted) in told.iter().zip(&wanted) {
        assert!(told == wanted, "TensorBoard has {} at {}, not {} at {}", told.1, told.0, wanted.1, wanted.0);
    }
    assert_eq!(told.len(), wanted.len());
}

/// Step, tag, and the value's bytes where time has no part in them.
fn timeless((step, value): (u64, Summary_Value)) -> (u64, String, Vec<u8>) {
    let tag = value.get_tag().to_owned();
    let of_time = ["speed/", "_hparams_/", "result/images_per_second", "result/seconds"];
    let timed = of_time.iter().any(|start| tag.starts_with(start));
    (step, tag, if timed { Vec::new() } else { value.write_to_bytes().unwrap() })
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

/// All values in a folder of TensorBoard's event files as its own reader takes them, file after file, record after record,
/// with their steps.
pub fn values(folder: &Path) -> Vec<(u64, Summary_Value)> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let bytes = fs::read(file).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let record = Record::parse_from_bytes(&rest[12..12 + length]).unwrap();
            let step = record.get_step() as u64;
            found.extend(record.get_summary().get_value().iter().map(|value| (step, value.clone())));
            rest = &rest[16 + length..];
        }
    }
    found
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
