//! How often each code of a site occurs.

use super::super::SiteHistogram;
use super::svg::{Svg, escape, short};

const WIDTH: f64 = 160.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 70.0;

/// A small picture for each site.
pub(super) fn histograms(sites: &[SiteHistogram]) -> String {
    let cells = sites.iter().map(|site| {
        let name = escape(&site.site);
        format!("<div><div class=\"name\">{name}</div>{}</div>\n", histogram(site))
    });
    format!("<div class=\"small\">\n{}</div>\n", cells.collect::<String>())
}

fn histogram(site: &SiteHistogram) -> String {
    let mut svg = Svg::new(WIDTH, BOTTOM + 16.0);
    let total: u64 = site.counts.iter().sum();
    let Some(&peak) = site.counts.iter().max().filter(|_| total > 0) else {
        svg.text(WIDTH / 2.0, 45.0, "s m", "all dropped");
        return svg.finish("No codes");
    };
    let width = WIDTH / site.counts.len() as f64;
    for (index, &count) in site.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
        let height = (BOTTOM - TOP) * count as f64 / peak as f64;
        let code = i64::from(site.least) + index as i64;
        let title = format!("code {code}: {:.2} %", 100.0 * count as f64 / total as f64);
        let inner = if width > 3.0 { width - 0.6 } else { width };
        svg.bar(width * index as f64, BOTTOM - height, inner, height, "fa", &title);
    }
    svg.line("axis", [(0.0, BOTTOM), (WIDTH, BOTTOM)]);
    svg.text(0.0, 10.0, "s", &format!("peak {} %", short(((1000 * peak) as f64 / total as f64).round() / 10.0)));
    let most = i64::from(site.least) + site.counts.len() as i64 - 1;
    svg.text(0.0, BOTTOM + 13.0, "s", &site.least.to_string());
    svg.text(WIDTH, BOTTOM + 13.0, "s e", &most.to_string());
    if site.least < 0 && most > 0 {
        svg.text(width * (f64::from(-site.least) + 0.5), BOTTOM + 13.0, "s m", "0");
    }
    svg.finish(&format!("Codes of {}", site.site))
}
