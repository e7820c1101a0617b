//! What a person sees while a run goes on.

use std::collections::HashSet;

use super::format::{clock, thousands};
use super::pace::Pace;
use super::screen::{Paint, Screen};
use super::{Event, ReportError, Sink, Status, words};

/// How much the console shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// Warnings alone.
    Quiet,
    /// Progress, evaluations and stages as well.
    #[default]
    Normal,
}

/// Shows a run on standard error; standard output is kept for results.
///
/// On a terminal, one line follows the current stage and goes when the stage ends; what is worth keeping (the run's start, evaluations,
/// ends of stages, warnings) scrolls by above it. Elsewhere, with `NO_COLOR` set, or with `TERM=dumb`, everything is plain lines,
/// about ten a stage. A warning is shown once, however often it comes.
///
/// What can't be shown is passed over: a closed terminal is no reason to lose a run of hours.
pub struct Console {
    screen: Screen,
    verbosity: Verbosity,
    stage: Stage,
    warned: HashSet<String>,
}

/// The stage that is being run. Before the first one it has no place among the stages.
#[derive(Default)]
struct Stage {
    name: String,
    place: Option<(usize, usize)>,
    /// Optimizer steps; 0 for a stage that only measures.
    steps: u64,
    step_pace: Pace,
    /// The pass that goes on now, or the last one.
    pass: String,
    pass_pace: Pace,
}

impl Stage {
    fn label(&self) -> String {
        match self.place {
            Some((index, stages)) => format!("[{}/{stages}] {}", index + 1, self.name),
            None => self.name.clone(),
        }
    }

    /// Takes the name that an event outside of any stage gives.
    fn name_if_outside(&mut self, name: &str) {
        if self.place.is_none() {
            self.name = name.to_owned();
        }
    }
}

impl Console {
    /// The console on standard error.
    pub fn stderr(verbosity: Verbosity) -> Console {
        Console::new(Screen::stderr(), verbosity)
    }

    fn new(screen: Screen, verbosity: Verbosity) -> Console {
        Console { screen, verbosity, stage: Stage::default(), warned: HashSet::new() }
    }

    /// Writes a line under the stage's name.
    fn stage_line(&mut self, text: &str) {
        let label = self.screen.paint(Paint::Bold, &self.stage.label());
        self.screen.line(&format!("{label}  {text}"));
    }

    /// Goes on in the stage's steps.
    fn step(&mut self, done: u64, total: u64, text: String) {
        let pace = self.stage.step_pace.next(done, total);
        self.advance("step", done, total, pace, text);
    }

    /// Goes on in a pass that takes no steps.
    fn pass(&mut self, what: &str, done: u64, total: u64) {
        if self.stage.pass != what {
            self.stage.pass = what.to_owned();
            self.stage.pass_pace = Pace::default();
        }
        let pace = self.stage.pass_pace.next(done, total);
        // In plain lines the passes within a stage of steps are told by their result alone.
        if self.screen.moves() || self.stage.steps == 0 {
            self.advance(what, done, total, pace, String::new());
        }
    }

    /// Moves the line on a terminal; elsewhere writes one if a further tenth is reached.
    fn advance(&mut self, what: &str, done: u64, total: u64, (left, further): (Option<f64>, bool), text: String) {
        let moves = self.screen.moves();
        if !moves && !further {
            return;
        }
        let mut count = format!("{what} {}/{}", thousands(done), thousands(total));
        if !moves {
            let percent = u128::from(done) * 100 / u128::from(total.max(1));
            count.push_str(&format!(" ({percent} %)"));
        }
        // What may be cut at a terminal's edge stands last.
        let mut parts = vec![count];
        parts.extend(left.map(|left| format!("{} left", clock(left))));
        parts.extend((!text.is_empty()).then_some(text));
        let text = parts.join("  ");
        if moves {
            self.screen.follow(&self.stage.label(), &text);
        } else {
            self.stage_line(&text);
        }
    }

