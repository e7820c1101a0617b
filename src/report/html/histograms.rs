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
    let (first, shown) = core(site, total);
    let width = WIDTH / shown.len() as f64;
    for (index, &count) in shown.iter().enumerate().filter(|&(_, &count)| count > 0) {
        let height = (BOTTOM - TOP) * count as f64 / peak as f64;
        let code = first + index as i64;
        let title = format!("code {code}: {:.2} %", 100.0 * count as f64 / total as f64);
        let inner = if width > 3.0 { width - 0.6 } else { width };
        svg.bar(width * index as f64, BOTTOM - height, inner, height, "fa", &title);
    }
    svg.line("axis", [(0.0, BOTTOM), (WIDTH, BOTTOM)]);
    svg.text(0.0, 10.0, "s", &format!("peak {} %", short(((1000 * peak) as f64 / total as f64).round() / 10.0)));
    let last = first + shown.len() as i64 - 1;
    svg.text(0.0, BOTTOM + 13.0, "s", &first.to_string());
    svg.text(WIDTH, BOTTOM + 13.0, "s e", &last.to_string());
    if first < 0 && last > 0 {
        svg.text(width * (-first as f64 + 0.5), BOTTOM + 13.0, "s m", "0");
    }
    svg.finish(&format!("Codes of {}", site.site))
}

/// The first code to show, and the counts from it on: a range around 0 (from 0 on without a sign) that holds 99 % of the
/// codes. A single wide group would otherwise press the others into a line.
fn core(site: &SiteHistogram, total: u64) -> (i64, &[u64]) {
    let zero = usize::from(site.least.min(0).unsigned_abs());
    let radius = site.counts.len().saturating_sub(zero).max(zero + 1);
    let range = |radius: usize| {
        let end = (zero + radius + 1).min(site.counts.len());
        zero.saturating_sub(radius).min(end)..end
    };
    let held = |radius: &usize| 100 * site.counts[range(*radius)].iter().sum::<u64>() >= 99 * total;
    let shown = range((1..radius).find(held).unwrap_or(radius));
    (i64::from(site.least) + shown.start as i64, &site.counts[shown])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tails_of_a_wide_group_are_left_out() {
        let mut counts = vec![0; 255];
        counts[127] = 900;
        counts[125] = 60;
        counts[128] = 35;
        counts[0] = 5;
        let site = SiteHistogram { site: "a".to_owned(), least: -127, counts };
        let (first, shown) = core(&site, 1000);
        assert_eq!((first, shown), (-2, &[60, 0, 900, 35, 0][..]));
        let unsigned = SiteHistogram { site: "b".to_owned(), least: 0, counts: vec![50, 30, 20, 0] };
        assert_eq!(core(&unsigned, 100), (0, &[50, 30, 20][..]));
        let one = SiteHistogram { site: "c".to_owned(), least: 0, counts: vec![7] };
        assert_eq!(core(&one, 7), (0, &[7][..]));
    }
}
