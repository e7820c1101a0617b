use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{SET_OF_RUN, print};
use crate::data::Split;
use crate::export::{Options, onnx, torchscript};
use crate::recipe::Override;
use crate::train::open_run;

/// Writes a finished run as a file that runs without this program: the network with its codecs as plain operations.
#[derive(Debug, Args)]
pub struct Export {
    /// Folder of a finished run.
    run: PathBuf,
    /// Format of the file.
    #[arg(long, value_enum)]
    format: Format,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Fold batch normalisation into the layers before it.
    #[arg(long)]
    fold_batch_norm: bool,
    /// Leave the channel transforms as operations of their own, also where a neighbouring layer could do them along.
    #[arg(long)]
    unfolded: bool,
    #[arg(long = "set", value_name = "KEY.PATH=VALUE", help = SET_OF_RUN)]
    set: Vec<Override>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// TorchScript, for `torch.jit.load` in Python and C++.
    Torchscript,
    /// ONNX of standard operators, for ONNX Runtime and other readers.
    Onnx,
}

impl Export {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let run = open_run(&self.run, &self.set, Split::Validation)?;
        let options = Options { fold_transforms: !self.unfolded, fold_batch_norm: self.fold_batch_norm };
        let written = match self.format {
            Format::Torchscript => torchscript::write(&run, options, &self.out)?,
            Format::Onnx => onnx::write(&run, options, &self.out)?,
        };
        let bytes = std::fs::metadata(&self.out)?.len();
        let transforms = written.sites.iter().filter(|site| site.transform != "none");
        let folded = written.sites.iter().filter(|site| site.folded != "none").count();
        print(&format!(
            "{}: {:.1} MB, {} compressed sites, {:.4} bits per value; {folded} of {} transforms and {} batch normalisations folded",
            self.out.display(),
            bytes as f64 / 1e6,
            written.sites.len(),
            written.bits_per_value,
            transforms.count(),
            written.batch_norms_folded.len(),
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}
