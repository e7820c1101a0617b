//! A report as one HTML page: inline styles and pictures, nothing that a browser would have to fetch. It is XML, too.

mod curves;
mod front;
mod histograms;
mod svg;
mod widths;

use std::fmt::Write;
use std::path::Path;

use super::compare::{CONVENTIONS, Report, RunReport, bytes, digits, times_less};
use super::format::{count, thousands};
use svg::escape;

const STYLE: &str = include_str!("style.css");

/// The page.
pub fn report_page(report: &Report) -> String {
    let runs = &report.runs;
    let heading = match &runs[..] {
        [run] => format!("dimbit: {}", run.folder),
        runs => format!("dimbit: {}", count(runs.len(), "run")),
    };
    let heading = escape(&heading);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{heading}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n"
    );
    results(&mut page, report);
    traffic(&mut page, report);
    let titles = labels(runs);
    for (index, run) in runs.iter().enumerate() {
        let title = escape(&titles[index]);
        match runs.len() {
            1 => page.push_str(&of_run(run)),
            _ => {
                let open = if index == 0 { " open=\"open\"" } else { "" };
                let _ = write!(page, "<details{open}><summary>{title}</summary>\n{}</details>\n", of_run(run));
            }
        }
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn figure(picture: &str, caption: &str) -> String {
    format!("<figure>\n{picture}<figcaption>{caption}</figcaption>\n</figure>\n")
}

/// A table; the first column is a name, the others are numbers.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cell = |tag: &str, column: usize, text: &str| {
        let class = if column == 0 { " class=\"name\"" } else { "" };
        format!("<{tag}{class}>{}</{tag}>", escape(text))
    };
    let line = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: String = cells.enumerate().map(|(column, text)| cell(tag, column, text)).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let head = line("th", &mut head.iter().copied());
    let rows: String = rows.map(|row| line("td", &mut row.iter().map(String::as_str))).collect();
    format!("<div class=\"table\"><table>\n<thead>{head}</thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n")
}

/// A run's number and name: the folder's own name, or the whole path where two runs share a name.
fn labels(runs: &[RunReport]) -> Vec<String> {
    let own = |run: &RunReport| Path::new(&run.folder).file_name().map(|name| name.to_string_lossy().into_owned());
    let label = |(number, run): (usize, &RunReport)| {
        let name = own(run).filter(|name| runs.iter().filter(|other| own(other).as_ref() == Some(name)).count() == 1);
        format!("{number} {}", name.unwrap_or_else(|| run.folder.clone()))
    };
    (1..).zip(runs).map(label).collect()
}

fn results(page: &mut String, report: &Report) {
    page.push_str("<h2>What was reached</h2>\n");
    let rows = labels(&report.runs).into_iter().zip(&report.runs).map(|(label, run)| {
        let summary = &run.summary;
        vec![
            label,
            summary.mode.clone(),
            format!("{:.2}", summary.top1),
            format!("{:.2}", summary.float_top1),
            format!("{:.2}", summary.bits_per_value),
            format!("{:.2}", summary.bits_per_value_stored),
            summary.bits_per_value_entropy.map_or("–".to_owned(), |bits| format!("{bits:.2}")),
        ]
    });
    page.push_str(&table(&["run", "mode", "top-1 %", "float %", "bits", "stored", "entropy"], rows));
    page.push_str(
        "<p class=\"faint\">bits: stored bits over the values of the original tensors (relu convention); stored: over every \
         tensor that a fused kernel reads; entropy: Shannon entropy of the codes.</p>\n",
    );
    let rows = (1..).zip(&report.runs).map(|(number, run)| {
        let summary = &run.summary;
        vec![
            format!("{number}"),
            format!("{:.1}", 100.0 * summary.dropped_fraction),
            thousands(summary.side_information_bytes),
            format!("{:.1}", summary.mac_overhead_percent),
            format!("{:.1}", summary.mac_overhead_unfolded_percent),
        ]
    });
    page.push_str(&table(&["run", "dropped %", "side info bytes", "extra MACs %", "unfolded %"], rows));
    page.push_str(
        "<p class=\"faint\">side info: bases, means, steps and ranges, once for all images; extra MACs: multiply-accumulates \
         of the transforms over the network's own, without what folds into neighbouring layers, and with it (unfolded).</p>\n",
    );
    match front::front(&report.runs) {
        Some(picture) => {
            let different = if report.different_models() {
                " <strong>The runs started from different model files: compare each with its own float network.</strong>"
            } else {
                ""
            };
            let caption = format!(
                "Accuracy against bits per value; higher and further left is better. A numbered disc is a run with codes of \
                 fixed length; the small dot left of it is where the entropy of its codes lies. Dashed: the float network \
                 that a run started from.{different}"
            );
            page.push_str(&figure(&picture, &caption));
        }
        None => page.push_str("<p>No run is compressed: there is no front of accuracy and bits.</p>\n"),
    }
}

