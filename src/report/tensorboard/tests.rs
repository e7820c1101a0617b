use std::fs;
use std::path::{Path, PathBuf};

use protobuf::Message;
use tensorboard_proto::event::Event as Record;
use tensorboard_proto::summary::Summary_Value;

use super::super::SiteHistogram;
use super::super::events::samples::*;
use super::super::summary::samples::summary;
use super::*;

/// The records of a TFRecord file. Framing: length (u64, little-endian), masked CRC-32C of those 8 bytes, the data, masked
/// CRC-32C of the data.
fn records(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_at(12);
        let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
        assert_eq!(head[8..], masked_crc32c(&head[..8]).to_le_bytes());
        let (data, after) = after.split_at(length);
        let (crc, after) = after.split_at(4);
        assert_eq!(crc, masked_crc32c(data).to_le_bytes());
        records.push(data);
        rest = after;
    }
    records
}

/// CRC-32C bit by bit, so that the writer's own table isn't taken on trust.
fn masked_crc32c(data: &[u8]) -> u32 {
    let crc = !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    });
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Every value of the one event file, with its step.
fn values(folder: &Path) -> Vec<(i64, Summary_Value)> {
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    values_of(&files[0])
}

fn values_of(file: &Path) -> Vec<(i64, Summary_Value)> {
    let bytes = fs::read(file).unwrap();
    let events: Vec<Record> =
        records(&bytes).into_iter().map(|record| Record::parse_from_bytes(record).unwrap()).collect();
    assert_eq!(events[0].get_file_version(), "brain.Event:2");
    let of_event = |event: &Record| {
        let step = event.get_step();
        event.get_summary().get_value().iter().map(move |value| (step, value.clone())).collect::<Vec<_>>()
    };
    events[1..].iter().flat_map(of_event).collect()
}

fn board(folder: &Path) -> TensorBoard {
    TensorBoard::open(folder, "seed: 3\n").unwrap()
}

#[test]
fn the_event_file_holds_every_value_at_its_step() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("runs/tensorboard");
    let mut board = board(&folder);
    let sites = vec![site("layer1.0.relu", &[4], "none", vec![group(3, 4), group(1, 0)])];
    let codes = vec![SiteHistogram { site: "layer1.0.relu".to_owned(), least: -1, counts: vec![4, 0, 6] }];
    for event in [
        stage_started(300),
        step(200, 300, 0.5),
        Event::Widths { step: 1250, sites, bits_stored: 5.5 },
        Event::Codes { step: 1250, sites: codes },
        Event::Revived { step: 1260, groups: 2 },
        Event::Evaluated {
            step: 1300,
            stage: "search".to_owned(),
            top1: 92.5,
            loss: f64::NAN,
            images: 1000,
            bits: None,
        },
    ] {
        board.event(&event).unwrap();
    }
    board.finish().unwrap();

    let read = values(&folder);
    let tags: Vec<(i64, &str)> = read.iter().map(|(step, value)| (*step, value.get_tag())).collect();
    assert_eq!(
        tags,
        [
            (1200, "loss/total"),
            (1200, "loss/task"),
            (1200, "loss/distillation"),
            (1200, "train/top1"),
            (1200, "learning_rate/weights"),
            (1200, "learning_rate/quantizers"),
            (1200, "bits/fixed_length"),
            (1200, "bits/budget"),
            (1200, "bits/multiplier"),
            (1200, "speed/images_per_second"),
            (1200, "speed/waiting_percent"),
            (1250, "bits/stored_convention"),
            (1250, "bits/dropped_percent"),
            (1250, "bits_site/layer1.0.relu"),
            (1250, "bits_group/layer1.0.relu/0"),
            (1250, "bits_group/layer1.0.relu/1"),
            (1250, "quantizer/log2_step"),
            (1250, "quantizer/log2_range"),
            (1250, "widths/map"),
            (1250, "codes/layer1.0.relu"),
            (1260, "search/revived_groups"),
            (1300, "validation/top1"),
            (1300, "validation/loss"),
        ]
    );
    let of = |tag: &str| read.iter().find(|(_, value)| value.get_tag() == tag).unwrap().1.clone();
    let scalar = |tag: &str| f64::from(of(tag).get_simple_value());
    assert_eq!((scalar("loss/total"), scalar("loss/task"), scalar("speed/waiting_percent")), (0.75, 0.5, 12.5));
    assert_eq!((scalar("bits/dropped_percent"), scalar("bits_site/layer1.0.relu")), (25.0, 3.0));
    assert!(scalar("validation/loss").is_nan());
    // One group that isn't dropped.
    assert_eq!(of("quantizer/log2_step").get_histo().get_num(), 1.0);
    assert_eq!(of("codes/layer1.0.relu").get_histo().get_bucket_limit(), [-0.5, 0.5, 1.5]);
    assert!(of("widths/map").get_image().get_encoded_image_string().starts_with(b"\x89PNG"));
}

