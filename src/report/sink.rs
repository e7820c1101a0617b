//! The one interface between a run and those who watch it.

use serde::{Deserialize, Serialize};

use super::{Event, ReportError};

/// How far the files of a run's events have come: where they are cut when the run goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogMark {
    /// Bytes of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// Records of all event files of TensorBoard together, without the head of each.
    pub tensorboard_records: u64,
}

/// Takes the events of a run, in order.
pub trait Sink {
    /// Takes one event.
    ///
    /// # Errors
    /// When what the sink writes to can't be written.
    fn event(&mut self, event: &Event) -> Result<(), ReportError>;

    /// Brings to disk what was taken so far, and notes in `mark` how far that is.
    ///
    /// # Errors
    /// When what the sink writes to can't be written.
    fn mark(&mut self, mark: &mut LogMark) -> Result<(), ReportError> {
        let _ = mark;
        Ok(())
    }

    /// Brings out what is still held back. No event follows.
    ///
    /// # Errors
    /// When what the sink writes to can't be written.
    fn finish(&mut self) -> Result<(), ReportError> {
        Ok(())
    }
}

/// Several sinks that act as one.
#[derive(Default)]
pub struct Sinks(pub Vec<Box<dyn Sink>>);

impl Sink for Sinks {
    /// Every sink gets the event, even when one before it failed: a full disk under one file must not blind the others.
    ///
    /// # Errors
    /// The first sink's error.
    fn event(&mut self, event: &Event) -> Result<(), ReportError> {
        all(self.0.iter_mut().map(|sink| sink.event(event)))
    }

    fn mark(&mut self, mark: &mut LogMark) -> Result<(), ReportError> {
        all(self.0.iter_mut().map(|sink| sink.mark(mark)))
    }

    fn finish(&mut self) -> Result<(), ReportError> {
        all(self.0.iter_mut().map(|sink| sink.finish()))
    }
}

/// Runs through all results and keeps the first error.
fn all(results: impl Iterator<Item = Result<(), ReportError>>) -> Result<(), ReportError> {
    let mut outcome = Ok(());
    for result in results {
        outcome = outcome.and(result);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::path::PathBuf;
    use std::rc::Rc;

    type Log = Rc<RefCell<Vec<String>>>;

    struct Probe {
        name: &'static str,
        fails: bool,
        log: Log,
    }

    impl Probe {
        fn note(&self, what: &str) -> Result<(), ReportError> {
            self.log.borrow_mut().push(format!("{} {what}", self.name));
            if self.fails {
                return Err(ReportError::TensorBoardStopped { folder: PathBuf::from(self.name) });
            }
            Ok(())
        }
    }

    impl Sink for Probe {
        fn event(&mut self, _: &Event) -> Result<(), ReportError> {
            self.note("event")
        }
        fn finish(&mut self) -> Result<(), ReportError> {
            self.note("finish")
        }
    }

    #[test]
    fn a_failing_sink_hides_nothing_from_the_others() {
        let log = Log::default();
        let probe = |name, fails| -> Box<dyn Sink> { Box::new(Probe { name, fails, log: Rc::clone(&log) }) };
        let mut sinks = Sinks(vec![probe("a", false), probe("b", true), probe("c", true)]);
        let event = Event::Warning { message: "x".to_owned() };
        let error = sinks.event(&event).unwrap_err().to_string();
        assert!(error.contains("in b can"), "{error}");
        assert!(sinks.finish().is_err());
        assert_eq!(*log.borrow(), ["a event", "b event", "c event", "a finish", "b finish", "c finish"]);
    }
}
