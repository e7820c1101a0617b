//! How fast a count goes, and when it's worth a line.

use std::time::Instant;

/// Follows one count up to its total. A count that falls is a new one.
#[derive(Default)]
pub(super) struct Pace {
    /// The first count seen, and when: a resumed stage doesn't begin at 0.
    first: Option<(u64, Instant)>,
    last: u64,
    /// The last tenth of the total for which there was a line.
    tenth: Option<u128>,
}

impl Pace {
    /// Takes the next count.
    ///
    /// Returns the seconds until `total` (none while the speed isn't known, and none at the end), and whether a further tenth of
    /// the total is reached, which the first count counts as.
    pub(super) fn next(&mut self, done: u64, total: u64) -> (Option<f64>, bool) {
        if done < self.last {
            *self = Pace::default();
        }
        self.last = done;
        let (first, since) = *self.first.get_or_insert_with(|| (done, Instant::now()));
        let left = (first < done && done < total)
            .then(|| since.elapsed().as_secs_f64() / (done - first) as f64 * (total - done) as f64);
        let tenth = Some(u128::from(done) * 10 / u128::from(total.max(1)));
        let further = tenth > self.tenth;
        if further {
            self.tenth = tenth;
        }
        (left, further)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_resumed_stage_does_not_count_what_was_done_before() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(900, 1000).0, None);
        pace.first = Some((900, Instant::now() - Duration::from_secs(10)));
        let left = pace.next(910, 1000).0.unwrap();
        assert!((left - 90.0).abs() < 1.0, "{left}");
        assert_eq!(pace.next(1000, 1000).0, None);
    }

    #[test]
    fn ten_tenths_and_the_first_count() {
        let mut pace = Pace::default();
        // A second pass over the same total is told like the first.
        for _ in 0..2 {
            let lines: Vec<u64> = (1..=997).filter(|&done| pace.next(done, 997).1).collect();
            assert_eq!(lines, [1, 100, 200, 300, 399, 499, 599, 698, 798, 898, 997]);
        }
        assert_eq!(Pace::default().next(0, 0), (None, true));
    }
}
