use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{print, value};
use crate::recipe::{BasisLearning, Device, InputShape, Placement, Recipe, SaveActivations, Transform};
use crate::report::{Console, Event, Sink, Verbosity, bench_table};
use crate::train::{BenchOptions, Loading, Moment, Row, TrainError, WARM_UP, bench, bench_loading, peak_of_row};

/// Measures what a training step costs, in time and memory, against the float step of the same network: on synthetic
/// images, the rows' steps in turn. With `--data`, how fast a recipe's images are loaded instead, without a network.
#[derive(Debug, Args)]
pub struct Bench {
    /// TorchScript file, scripted or traced.
    #[arg(required_unless_present = "data", requires = "input")]
    model: Option<PathBuf>,
    /// Shape of one input image: channels, height, width, such as 3x224x224.
    #[arg(long, value_name = "CxHxW", required_unless_present = "data", value_parser = value::<InputShape>)]
    input: Option<InputShape>,
    /// Measure how fast the training images of this recipe are loaded, over `--steps` batches with `--threads`.
    #[arg(long, value_name = "RECIPE", conflicts_with_all = ["model", "input", "batch", "device", "rows"])]
    data: Option<PathBuf>,
    /// Images of a batch.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Rounds that count; three more come before them.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value_t = Device::Auto, value_parser = value::<Device>)]
    device: Device,
    /// Threads on the CPU; libtorch's own choice without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// The rows to measure, separated by commas; the float row always is.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = Row::ALL)]
    rows: Vec<Row>,
    /// The transform of the rows joint and joint-target.
    #[arg(long, value_enum, default_value_t = TransformName::Pca)]
    transform: TransformName,
    /// Whether the bases of the rows joint and joint-target learn; the recipe's key has another default, apart.
    #[arg(long, value_enum, default_value_t = Bases::Fixed)]
    basis: Bases,
    /// Most extra multiply-accumulates that `--transform auto` may choose, in percent of the network's own.
    #[arg(long, value_name = "PERCENT", default_value_t = 25.0, value_parser = percent)]
    max_mac_overhead: f64,
    /// Bits per value that the row joint-target stands at.
    #[arg(long, value_name = "BITS", default_value_t = 2.16, value_parser = bits)]
    target_bits: f64,
    /// Let the compressed rows follow a float network, as a search does by default: its forward pass counts.
    #[arg(long)]
    distillation: bool,
    /// What convolutions keep of compressed activations for their backward pass, as the recipe's key says.
    #[arg(long, value_enum, default_value_t = Kept::Full)]
    save_activations: Kept,
    /// On which side of the activation functions the transforms of the joint rows stand.
    #[arg(long, value_enum, default_value_t = Side::Before)]
    placement: Side,
    /// Let batch normalisation use its running statistics, in all rows: the layer in front of a codec then carries out its
    /// transform.
    #[arg(long)]
    freeze_batch_norm: bool,
    /// Leave out the peak memory, for which each row takes some more steps in a process of its own.
    #[arg(long)]
    no_memory: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Wait for a line on standard input before each round and print each round's times, for a driver whose own
    /// measurements take turns with these.
    #[arg(long, hide = true)]
    paced: bool,
    /// Measure the peak memory of one row, whose folder this is: what the program calls itself with.
    #[arg(long, value_name = "DIR", hide = true)]
    peak_of: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransformName {
    /// PCA at every site.
    Pca,
    /// Site by site what pays, within `--max-mac-overhead`.
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bases {
    /// They stay as calibrated.
    Fixed,
    /// They learn, the inverse stays the transpose.
    Tied,
    /// They learn, transform and inverse each for itself.
    Apart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kept {
    /// Their values.
    Full,
    /// Their integer codes.
    Packed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    /// On the pre-activations.
    Before,
    /// On what the activation functions give.
    After,
    /// Site by site where it pays.
    Auto,
}

fn bits(text: &str) -> Result<f64, String> {
    let bits = text.parse::<f64>().ok().filter(|&bits| bits > 0.0 && bits <= 8.0);
    bits.ok_or_else(|| "bits per value are a number above 0 and at most 8".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse::<f64>().ok().filter(|&percent| percent >= 0.0 && percent.is_finite());
    percent.ok_or_else(|| "a percentage is a number from 0 on".to_owned())
}

impl Bench {
    pub(super) fn run(&self) -> Result<ExitCode> {
        if let Some(recipe) = &self.data {
            return self.load(recipe);
        }
        // The command line has both where it has no --data.
        let (Some(model), Some(input)) = (self.model.clone(), self.input) else { bail!("a network and its --input") };
        let options = self.options(model, input);
        if let Some(state) = &self.peak_of {
            let row: Row = state.file_name().unwrap_or_default().to_string_lossy().parse()?;
            let peak = peak_of_row(&options, row, state)?;
            print(&json!({ "peak_bytes": peak }).to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        let states = tempfile::Builder::new().prefix("dimbit-bench-").tempdir();
        let states = states.context("no folder for temporary files; TMPDIR names another place for it")?;
        let mut console = Console::stderr(Verbosity::Normal);
        let keep = (!self.no_memory).then_some(states.path());
        let mut report = bench(&options, keep, &mut |moment| self.observe(moment, &mut console))?;
        if !self.no_memory {
            let names: Vec<String> = report.rows.iter().map(|row| row.name.clone()).collect();
            for (index, name) in names.iter().enumerate() {
                report.set_peak(name, peak_in_child(&states.path().join(name))?);
                show(&mut console, "peak memory of rows", index + 1, names.len())?;
            }
        }
        console.finish()?;
        if self.paced {
            print(&serde_json::to_string(&report)?)?;
        } else if self.json {
            print(&serde_json::to_string_pretty(&report)?)?;
        } else {
            print(bench_table(&report).trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn load(&self, recipe: &Path) -> Result<ExitCode> {
        let loaded = Recipe::load(recipe, &[])?;
        let found = bench_loading(&loaded, self.threads.map(|threads| threads as usize), self.steps as usize)?;
        if self.json {
            print(&serde_json::to_string_pretty(&found)?)?;
        } else {
            let Loading { kind, input, batch, threads, images, images_per_second, .. } = found;
            print(&format!(
                "{images_per_second:.0} images/s, of the kind {kind}, as {input} ({threads} threads, {images} images in batches of {batch})"
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self, model: PathBuf, input: InputShape) -> BenchOptions {
        BenchOptions {
            model,
            input,
            batch: self.batch as usize,
            steps: self.steps as usize,
            device: self.device,
            threads: self.threads.map(|threads| threads as usize),
            rows: self.rows.clone(),
            transform: match self.transform {
                TransformName::Pca => Transform::Pca,
                TransformName::Auto => Transform::Auto,
            },
            basis: match self.basis {
                Bases::Fixed => BasisLearning::Fixed,
                Bases::Tied => BasisLearning::Tied,
                Bases::Apart => BasisLearning::Apart,
            },
            max_mac_overhead: self.max_mac_overhead,
            target_bits: self.target_bits,
            distillation: self.distillation,
            save_activations: match self.save_activations {
                Kept::Full => SaveActivations::Full,
                Kept::Packed => SaveActivations::Packed,
            },
            placement: match self.placement {
                Side::Before => Placement::Before,
                Side::After => Placement::After,
                Side::Auto => Placement::Auto,
            },
            freeze_batch_norm: self.freeze_batch_norm,
        }
    }

    fn observe(&self, moment: Moment<'_>, console: &mut Console) -> Result<()> {
        match moment {
            Moment::Prepared { ready, rows } => show(console, "rows ready", ready, rows),
            Moment::RoundBegins if self.paced => {
                if std::io::stdin().read_line(&mut String::new())? == 0 {
                    return Err(TrainError::Bench {
                        what: "the bench ended early".into(),
                        reason: "standard input ended".into(),
                        help: "with --paced, give a line for each round",
                    }
                    .into());
                }
                Ok(())
            }
            Moment::RoundBegins => Ok(()),
            Moment::RoundEnded { round, rounds, milliseconds } => {
                if self.paced {
                    let times: serde_json::Map<_, _> =
                        milliseconds.iter().map(|(row, ms)| (row.to_string(), json!(ms))).collect();
                    print(&json!({ "round": round, "counts": round >= WARM_UP, "ms": times }).to_string())?;
                }
                show(console, "round", round + 1, rounds)
            }
        }
    }
}

fn show(console: &mut Console, what: &str, done: usize, total: usize) -> Result<()> {
    let (done, total) = (done as u64, total as u64);
    console.event(&Event::Progress { stage: "bench".to_owned(), done, total, what: what.to_owned() })?;
    Ok(())
}

/// Calls this program once more, with its own arguments, for the row whose folder is `state`.
fn peak_in_child(state: &Path) -> Result<Option<u64>> {
    let failed = |reason: String| TrainError::Bench {
        what: format!("the peak memory of `{}` can't be measured", state.file_name().unwrap_or_default().display()),
        reason,
        help: "--no-memory leaves it out",
    };
    let program = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    let output = Command::new(program).args(std::env::args_os().skip(1)).arg("--peak-of").arg(state).output();
    let output = output.map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(if text.is_empty() { output.status.to_string() } else { text }).into());
    }
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))?;
    Ok(found["peak_bytes"].as_u64())
}
