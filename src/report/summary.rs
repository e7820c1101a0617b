//! `summary.json`: what a run reached, in the names that scripts rely on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::events::number_or_nan;
use super::{ReportError, SiteRow};

/// Bits of a value that isn't compressed.
pub(super) const FLOAT_BITS: f64 = 32.0;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All stages were run, and the budget is met.
    Complete,
    /// The loss left the finite numbers; the rest of the summary is what was reached before.
    Diverged,
    /// All stages were run, but no checkpoint meets the budget.
    BudgetNotMet,
}

impl Status {
    /// The status in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Status::Complete => "complete",
            Status::Diverged => "diverged",
            Status::BudgetNotMet => "budget not met",
        }
    }
}

/// The result of a run. In the mode `float` nothing is compressed: `bits_per_value` is 32, `sites` is empty, and what isn't
/// defined is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How the run ended.
    pub status: Status,
    /// The recipe's mode.
    pub mode: String,
    /// Top-1 accuracy of the float network in percent, on the whole validation split.
    #[serde(deserialize_with = "number_or_nan")]
    pub float_top1: f64,
    /// Top-1 accuracy of the result in percent, on the whole validation split.
    #[serde(deserialize_with = "number_or_nan")]
    pub top1: f64,
    /// Stored bits per value, fixed-length, `relu` convention.
    #[serde(deserialize_with = "number_or_nan")]
    pub bits_per_value: f64,
    /// Stored bits per value, fixed-length, `stored` convention.
    #[serde(deserialize_with = "number_or_nan")]
    pub bits_per_value_stored: f64,
    /// Shannon entropy of the integer codes in bits per value, measured on validation data; none where there are no codes.
    pub bits_per_value_entropy: Option<f64>,
    /// Bits per value that the recipe asked for; none where it set no budget.
    pub target_bits: Option<f64>,
    /// Dropped values / all values.
    #[serde(deserialize_with = "number_or_nan")]
    pub dropped_fraction: f64,
    /// Bases, means and steps that have to be stored beside the codes.
    pub side_information_bytes: u64,
    /// Multiply-accumulates of the transforms, in percent of the network's own, without what folds into a neighbouring
    /// layer.
    #[serde(deserialize_with = "number_or_nan")]
    pub mac_overhead_percent: f64,
    /// The sites, in the order of the network.
    pub sites: Vec<SiteRow>,
    /// Training images per second, over all stages.
    #[serde(deserialize_with = "number_or_nan")]
    pub images_per_second: f64,
    /// How long the run took.
    #[serde(deserialize_with = "number_or_nan")]
    pub seconds: f64,
    /// The seed of every random choice.
    pub seed: u64,
    /// Multiply-accumulates of the transforms, in percent of the network's own, as if nothing folded.
    #[serde(default, deserialize_with = "number_or_nan")]
    pub mac_overhead_unfolded_percent: f64,
    /// Activation values per image, over all sites.
    pub values: u64,
    /// Multiply-accumulates of the network for one image.
    pub macs: u64,
    /// SHA-256 of the recipe with every key explicit, overrides applied and paths as written, in hexadecimal digits.
    pub recipe_sha256: String,
    /// SHA-256 of the model's file, in hexadecimal digits.
    pub model_sha256: String,
    /// The program's version.
    pub dimbit_version: String,
}

impl Summary {
    /// Bits per value from the groups alone: stored bits of all sites / values of all original tensors.
    ///
    /// An independent check of `bits_per_value`. Dropped groups count as channels of 0 bits; without sites it is 32.
    pub fn bits_from_groups(&self) -> f64 {
        bits_of(&self.sites)
    }