fn traffic(page: &mut String, report: &Report) {
    page.push_str("<h2>Memory traffic of one image</h2>\n<div class=\"pair\">\n");
    for name in CONVENTIONS {
        let rows = (1..).zip(&report.runs).map(|(number, run)| {
            let traffic = run.traffic(name);
            vec![
                format!("{number}"),
                bytes(traffic.bytes.float32),
                bytes(traffic.bytes.int8),
                bytes(traffic.bytes.run),
                times_less(traffic.bytes.float32, traffic.bytes.run),
                digits(traffic.dram_microjoules.run),
                bytes(traffic.largest_tensor_bytes.run),
            ]
        });
        let head = ["run", "float32", "8 bits", "this run", "× less", "µJ", "largest"];
        let _ = write!(page, "<div><h3>{name} convention</h3>\n{}</div>\n", table(&head, rows));
    }
    page.push_str("</div>\n");
    for note in report.notes() {
        let _ = writeln!(page, "<p class=\"faint\">{}</p>", escape(&note));
    }
}

fn of_run(run: &RunReport) -> String {
    let mut text = String::new();
    let summary = &run.summary;
    if summary.sites.is_empty() {
        text.push_str("<p>A float run: no site is compressed.</p>\n");
    }
    text.push_str("<div class=\"pair\">\n");
    if !summary.sites.is_empty() {
        let picture = widths::legend() + &widths::widths(&summary.sites);
        text.push_str(&figure(
            &picture,
            "Widths of every site's groups, in the order of the network. A bar is all channels (or coefficients) of a site, a \
             segment one group, its number and colour the bits of a code. bits: stored bits per value of the original \
             tensor; share: of all stored bits.",
        ));
    }
    match curves::curves(&run.timeline, summary.float_top1) {
        Some(picture) => text.push_str(&figure(
            &picture,
            "How the run went. Above: stored bits per value under the budget that falls during the search. Below: accuracy on \
             the validation images, and on the training batches since the last record.",
        )),
        None => text.push_str("<p>No steps are recorded in metrics.jsonl: there is no timeline.</p>\n"),
    }
    text.push_str("</div>\n");
    if !run.histograms.is_empty() {
        let caption = format!(
            "How often each integer code occurs in a site, over all its groups and {}. Across: the code, in \
             the range around 0 that holds 99 % of them; up: its share, with the highest in percent. Groups have steps of their own, so a code stands for another \
             value in each. What is far from flat can be entropy-coded.",
            count(run.histogram_images as usize, "validation image")
        );
        text.push_str(&figure(&histograms::histograms(&run.histograms), &caption));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::compare::samples::{float_run, run};
    use super::*;

    #[test]
    fn a_page_fetches_nothing_and_names_stay_text() {
        let mut strange = run("runs/<b>&\"x\"</b>");
        strange.summary.sites[0].name = "</svg><script>alert(1)</script>".to_owned();
        strange.histograms[0].site = strange.summary.sites[0].name.clone();
        let page = report_page(&Report { runs: vec![strange, float_run()], pj_per_bit: 20.0 });
        for forbidden in ["<script", "<b>", "src=", "href=", "url(", "@import", "http:", "https:"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("A float run"));
        assert_eq!(page.matches("<figure>").count(), page.matches("<figcaption>").count());
    }

    #[test]
    fn numbers_that_are_not_there_make_no_picture_ugly() {
        let mut empty = run("a");
        empty.summary.top1 = f64::NAN;
        empty.summary.float_top1 = f64::NAN;
        empty.timeline = Default::default();
        for site in &mut empty.histograms {
            site.counts.fill(0);
        }
        let page = report_page(&Report { runs: vec![empty], pj_per_bit: 20.0 });
        assert!(page.contains("all dropped") && page.contains("no timeline") && page.contains("there is no front"));
        for picture in page.split("<svg").skip(1) {
            assert!(!picture.split("</svg>").next().unwrap().contains("NaN"), "{picture}");
        }
    }
}