    fn show(&mut self, event: &Event) {
        let text = words::text(event).unwrap_or_default();
        match event {
            Event::RunStarted { name, .. } => {
                let name = self.screen.paint(Paint::Bold, name);
                self.screen.line(&format!("{name}: {text}"));
            }
            Event::Resumed { stage, index, stages, stage_steps, .. } => {
                let place = stage.is_some().then_some((*index, *stages));
                let name = stage.clone().unwrap_or_else(|| "result".to_owned());
                self.stage = Stage { name, place, steps: *stage_steps, ..Stage::default() };
                self.stage_line(&text);
            }
            Event::StageStarted { stage, index, stages, steps, .. } => {
                self.screen.clear();
                self.stage =
                    Stage { name: stage.clone(), place: Some((*index, *stages)), steps: *steps, ..Stage::default() };
                // On a terminal the moving line says as much.
                if !self.screen.moves() && !text.is_empty() {
                    self.stage_line(&text);
                }
            }
            Event::Step { stage_step, stage_steps, .. } => self.step(*stage_step, *stage_steps, text),
            Event::Progress { stage, done, total, what } => {
                self.stage.name_if_outside(stage);
                self.pass(what, *done, *total);
            }
            Event::Calibrated { .. } | Event::Revived { .. } => self.stage_line(&text),
            Event::Evaluated { stage, .. } => {
                self.stage.name_if_outside(stage);
                let text = self.screen.paint(Paint::Green, &text);
                self.stage_line(&format!("validation {text}"));
            }
            Event::StageEnded { .. } => {
                self.screen.clear();
                self.stage_line(&text);
            }
            Event::Finished { summary } => {
                self.screen.clear();
                let code = if summary.status == Status::Complete { Paint::Green } else { Paint::Red };
                let status = self.screen.paint(code, summary.status.words());
                self.screen.line(&format!("{status}: {text}"));
            }
            Event::Warning { .. } => {
                let warning = self.screen.paint(Paint::Yellow, "warning:");
                self.screen.line(&format!("{warning} {text}"));
            }
            // These are for the files; the widths are shown by the end's table.
            Event::Widths { .. } | Event::Codes { .. } => {}
        }
    }
}