    /// Writes the summary as indented JSON, atomically.
    ///
    /// # Errors
    /// [`ReportError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), ReportError> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| ReportError::Write { path: path.to_path_buf(), source: error.into() })?;
        text.push(b'\n');
        write_atomically(path, &text)
    }

    /// Reads a `summary.json`. Fields that this version doesn't know are passed over.
    ///
    /// # Errors
    /// [`ReportError::Read`], or [`ReportError::NotASummary`] with the line and column.
    pub fn load(path: &Path) -> Result<Summary, ReportError> {
        let bytes = fs::read(path).map_err(ReportError::read(path))?;
        serde_json::from_slice(&bytes).map_err(|source| ReportError::NotASummary { path: path.to_path_buf(), source })
    }
}

/// Fixed-length bits per value over several sites; 32 if there are none.
pub(super) fn bits_of(sites: &[SiteRow]) -> f64 {
    let values: u64 = sites.iter().map(|site| site.values).sum();
    if values == 0 {
        return FLOAT_BITS;
    }
    sites.iter().map(SiteRow::stored_bits).sum::<f64>() / values as f64
}

/// The folder that a file is to lie in. Asked before the work whose result the file takes.
///
/// # Errors
/// [`ReportError::NoFolder`].
pub fn folder_of(path: &Path) -> Result<&Path, ReportError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(ReportError::NoFolder { path: path.to_path_buf(), folder: folder.to_path_buf() })
}

/// Writes a file so that a kill at any moment leaves either the old content or the new, never a part.
///
/// The bytes go to a temporary name in the same folder (a hidden file ending in `.tmp`), are brought to the disk, and take the
/// place of `path` by a rename.
///
/// # Errors
/// [`ReportError::Write`]; the temporary file is then removed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    write_atomically_with(path, |file| file.write_all(bytes).map_err(ReportError::write(path)))
}

