//! Tables for the end of a run and for the inspection of a model.

use serde::Serialize;

use super::format::{count, duration, part, rate, shape, thousands};
use super::layout::{Align, Grid};
use super::summary::FLOAT_BITS;
use super::{GroupRow, SiteRow, Summary};

/// The widest that a table gets with usual names, in characters.
const WIDTH: usize = 110;

/// One site of a model that is being inspected.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InspectRow {
    /// The site's name, such as `layer1.0.relu`.
    pub name: String,
    /// What produces it, such as `relu` or `relu6`.
    pub kind: String,
    /// Shape of the tensor of one image: `[channels, height, width]`, or `[features]`.
    pub shape: Vec<i64>,
    /// Number of values of that tensor.
    pub values: u64,
    /// `values` / the values of all sites, from 0 to 1.
    pub share: f64,
    /// Which halves of a channel transform fold into the layers around it: `fwd`, `inv`, both or neither.
    pub folds: &'static str,
}

/// A finished run for reading: every site with its groups (`12×4b` is 12 channels of 4 bits; `0b` is dropped), then the totals.
///
/// Plain text without colours, at most 110 columns with usual names; ends in a newline.
pub fn final_table(summary: &Summary) -> String {
    let mut text = String::new();
    if !summary.sites.is_empty() {
        text.push_str(&sites(summary));
        text.push('\n');
    }
    text.push_str(&totals(summary));
    text
}

fn sites(summary: &Summary) -> String {
    use Align::{Left, Right};

    let stored = |site: &SiteRow| site.values as f64 * site.bits_per_value;
    let all_bits: f64 = summary.sites.iter().map(stored).sum();
    let mut grid = Grid::new(&[Left, Left, Left, Left, Right, Right]).breaking(3, WIDTH);
    grid.row(["site", "shape", "transform", "groups", "bits/value", "share"]);
    grid.rule();
    for site in &summary.sites {
        grid.row([
            site.name.clone(),
            shape(&site.shape),
            site.transform.clone(),
            if site.is_left_out() { "left out".to_owned() } else { groups(&site.groups) },
            format!("{:.2}", site.bits_per_value),
            percent(stored(site) / all_bits),
        ]);
    }
    grid.rule();
    let compressed = summary.sites.iter().filter(|site| !site.is_left_out()).count();
    grid.row([
        part(compressed, summary.sites.len(), "site"),
        String::new(),
        String::new(),
        format!("{} values", thousands(summary.values)),
        format!("{:.2}", summary.bits_per_value),
        percent(1.0),
    ]);
    grid.render()
}

fn totals(summary: &Summary) -> String {
    let float = summary.sites.is_empty();
    let mut grid = Grid::new(&[Align::Left, Align::Right, Align::Left]);
    let mut total = |label: &str, number: String, note: String| grid.row([label.to_owned(), number, note]);

    total(
        "top-1",
        format!("{:.2} %", summary.top1),
        format!(
            "float {:.2} %, {:+.2} points",
            summary.float_top1,
            // Adding zero turns a negative zero into a positive one.
            ((summary.top1 - summary.float_top1) * 100.0).round() / 100.0 + 0.0
        ),
    );
    total(
        "bits per value",
        format!("{:.2}", summary.bits_per_value),
        if float {
            "not compressed".to_owned()
        } else {
            let target = match summary.target_bits {
                Some(target) => format!("target {target:.2}, "),
                None => String::new(),
            };
            let factor = FLOAT_BITS / summary.bits_per_value;
            format!("{target}{factor:.1} times smaller than 32-bit floats")
        },
    );
    if !float {
        total(
            "  stored convention",
            format!("{:.2}", summary.bits_per_value_stored),
            "every tensor that a fused kernel reads from memory".to_owned(),
        );
        if let Some(entropy) = summary.bits_per_value_entropy {
            total("  entropy", format!("{entropy:.2}"), "Shannon entropy of the integer codes".to_owned());
        }
        total("dropped", percent(summary.dropped_fraction), "of the values".to_owned());
        total("side information", thousands(summary.side_information_bytes), "bytes".to_owned());
        total(
            "extra compute",
            format!("{:.1} %", summary.mac_overhead_percent),
            format!(
                "of the network's {} multiply-accumulates ({:.1} % unfolded)",
                thousands(summary.macs),
                summary.mac_overhead_unfolded_percent
            ),
        );
    }
    total("time", duration(summary.seconds), format!("{} images/s", rate(summary.images_per_second)));
    let heading = format!("{} · {} · seed {}\n", summary.mode, summary.status.words(), summary.seed);
    heading + &grid.render()
}

/// The sites of a model for reading, with the network's totals. Without any fold, the table has no column for them.
///
/// `total_values` and `macs` are per image. Plain text without colours, at most 110 columns with usual names; ends in a newline.
pub fn inspect_table(sites: &[InspectRow], total_values: u64, macs: u64, parameters: u64) -> String {
    use Align::{Left, Right};

    let folds = sites.iter().any(|site| !site.folds.is_empty());
    let columns = if folds { 6 } else { 5 };
    let mut grid = Grid::new(&[Left, Left, Left, Right, Right, Left][..columns]);
    grid.row(["site", "kind", "shape", "values", "share", "folds"][..columns].iter().copied());
    grid.rule();
    for site in sites {
        grid.row([
            site.name.clone(),
            site.kind.clone(),
            shape(&site.shape),
            thousands(site.values),
            percent(site.share),
            site.folds.to_owned(),
        ]);
    }
    grid.rule();
    grid.row([
        count(sites.len(), "site"),
        String::new(),
        String::new(),
        thousands(total_values),
        percent(sites.iter().map(|site| site.share).sum()),
    ]);

    let mut network = Grid::new(&[Left, Right]);
    network.row(["multiply-accumulates", &thousands(macs)]);
    network.row(["parameters", &thousands(parameters)]);
    format!("{}\n{}", grid.render(), network.render())
}

