use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;
use tch::Device;

use super::{print, value};
use crate::libtorch::set_deterministic;
use crate::model::Site;
use crate::recipe::InputShape;
use crate::report::{InspectRow, inspect_table};
use crate::train::load_model;

/// Lists the sites of a TorchScript network: the activation tensors that dimbit compresses.
///
/// The column `folds` says which halves of a site's channel transform cost nothing, as a neighbouring layer takes them over
/// exactly: `fwd`, the transform itself, by the layers before the activation function (with the placement `before`); `inv`,
/// the way back, by the layers that read the site (with the placement `after`). Empty: both halves are computed.
#[derive(Debug, Args)]
pub struct Inspect {
    /// TorchScript file, scripted or traced.
    model: PathBuf,
    /// Shape of one input image: channels, height, width, such as 3x224x224.
    #[arg(long, value_name = "CxHxW", value_parser = value::<InputShape>)]
    input: InputShape,
    /// What counts as an activation tensor: outputs of activation functions, or what a device with fused kernels stores.
    #[arg(long, value_enum, default_value_t = Convention::Relu)]
    convention: Convention,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Convention {
    /// Every output of an activation function.
    Relu,
    /// Every tensor that a conv or linear layer, an average pool or a residual add reads when conv + BN + (add) + activation
    /// are one kernel.
    Stored,
}

impl Inspect {
    pub(super) fn run(&self) -> Result<ExitCode> {
        set_deterministic(0)?;
        let model = load_model(&self.model, self.input, Device::Cpu)?;
        let rows: Vec<(String, String, Vec<i64>, usize)> = match self.convention {
            Convention::Relu => {
                let row = |s: &Site| (s.name.clone(), s.kind.clone(), s.shape.clone(), s.values());
                model.sites.iter().map(row).collect()
            }
            Convention::Stored => model
                .stored
                .iter()
                .map(|t| {
                    let kind = t.site.map_or("uncovered", |site| model.sites[site].kind.as_str());
                    (t.name.clone(), kind.to_owned(), t.shape.clone(), t.values())
                })
                .collect(),
        };
        let total: usize = rows.iter().map(|row| row.3).sum();
        let share = |values: usize| values as f64 / total.max(1) as f64;
        if self.json {
            let sites: Vec<_> = rows
                .iter()
                .enumerate()
                .map(|(index, (name, kind, shape, values))| {
                    let mut site =
                        json!({"name": name, "kind": kind, "shape": shape, "values": values, "share": share(*values)});
                    if self.convention == Convention::Relu {
                        site["producer"] = json!(model.sites[index].producer);
                        site["consumers"] = json!(model.sites[index].consumers);
                        site["folds_forward"] = json!(model.sites[index].folds_forward);
                        site["folds_inverse"] = json!(model.sites[index].folds_inverse);
                    }
                    site
                })
                .collect();
            let all = json!({
                "sites": sites, "total_values": total, "macs": model.macs, "parameters": model.parameters,
                "classes": model.classes,
            });
            print(&format!("{all:#}"))?;
        } else {
            let rows: Vec<InspectRow> = rows
                .into_iter()
                .enumerate()
                .map(|(index, (name, kind, shape, values))| InspectRow {
                    name,
                    kind,
                    shape,
                    values: values as u64,
                    share: share(values),
                    folds: match self.convention {
                        Convention::Relu => folds(&model.sites[index]),
                        Convention::Stored => "",
                    },
                })
                .collect();
            print(&inspect_table(&rows, total as u64, model.macs, model.parameters))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The halves of a channel transform that the layers around a site absorb.
fn folds(site: &Site) -> &'static str {
    match (site.folds_forward, site.folds_inverse) {
        (true, true) => "fwd inv",
        (true, false) => "fwd",
        (false, true) => "inv",
        (false, false) => "",
    }
}