/// Like [`write_atomically`], with the content that `write` puts into the file, which it can read again as well. If it
/// fails, nothing changes.
///
/// # Errors
/// [`ReportError::Write`], or what `write` fails with; the temporary file is then removed.
pub fn write_atomically_with<T, E: From<ReportError>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    static COUNT: AtomicU64 = AtomicU64::new(0);

    let failed = ReportError::write(path);
    let name = path.file_name().ok_or_else(|| failed(io::Error::from(io::ErrorKind::IsADirectory)))?;
    // Neither another process nor another thread may write under the same name.
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(format!(".{}-{count}.tmp", process::id()));
    let temporary = path.with_file_name(temporary_name);

    let mut open = OpenOptions::new();
    let mut file = open.read(true).write(true).create(true).truncate(true).open(&temporary).map_err(&failed)?;
    let written = write(&mut file).and_then(|made| {
        file.sync_all().and_then(|()| fs::rename(&temporary, path)).map_err(&failed)?;
        Ok(made)
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The rename itself reaches the disk with its folder. Not every file system can do that, and the file is whole either way.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
    written
}

#[cfg(test)]
pub(super) mod samples {
    //! A summary that the tests of this room share.

    use super::super::events::samples::{group, site};
    use super::*;

    /// A joint run of three sites.
    pub fn summary() -> Summary {
        let sites = vec![
            site("relu", &[64, 112, 112], "pca", vec![group(12, 4), group(20, 3), group(32, 0)]),
            site("layer1.0.relu", &[64, 56, 56], "none", vec![group(40, 3), group(24, 2)]),
            site("layer4.1.relu", &[512, 7, 7], "pca", vec![group(512, 2)]),
        ];
        let values = sites.iter().map(|site| site.values).sum();
        let mut summary = Summary {
            status: Status::Complete,
            mode: "joint".to_owned(),
            float_top1: 93.1,
            top1: 92.6,
            bits_per_value: 0.0,
            bits_per_value_stored: 2.6,
            bits_per_value_entropy: Some(1.71),
            target_bits: Some(2.16),
            dropped_fraction: 0.41,
            side_information_bytes: 41_000,
            mac_overhead_percent: 12.3,
            sites,
            images_per_second: 812.0,
            seconds: 431.0,
            seed: 0,
            values,
            mac_overhead_unfolded_percent: 20.5,
            macs: 1_814_073_344,
            recipe_sha256: "ab".repeat(32),
            model_sha256: "cd".repeat(32),
            dimbit_version: "0.1.0".to_owned(),
        };
        summary.bits_per_value = summary.bits_from_groups();
        summary
    }

    /// A float run.
    pub fn float_summary() -> Summary {
        Summary {
            mode: "float".to_owned(),
            top1: 93.1,
            bits_per_value: 32.0,
            bits_per_value_stored: 32.0,
            bits_per_value_entropy: None,
            target_bits: None,
            dropped_fraction: 0.0,
            side_information_bytes: 0,
            mac_overhead_percent: 0.0,
            mac_overhead_unfolded_percent: 0.0,
            sites: Vec::new(),
            ..summary()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
    use super::*;
    use serde_json::json;

    #[test]
    fn bits_are_recomputed_from_the_groups() {
        let expected = (802_816.0 / 64.0 * (12.0 * 4.0 + 20.0 * 3.0)
            + 200_704.0 / 64.0 * (40.0 * 3.0 + 24.0 * 2.0)
            + 25_088.0 * 2.0)
            / (802_816.0 + 200_704.0 + 25_088.0);
        assert!((summary().bits_from_groups() - expected).abs() < 1e-12);
        assert_eq!(float_summary().bits_from_groups(), 32.0);
    }

    #[test]
    fn scripts_find_the_promised_names() {
        let json = serde_json::to_value(summary()).unwrap();
        let names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let promised = [
            "status",
            "mode",
            "float_top1",
            "top1",
            "bits_per_value",
            "bits_per_value_stored",
            "bits_per_value_entropy",
            "target_bits",
            "dropped_fraction",
            "side_information_bytes",
            "mac_overhead_percent",
            "sites",
            "images_per_second",
            "seconds",
            "seed",
        ];
        assert_eq!(names[..promised.len()], promised);
        assert_eq!(json["status"], "complete");
        assert_eq!(json["sites"][0]["groups"][0], json!({ "channels": 12, "bits": 4, "step": 0.031, "range": 0.22 }));
        assert_eq!(json["sites"][0]["shape"], json!([64, 112, 112]));
        let float = serde_json::to_value(float_summary()).unwrap();
        assert!(float["target_bits"].is_null());
        assert_eq!(float["bits_per_value"], 32.0);
    }

    #[test]
    fn a_summary_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        for summary in [summary(), float_summary()] {
            summary.save(&path).unwrap();
            assert_eq!(Summary::load(&path).unwrap(), summary);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_diverged_summary_can_still_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        let mut diverged = summary();
        diverged.status = Status::Diverged;
        diverged.sites[0].groups[0].step = f64::NAN;
        diverged.images_per_second = f64::INFINITY;
        diverged.save(&path).unwrap();
        let read = Summary::load(&path).unwrap();
        assert!(read.sites[0].groups[0].step.is_nan());
        assert!(read.images_per_second.is_nan());
        assert_eq!(read.status, Status::Diverged);
    }

    #[test]
    fn another_file_is_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        fs::write(&path, "{\n  \"status\": \"complete\",\n  \"mode\": 3\n}").unwrap();
        let error = Summary::load(&path).unwrap_err().to_string();
        assert!(error.contains("summary.json") && error.contains("line 3"), "{error}");
        let error = Summary::load(&folder.path().join("absent")).unwrap_err();
        assert!(matches!(error, ReportError::Read { .. }));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "old").unwrap();
        assert!(matches!(write_atomically(&path, b"new"), Err(ReportError::Write { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_atomically(&folder.path().join("no/such/folder"), b"x").is_err());
        assert!(write_atomically(Path::new("/"), b"x").is_err());

        let path = folder.path().join("file");
        write_atomically(&path, b"a longer old content").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
