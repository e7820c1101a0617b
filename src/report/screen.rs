//! Standard error as a surface: lines that stay, and on a terminal one line that moves.

use std::env;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Terminal codes (SGR) of the few colours.
#[derive(Debug, Clone, Copy)]
pub(super) enum Paint {
    Bold = 1,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

/// Where the console writes. What can't be written is passed over.
pub(super) struct Screen {
    out: Box<dyn Write>,
    /// Where the moving line is drawn; none for plain lines.
    target: Option<fn() -> ProgressDrawTarget>,
    bar: Option<ProgressBar>,
}

impl Screen {
    /// Standard error: with colours and a moving line on a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    pub(super) fn stderr() -> Screen {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
        let moving = io::stderr().is_terminal() && !no_color && !dumb;
        let target = moving.then_some(ProgressDrawTarget::stderr as fn() -> ProgressDrawTarget);
        Screen::new(Box::new(io::stderr()), target)
    }

    /// Any other surface; with a target, it is treated as a terminal.
    pub(super) fn new(out: Box<dyn Write>, target: Option<fn() -> ProgressDrawTarget>) -> Screen {
        Screen { out, target, bar: None }
    }

    /// Whether there is a line that moves.
    pub(super) fn moves(&self) -> bool {
        self.target.is_some()
    }

    /// The moving line, while it stands.
    #[cfg(test)]
    pub(super) fn bar(&self) -> Option<ProgressBar> {
        self.bar.clone()
    }

    /// Writes a line that stays, above the moving one.
    pub(super) fn line(&mut self, text: &str) {
        let out = &mut self.out;
        let mut write = || {
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Wraps a text into a colour or weight, where there are any.
    pub(super) fn paint(&self, paint: Paint, text: &str) -> String {
        if self.moves() { format!("\x1b[{}m{text}\x1b[0m", paint as u8) } else { text.to_owned() }
    }

    /// Sets the moving line, if there is one: a label, and a text that is cut where the terminal ends.
    pub(super) fn follow(&mut self, label: &str, text: &str) {
        let Some(target) = self.target else { return };
        let bar = self.bar.get_or_insert_with(|| moving_line(target()));
        if bar.prefix() != label {
            bar.set_prefix(label.to_owned());
        }
        bar.set_message(text.to_owned());
    }

    /// Takes the moving line away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Screen {
    /// An error's message must not stand beside the rest of a moving line.
    fn drop(&mut self) {
        self.clear();
    }
}

/// What the moving line is made of. No drawn bar: on 80 columns the numbers need the room.
const MOVING_LINE: &str = "{prefix:.bold}  {wide_msg}";

fn moving_line(target: ProgressDrawTarget) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target);
    match ProgressStyle::with_template(MOVING_LINE) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moving_lines_template_is_valid() {
        let mut screen = Screen::new(Box::new(io::sink()), Some(ProgressDrawTarget::hidden));
        screen.follow("a", "b");
        let bar = screen.bar().unwrap();
        assert_eq!((bar.prefix(), bar.message()), ("a".to_owned(), "b".to_owned()));
        assert!(ProgressStyle::with_template(MOVING_LINE).is_ok());
        drop(screen);
        assert!(bar.is_finished());
    }

    #[test]
    fn a_closed_screen_stops_nothing() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
        }
        let mut screen = Screen::new(Box::new(Closed), None);
        screen.line("x");
        screen.follow("a", "b");
        assert!(screen.bar().is_none());
    }
}
