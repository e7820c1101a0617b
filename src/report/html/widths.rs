//! Widths of all sites and groups.

use super::super::SiteRow;
use super::svg::{Svg, WIDTH, escape};

const ROW: f64 = 17.0;
const BAR: f64 = 13.0;
const BARS: (f64, f64) = (116.0, 276.0);
/// Letters of a name that have room before the bars.
const NAME: usize = 18;

/// The colours' meaning.
pub(super) fn legend() -> String {
    let entry = |class: &str, text: &str| format!("<span><i class=\"{class}\"></i>{}</span>", escape(text));
    let mut entries = vec![entry("w0", "dropped")];
    entries.extend((1..=8).map(|bits| entry(&format!("w{bits}"), &bits.to_string())));
    entries.push(entry("w32", "32 (not compressed)"));
    format!("<div class=\"legend\"><span>bits of a code:</span>{}</div>\n", entries.concat())
}

/// The picture: a row for each site, groups in their order.
pub(super) fn widths(sites: &[SiteRow]) -> String {
    let (from, to) = BARS;
    let mut svg = Svg::new(WIDTH, 22.0 + ROW * sites.len() as f64);
    svg.text(0.0, 12.0, "s", "site");
    svg.text(from, 12.0, "s", "groups, as wide as channels");
    svg.text(314.0, 12.0, "s e", "bits");
    svg.text(WIDTH, 12.0, "s e", "share");
    let all: f64 = sites.iter().map(SiteRow::stored_bits).sum();
    for (row, site) in sites.iter().enumerate() {
        let top = 20.0 + ROW * row as f64;
        svg.text(0.0, top + 10.5, "t", &fitting(&site.name));
        let channels: usize = site.groups.iter().map(|group| group.channels).sum();
        if channels == 0 {
            svg.bar(from, top, to - from, BAR, "w32", &format!("{}: not compressed", site.name));
        }
        let mut x = from;
        for group in &site.groups {
            let width = (to - from) * group.channels as f64 / channels as f64;
            let what = if group.bits == 0 {
                "dropped".to_owned()
            } else {
                format!("{} bits, step {:.3}, range {:.3}", group.bits, group.step, group.range)
            };
            let title = format!("{}: {} of {channels} channels {what}", site.name, group.channels);
            // A gap shows where a group ends, also between groups of one width.
            let gap = if width > 2.5 { 0.6 } else { 0.0 };
            svg.bar(x, top, width - gap, BAR, &format!("w{}", group.bits.min(8)), &title);
            if width >= 9.0 {
                let ink = ["pale", "low", "low", "low", "low", "high", "high", "high", "high"];
                let ink = ink.get(group.bits as usize).copied().unwrap_or("high");
                svg.text(x + (width - gap) / 2.0, top + 9.8, &format!("n {ink}"), &group.bits.to_string());
            }
            x += width;
        }
        svg.text(314.0, top + 10.5, "t e", &format!("{:.2}", site.bits_per_value));
        let share = if all > 0.0 { 100.0 * site.stored_bits() / all } else { 0.0 };
        svg.text(WIDTH, top + 10.5, "t e", &format!("{share:.1} %"));
    }
    svg.finish("Bits of every site's groups")
}

/// The end of a name, which tells more than its beginning.
fn fitting(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    match letters.len() > NAME {
        true => std::iter::once(&'…').chain(&letters[letters.len() - NAME + 1..]).collect(),
        false => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(fitting("layer1.0.relu#2"), "layer1.0.relu#2");
        assert_eq!(fitting("backbone.features.17.conv.1.2"), "…tures.17.conv.1.2");
    }
}
