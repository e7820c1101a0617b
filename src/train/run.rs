//! A whole run: a recipe in, a finished folder out.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::checkpoint::save;
use super::error::TrainError;
use super::evaluate::Evaluation;
use super::folder::{RunFolder, sha256, sha256_of_file};
use super::session::{Session, resolve_device};
use super::stages;
use super::validate::validate;
use crate::compress::compressor::Compressor;
use crate::libtorch::set_deterministic;
use crate::model::Model;
use crate::recipe::Loaded;
use crate::report::{Event, MetricsFile, Sink, Sinks, Status, Summary, TensorBoard, write_atomically};

/// How a run is carried out.
pub struct RunOptions {
    /// The run's folder; without it the first free one under `runs/`.
    pub out: Option<PathBuf>,
    /// Where events go beside the folder's own files.
    pub console: Box<dyn Sink>,
}

/// Carries out a recipe. Returns the summary and the folder.
///
/// # Errors
/// Everything of [`TrainError`]; wrong input is found before anything is written.
pub fn run(loaded: &Loaded, options: RunOptions) -> Result<(Summary, PathBuf), TrainError> {
    let started = Instant::now();
    let recipe = &loaded.recipe;
    let device = resolve_device(recipe.device)?;
    set_deterministic(recipe.seed)?;
    let (model, feed) = validate(loaded, device)?;
    let stem = std::path::Path::new(loaded.source.file()).file_stem().map(|s| s.to_string_lossy().into_owned());
    let name = recipe.name.clone().or(stem).unwrap_or_else(|| "run".to_owned());
    let folder = RunFolder::create(options.out.as_deref(), &name)?;
    let resolved = recipe.resolved_yaml();
    write_atomically(&folder.file("recipe.yaml"), loaded.source.text().as_bytes())?;
    write_atomically(&folder.file("recipe.resolved.yaml"), resolved.as_bytes())?;
    let recipe_sha256 = sha256(loaded.canonical.as_bytes());
    let model_sha256 = sha256_of_file(&recipe.model.path)?;
    let about = json!({
        "dimbit_version": env!("CARGO_PKG_VERSION"),
        "git_commit": git_commit(std::path::Path::new(loaded.source.file())),
        "libtorch": crate::libtorch::version(),
        "device": device_name(device),
        "threads": tch::get_num_threads(),
        "seed": recipe.seed,
        "recipe_sha256": recipe_sha256,
        "model": recipe.model.path,
        "model_sha256": model_sha256,
    });
    write_atomically(&folder.file("run.json"), format!("{about:#}\n").as_bytes())?;
    let mut sinks = Sinks(vec![
        options.console,
        Box::new(MetricsFile::open(&folder.file("metrics.jsonl"))?),
        Box::new(TensorBoard::open(&folder.file("tensorboard"), &resolved)?),
    ]);
    let mut session = Session {
        recipe,
        model,
        teacher: None,
        compressor: None,
        feed,
        device,
        sink: &mut sinks,
        step: 0,
        epochs: 0,
        trained: (0, 0.0),
        float_top1: None,
    };
    session.sink.event(&Event::RunStarted {
        name,
        mode: recipe.mode().to_string(),
        device: device_name(device),
        seed: recipe.seed,
        model: recipe.model.path.display().to_string(),
        sites: session.model.sites.len(),
        values: session.model.values() as u64,
        parameters: session.model.parameters,
        macs: session.model.macs,
    })?;
    if session.model.baked_evaluation {
        let message = "the network was traced in evaluation: its batch normalisation stays frozen in every stage";
        session.sink.event(&Event::Warning { message: message.to_owned() })?;
    }
    let reached = |result| Reached { result, recipe_sha256, model_sha256, started };
    for (index, stage) in recipe.stages.iter().enumerate() {
        if let Err(error) = stages::carry_out(&mut session, stage, index, &folder) {
            if matches!(error, TrainError::Diverged { .. }) {
                // The first error counts, whatever becomes of its summary.
                let nothing =
                    Evaluation { top1: f64::NAN, loss: f64::NAN, images: 0, entropy: None, codes: Vec::new() };
                if let Ok(mut summary) = summarize(&session, reached(nothing)) {
                    summary.status = Status::Diverged;
                    let _ = summary.save(&folder.file("summary.json"));
                }
            }
            return Err(error);
        }
    }
    let result = session.evaluate("result", true)?;
    save(&folder, &session.model.network, session.compressor.as_ref())?;
    let summary = summarize(&session, reached(result))?;
    summary.save(&folder.file("summary.json"))?;
    session.sink.event(&Event::Finished { summary: Box::new(summary.clone()) })?;
    sinks.finish()?;
    Ok((summary, folder.path))
}

/// The commit of the repository that the recipe lies in, if it lies in one.
fn git_commit(recipe: &std::path::Path) -> Option<String> {
    let folder = recipe.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let output = std::process::Command::new("git").arg("-C").arg(folder).args(["rev-parse", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn device_name(device: tch::Device) -> String {
    match device {
        tch::Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

struct Reached {
    result: Evaluation,
    recipe_sha256: String,
    model_sha256: String,
    started: Instant,
}

fn summarize(session: &Session<'_>, reached: Reached) -> Result<Summary, TrainError> {
    let model = &session.model;
    let compressor = session.compressor.as_ref();
    let bits_per_value = compressor.map(Compressor::bits_per_value).transpose()?.unwrap_or(32.0);
    let sites = session.site_rows()?;
    let target_bits = session.recipe.target_bits();
    let dropped: f64 = sites.iter().map(crate::report::SiteRow::dropped_values).sum();
    let mac_overhead = |folded| compressor.map_or(0.0, |c| 100.0 * c.extra_macs(folded) / model.macs as f64);
    let met = target_bits.is_none_or(|target| bits_per_value <= target);
    Ok(Summary {
        status: if met { Status::Complete } else { Status::BudgetNotMet },
        mode: session.recipe.mode().to_string(),
        // Without a calibration, the result is the float network.
        float_top1: session.float_top1.unwrap_or(reached.result.top1),
        top1: reached.result.top1,
        bits_per_value,
        bits_per_value_stored: stored_bits(model, compressor)?,
        bits_per_value_entropy: reached.result.entropy,
        target_bits,
        dropped_fraction: dropped / model.values() as f64,
        side_information_bytes: compressor.map_or(0, Compressor::side_information_bytes),
        mac_overhead_percent: mac_overhead(true),
        mac_overhead_unfolded_percent: mac_overhead(false),
        sites,
        images_per_second: session.trained.0 as f64 / session.trained.1.max(f64::MIN_POSITIVE),
        seconds: reached.started.elapsed().as_secs_f64(),
        seed: session.recipe.seed,
        values: model.values() as u64,
        macs: model.macs,
        recipe_sha256: reached.recipe_sha256,
        model_sha256: reached.model_sha256,
        dimbit_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Bits per value in the `stored` convention: tensors that no site covers count 32 bits.
///
/// # Errors
/// If libtorch fails.
pub fn stored_bits(model: &Model, compressor: Option<&Compressor>) -> Result<f64, TrainError> {
    let Some(compressor) = compressor else { return Ok(32.0) };
    let rows = super::session::site_rows(model, Some(compressor))?;
    let (mut bits, mut values) = (0.0, 0.0);
    for tensor in &model.stored {
        let per_value = tensor.site.map_or(32.0, |site| rows[site].bits_per_value);
        bits += per_value * tensor.values() as f64;
        values += tensor.values() as f64;
    }
    Ok(if values > 0.0 { bits / values } else { 32.0 })
}