fn run_started() -> Event {
    Event::RunStarted {
        name: "x".to_owned(),
        mode: "joint".to_owned(),
        device: "cpu".to_owned(),
        seed: 3,
        model: "m.pt".to_owned(),
        sites: 1,
        left_out: 0,
        values: 4,
        parameters: 5,
        macs: 6,
    }
}

#[test]
fn a_run_that_goes_on_has_every_value_once() {
    let folder = tempfile::tempdir().unwrap();
    let sites = || vec![site("layer1.0.relu", &[4], "none", vec![group(3, 4), group(1, 0)])];
    let widths = |step| Event::Widths { step, sites: sites(), bits_stored: 5.5 };
    let codes = || vec![SiteHistogram { site: "layer1.0.relu".to_owned(), least: -1, counts: vec![4, 0, 6] }];
    let mut mark = LogMark::default();
    let mut board = board(folder.path());
    for event in [run_started(), step(1, 9, 0.5), widths(1001), Event::Codes { step: 1001, sites: codes() }] {
        board.event(&event).unwrap();
    }
    board.mark(&mut mark).unwrap();
    board.event(&step(2, 9, 0.5)).unwrap();
    drop(board);
    for told in [2, 3] {
        let mut board = TensorBoard::open_at(folder.path(), "seed: 3\n", mark.tensorboard_records).unwrap();
        board.event(&step(told, 9, 0.25)).unwrap();
        board.event(&widths(1000 + told)).unwrap();
        board.mark(&mut mark).unwrap();
    }
    let files = event_files::list(folder.path()).unwrap();
    assert_eq!(files.len(), 3);
    let read: Vec<_> = files.iter().flat_map(|file| values_of(file)).collect();
    let steps = |tag: &str| -> Vec<i64> { read.iter().filter(|(_, v)| v.get_tag() == tag).map(|(s, _)| *s).collect() };
    for tag in ["loss/task", "bits_site/layer1.0.relu", "quantizer/log2_step", "widths/map"] {
        assert_eq!(steps(tag), [1001, 1002, 1003], "{tag}");
    }
    assert_eq!(steps("codes/layer1.0.relu"), [1001]);
    for tag in ["run/recipe", "custom_scalars__config__", "_hparams_/experiment", "_hparams_/session_start_info"] {
        assert_eq!(steps(tag), [0], "{tag}");
    }
    let losses: Vec<f32> =
        read.iter().filter(|(_, v)| v.get_tag() == "loss/task").map(|(_, v)| v.get_simple_value()).collect();
    assert_eq!(losses, [0.5, 0.25, 0.25]);
}

#[test]
fn the_recipe_and_the_result_stand_in_the_table_of_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut board = board(folder.path());
    board.event(&run_started()).unwrap();
    board.event(&step(200, 300, 0.5)).unwrap();
    board.event(&Event::Finished { summary: Box::new(summary()) }).unwrap();
    board.finish().unwrap();
    let read = values(folder.path());
    let of = |tag: &str| read.iter().find(|(_, value)| value.get_tag() == tag).unwrap();
    let plugin = |tag: &str| of(tag).1.get_metadata().get_plugin_data().get_plugin_name().to_owned();
    assert_eq!(of("run/recipe").1.get_tensor().get_string_val()[0], b"    seed: 3");
    assert_eq!((plugin("run/recipe"), plugin("custom_scalars__config__")), ("text".into(), "custom_scalars".into()));
    for tag in ["_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"] {
        assert_eq!(plugin(tag), "hparams");
    }
    // At the last step that was told.
    assert_eq!(of("result/top1").0, 1200);
    assert_eq!(f64::from(of("result/top1").1.get_simple_value()) as f32, summary().top1 as f32);
}

#[test]
fn the_file_is_whole_without_a_finish() {
    let folder = tempfile::tempdir().unwrap();
    let mut board = board(folder.path());
    board.event(&step(1, 2, 0.5)).unwrap();
    drop(board);
    assert_eq!(values(folder.path()).len(), 11);
}

#[test]
fn a_folder_that_cannot_be_written_is_found_out_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for taken in [file.clone(), file.join("below")] {
        let error = TensorBoard::open(&taken, "").err().unwrap();
        assert!(matches!(&error, ReportError::Write { path, .. } if *path == taken));
    }
}

/// A folder that exists and in which nobody, not even root, can create a file.
#[cfg(target_os = "linux")]
#[test]
fn a_read_only_folder_is_found_out_first() {
    let error = TensorBoard::open(Path::new("/proc/self"), "").err().unwrap();
    assert!(matches!(error, ReportError::Write { .. }), "{error}");
}

#[test]
fn events_after_the_end_are_an_error_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut board = board(folder.path());
    board.finish().unwrap();
    assert!(matches!(board.event(&step(1, 2, 0.5)), Err(ReportError::TensorBoardStopped { .. })));
}
