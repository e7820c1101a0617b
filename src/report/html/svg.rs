//! What the pictures share: escaping, axes, lines and labels.
//!
//! A picture is drawn 360 units wide and shown from 340 to 560 pixels wide, so that its text stays readable on a phone.

use std::fmt::Write;

/// Width of a picture.
pub(super) const WIDTH: f64 = 360.0;
/// Where a chart's panel begins and ends.
pub(super) const LEFT: f64 = 40.0;
pub(super) const RIGHT: f64 = 350.0;

/// A text for HTML, in content as well as in attributes. Control characters, which XML forbids, become `�`.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            letter if letter.is_control() || letter == '\u{fffe}' || letter == '\u{ffff}' => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// An axis: from numbers to positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Axis {
    /// A linear axis that reaches from `low` to `high`; something more if they are equal.
    pub fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from, to, log: false }
    }

    /// A logarithmic axis between positive numbers, an octave and a half at least.
    pub fn log(low: f64, high: f64, from: f64, to: f64) -> Self {
        let room = (2.83 / (high / low)).max(1.0).sqrt();
        Self { low: low / room, high: high * room, from, to, log: true }
    }

    /// Where a number stands.
    pub fn at(&self, number: f64) -> f64 {
        let part = match self.log {
            true => (number / self.low).ln() / (self.high / self.low).ln(),
            false => (number - self.low) / (self.high - self.low),
        };
        self.from + (self.to - self.from) * part
    }

    /// Round numbers to write at the axis.
    pub fn ticks(&self) -> Vec<f64> {
        if self.log {
            let all = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0];
            return all.into_iter().filter(|tick| (self.low..=self.high).contains(tick)).collect();
        }
        let rough = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|&step| step >= rough);
        let step = step.unwrap_or(10.0 * power);
        let first = (self.low / step - 1e-9).ceil() as i64;
        (first..).map(|k| k as f64 * step).take_while(|&tick| tick <= self.high + 1e-9 * step).take(12).collect()
    }
}

/// A number as short as can be.
pub(super) fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// A picture in the making.
pub(super) struct Svg {
    body: String,
    height: f64,
    width: f64,
}

impl Svg {
    /// An empty picture.
    pub fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), height, width }
    }

    /// A text whose baseline begins (or, by the class `m` or `e`, is centred or ends) at a point.
    pub fn text(&mut self, x: f64, y: f64, class: &str, content: &str) {
        let content = escape(content);
        let _ = writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{content}</text>");
    }

    /// A line through points; nothing for none.
    pub fn line(&mut self, class: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        let points: Vec<String> = points.into_iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        if !points.is_empty() {
            let _ = writeln!(self.body, "<polyline points=\"{}\" class=\"{class}\"/>", points.join(" "));
        }
    }

    /// A disc; `title` is shown when it is pointed at.
    pub fn disc(&mut self, x: f64, y: f64, radius: f64, class: &str, title: &str) {
        let title = escape(title);
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" class=\"{class}\"><title>{title}</title></circle>"
        );
    }

    /// A rectangle; `title` is shown when it is pointed at.
    pub fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str, title: &str) {
        let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" class=\"{class}\">{title}</rect>"
        );
    }

    /// Lines and numbers of a vertical axis at the left of the panel.
    pub fn vertical(&mut self, axis: &Axis) {
        for tick in axis.ticks() {
            let y = axis.at(tick);
            self.line("grid", [(LEFT, y), (RIGHT, y)]);
            self.text(LEFT - 6.0, y + 4.0, "s e", &short(tick));
        }
    }

    /// Numbers of a horizontal axis at `y`, where they have room, with the axis and its label below.
    pub fn horizontal(&mut self, axis: &Axis, y: f64, label: &str) {
        let mut free = f64::NEG_INFINITY;
        for tick in axis.ticks() {
            let (x, text) = (axis.at(tick), short(tick));
            let half = 3.4 * text.len() as f64;
            self.line("axis", [(x, y), (x, y + 4.0)]);
            // A number at the very edge would be cut off.
            if x - half > free && x + half <= WIDTH {
                self.text(x, y + 16.0, "s m", &text);
                free = x + half + 6.0;
            }
        }
        self.line("axis", [(LEFT, y), (RIGHT, y)]);
        self.text((LEFT + RIGHT) / 2.0, y + 32.0, "s m", label);
    }

    /// The picture; `label` tells what it shows to those who can't see it.
    pub fn finish(self, label: &str) -> String {
        let Self { body, width, height } = self;
        let label = escape(label);
        format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">\n{body}</svg>\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_files_are_text() {
        assert_eq!(
            escape("<script>\"a\" & 'b'</script>\u{7}"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;\u{fffd}"
        );
    }

    #[test]
    fn axes_have_round_ticks() {
        let texts = |axis: Axis| axis.ticks().into_iter().map(short).collect::<Vec<_>>();
        assert_eq!(texts(Axis::linear(0.0, 270.0, 0.0, 1.0)), ["0", "100", "200"]);
        assert_eq!(texts(Axis::linear(84.0, 89.0, 0.0, 1.0)), ["84", "85", "86", "87", "88", "89"]);
        assert_eq!(texts(Axis::linear(5.0, 5.0, 0.0, 1.0)), ["5", "5.2", "5.4", "5.6", "5.8", "6"]);
        assert_eq!(texts(Axis::log(0.6, 2.16, 0.0, 1.0)), ["0.7", "1", "1.5", "2"]);
        // Equal numbers stand in the middle.
        assert!((Axis::log(2.0, 2.0, 0.0, 1.0).at(2.0) - 0.5).abs() < 1e-12);
    }
}