impl Sink for Console {
    fn event(&mut self, event: &Event) -> Result<(), ReportError> {
        let wanted = match event {
            Event::Warning { message } => self.warned.insert(message.clone()),
            _ => self.verbosity == Verbosity::Normal,
        };
        if wanted {
            self.show(event);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ReportError> {
        self.screen.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::events::samples::*;
    use super::super::summary::samples::summary;
    use super::*;
    use indicatif::ProgressDrawTarget;
    use std::cell::RefCell;
    use std::io::{self, Write};
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Paper(Rc<RefCell<Vec<u8>>>);

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn show(console: &mut Console, events: &[Event]) {
        for event in events {
            console.event(event).unwrap();
        }
    }

    /// What is shown of the events, on a terminal or elsewhere.
    fn shown(terminal: bool, verbosity: Verbosity, events: &[Event]) -> String {
        let paper = Paper::default();
        let target = terminal.then_some(ProgressDrawTarget::hidden as fn() -> ProgressDrawTarget);
        let mut console = Console::new(Screen::new(Box::new(paper.clone()), target), verbosity);
        show(&mut console, events);
        console.finish().unwrap();
        paper.text()
    }

    fn warning(message: &str) -> Event {
        Event::Warning { message: message.to_owned() }
    }

    fn progress(done: u64, total: u64) -> Event {
        Event::Progress { stage: "search".to_owned(), done, total, what: "measuring".to_owned() }
    }

    fn evaluated() -> Event {
        Event::Evaluated {
            step: 1300,
            stage: "search".to_owned(),
            top1: 91.2,
            loss: 0.27125,
            images: 10_000,
            bits: Some(3.21),
        }
    }

    fn ended() -> [Event; 2] {
        [
            Event::StageEnded { stage: "search".to_owned(), seconds: 130.0 },
            Event::Finished { summary: Box::new(summary()) },
        ]
    }

    #[test]
    fn plain_lines_read_like_this() {
        let started = Event::RunStarted {
            name: "demo".to_owned(),
            mode: "joint".to_owned(),
            device: "cpu".to_owned(),
            seed: 7,
            model: "resnet18.pt".to_owned(),
            sites: 17,
            left_out: 0,
            values: 2_308_096,
            parameters: 11_689_512,
            macs: 1_814_073_344,
        };
        let calibrated = Event::Calibrated {
            images: 4096,
            sites: vec![site("relu", &[64, 2, 2], "pca", vec![group(32, 4), group(32, 0)])],
        };
        let mut events = vec![started, stage_started(1200), calibrated, step(1, 1200, 0.5), evaluated()];
        events.extend(ended());
        let expected = "\
demo: mode joint, device cpu, seed 7
resnet18.pt: 17 sites, 2,308,096 values an image, 11,689,512 parameters, 1,814,073,344 multiply-accumulates
[2/4] search  1,200 steps, 3 epochs
[2/4] search  calibrated on 4,096 images: 1 site, 2.00 bits/value, 50.0 % dropped
[2/4] search  step 1/1,200 (0 %)  loss 0.7500  top-1 87.21 %  bits 4.32/4.50  1,812 images/s
[2/4] search  validation top-1 91.20 %  loss 0.2712  3.21 bits/value  (10,000 images)
[2/4] search  done in 2 min 10 s
complete: top-1 92.60 % (float 93.10 %) at 1.88 bits/value in 7 min 11 s
";
        assert_eq!(shown(false, Verbosity::Normal, &events), expected);
    }

    #[test]
    fn sites_that_are_left_out_are_not_counted_as_compressed() {
        let started = Event::RunStarted {
            name: "x".to_owned(),
            mode: "joint".to_owned(),
            device: "cpu".to_owned(),
            seed: 0,
            model: "m.pt".to_owned(),
            sites: 65,
            left_out: 16,
            values: 9,
            parameters: 1,
            macs: 1,
        };
        let rows = vec![site("a", &[4], "none", vec![group(4, 4)]), site("b", &[4], "none", vec![])];
        let said = shown(false, Verbosity::Normal, &[started, Event::Calibrated { images: 8, sites: rows }]);
        assert!(said.contains("m.pt: 49 of 65 sites, ") && said.contains("8 images: 1 of 2 sites, "), "{said}");
    }

    #[test]
    fn a_resumed_run_says_where_it_goes_on() {
        let resumed = |stage: Option<&str>, stage_steps| Event::Resumed {
            stage: stage.map(str::to_owned),
            index: 2,
            stages: 4,
            stage_step: 600,
            stage_steps,
            step: 1600,
        };
        let text = shown(false, Verbosity::Normal, &[resumed(Some("search"), 1200), evaluated()]);
        assert!(text.starts_with("[3/4] search  goes on after step 1,600, step 600/1,200 of the stage\n"), "{text}");
        assert!(text.contains("[3/4] search  validation"), "{text}");
        assert_eq!(shown(false, Verbosity::Normal, &[resumed(None, 0)]), "result  goes on after step 1,600\n");
    }

    #[test]
    fn a_stage_takes_about_ten_plain_lines() {
        let mut events = vec![stage_started(997)];
        events.extend((1..=997).map(|done| step(done, 997, 0.5)));
        let text = shown(false, Verbosity::Normal, &events);
        assert_eq!(text.matches(" step ").count(), 11);
        assert!(text.contains("step 997/997 (100 %)"));
        assert!(text.contains(" left  loss "));
    }

    #[test]
    fn passes_are_told_in_lines_only_where_nothing_else_is() {
        let passes: Vec<Event> = (1..=50).map(|done| progress(done, 50)).collect();
        for (steps, lines) in [(0, 11), (500, 0)] {
            let mut events = vec![stage_started(steps)];
            events.extend(passes.clone());
            let text = shown(false, Verbosity::Normal, &events);
            assert_eq!(text.matches("measuring").count(), lines);
        }
        // A command that evaluates without a run has no stages.
        let text = shown(false, Verbosity::Normal, &passes);
        assert!(text.starts_with("search  measuring 1/50 (2 %)"), "{text}");
        assert!(!shown(false, Verbosity::Normal, &[progress(0, 0)]).is_empty());
    }

    #[test]
    fn a_terminal_keeps_the_results_and_moves_one_line() {
        let paper = Paper::default();
        let mut console =
            Console::new(Screen::new(Box::new(paper.clone()), Some(ProgressDrawTarget::hidden)), Verbosity::Normal);
        show(&mut console, &[stage_started(1200), step(600, 1200, 0.5)]);
        let bar = console.screen.bar().unwrap();
        assert_eq!(bar.prefix(), "[2/4] search");
        assert_eq!(bar.message(), "step 600/1,200  loss 0.7500  top-1 87.21 %  bits 4.32/4.50  1,812 images/s");
        // An evaluation in between borrows the line.
        show(&mut console, &[progress(3, 50)]);
        assert_eq!(bar.message(), "measuring 3/50");
        show(&mut console, &[evaluated()]);
        show(&mut console, &ended());
        assert!(bar.is_finished() && console.screen.bar().is_none());
        let text = paper.text();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("\x1b[32mtop-1 91.20 %"));
    }

    #[test]
    fn plain_lines_have_no_colours() {
        let mut events = vec![stage_started(10), step(1, 10, f64::NAN), evaluated(), warning("x")];
        events.extend(ended());
        let text = shown(false, Verbosity::Normal, &events);
        assert!(!text.contains('\x1b'));
        assert!(text.contains("loss NaN"));
    }

    #[test]
    fn warnings_are_shown_once_each_even_when_quiet() {
        let events = [warning("a"), stage_started(10), warning("b"), warning("a"), evaluated()];
        assert_eq!(shown(false, Verbosity::Quiet, &events), "warning: a\nwarning: b\n");
    }
}