/// The groups as words: channels × bits each.
fn groups(groups: &[GroupRow]) -> String {
    let groups: Vec<String> = groups.iter().map(|group| format!("{}×{}b", group.channels, group.bits)).collect();
    groups.join(" ")
}

/// A fraction in percent; a dash for 0 / 0, the share of nothing.
fn percent(fraction: f64) -> String {
    if fraction.is_nan() {
        return "–".to_owned();
    }
    format!("{:.1} %", fraction * 100.0)
}

#[cfg(test)]
mod tests {
    use super::super::events::samples::{group, site};
    use super::super::summary::samples::{float_summary, summary};
    use super::*;

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap()
    }

    #[test]
    fn a_joint_run_reads_like_this() {
        let expected = "\
site           shape       transform  groups             bits/value    share
────────────────────────────────────────────────────────────────────────────
relu           64x112x112  pca        12×4b 20×3b 32×0b        1.69   70.1 %
layer1.0.relu  64x56x56    none       40×3b 24×2b              2.62   27.3 %
layer4.1.relu  512x7x7     pca        512×2b                   2.00    2.6 %
────────────────────────────────────────────────────────────────────────────
3 sites                               1,028,608 values         1.88  100.0 %

joint · complete · seed 0
top-1                   92.60 %  float 93.10 %, -0.50 points
bits per value             1.88  target 2.16, 17.0 times smaller than 32-bit floats
  stored convention        2.60  every tensor that a fused kernel reads from memory
  entropy                  1.71  Shannon entropy of the integer codes
dropped                  41.0 %  of the values
side information         41,000  bytes
extra compute            12.3 %  of the network's 1,814,073,344 multiply-accumulates (20.5 % unfolded)
time                 7 min 11 s  812 images/s
";
        assert_eq!(final_table(&summary()), expected);
    }

    #[test]
    fn a_float_run_claims_nothing_about_bits() {
        let expected = "\
float · complete · seed 0
top-1              93.10 %  float 93.10 %, +0.00 points
bits per value       32.00  not compressed
time            7 min 11 s  812 images/s
";
        assert_eq!(final_table(&float_summary()), expected);
    }

    #[test]
    fn many_groups_are_broken_and_stay_within_the_width() {
        let mut summary = summary();
        let groups: Vec<GroupRow> = (0..24).map(|bits| group(40, bits % 9)).collect();
        summary.sites.push(site("features.17.conv.1.2", &[960, 14, 14], "pca-block", groups));
        let text = final_table(&summary);
        assert!(widest(&text) <= WIDTH, "{text}");
        assert_eq!(text.matches("40×").count(), 25);
    }

    #[test]
    fn a_site_that_is_left_out_is_shown_and_not_counted_as_compressed() {
        let mut summary = summary();
        summary.sites[1].groups.clear();
        let text = final_table(&summary);
        let row = text.lines().find(|line| line.starts_with("layer1.0.relu")).unwrap();
        assert!(row.contains("none") && row.contains("left out"), "{text}");
        assert!(text.contains("2 of 3 sites"), "{text}");
    }

    #[test]
    fn numbers_that_are_not_there_do_not_break_the_table() {
        let mut summary = summary();
        for site in &mut summary.sites {
            site.bits_per_value = 0.0;
        }
        summary.top1 = f64::NAN;
        summary.seconds = f64::NAN;
        let text = final_table(&summary);
        assert!(text.contains('–') && widest(&text) <= WIDTH, "{text}");
    }

    #[test]
    fn an_inspection_reads_like_this() {
        let row = |name: &str, shape: &[i64], share, folds| InspectRow {
            name: name.to_owned(),
            kind: "relu".to_owned(),
            shape: shape.to_vec(),
            values: shape.iter().product::<i64>() as u64,
            share,
            folds,
        };
        let mut rows = [row("relu", &[64, 112, 112], 0.8, ""), row("layer1.0.relu", &[64, 56, 56], 0.2, "")];
        let expected = "\
site           kind  shape          values    share
───────────────────────────────────────────────────
relu           relu  64x112x112    802,816   80.0 %
layer1.0.relu  relu  64x56x56      200,704   20.0 %
───────────────────────────────────────────────────
2 sites                          1,003,520  100.0 %

multiply-accumulates  1,814,073,344
parameters               11,689,512
";
        assert_eq!(inspect_table(&rows, 1_003_520, 1_814_073_344, 11_689_512), expected);

        rows[0].folds = "fwd inv";
        let expected = "\
site           kind  shape          values    share  folds
────────────────────────────────────────────────────────────
relu           relu  64x112x112    802,816   80.0 %  fwd inv
layer1.0.relu  relu  64x56x56      200,704   20.0 %
────────────────────────────────────────────────────────────
2 sites                          1,003,520  100.0 %
";
        assert!(inspect_table(&rows, 1_003_520, 1_814_073_344, 11_689_512).starts_with(expected));
    }
}
