//! The longest lag in each of the last seconds, so that whoever looks sees what has been, and not only what is.

use std::time::{Duration, Instant};

/// How many seconds are remembered, the one under way included.
pub const RECENT_SECONDS: usize = 120;

/// The longest lag that ended in each of the last seconds.
pub(super) struct Recent {
    start: Instant,
    /// The second under way, counted from the start.
    second: usize,
    /// Of the second under way at the end.
    longest: [Duration; RECENT_SECONDS],
}

impl Recent {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            second: 0,
            longest: [Duration::ZERO; RECENT_SECONDS],
        }
    }

    /// Notes a lag that ends now.
    pub(super) fn record(&mut self, now: Instant, lag: Duration) {
        self.advance(now);
        if let Some(longest) = self.longest.last_mut() {
            *longest = lag.max(*longest);
        }
    }

    /// The longest lag of each second since the start, or of the last [`RECENT_SECONDS`]; of the one under way at the end.
    pub(super) fn longest(&mut self, now: Instant) -> &[Duration] {
        self.advance(now);
        let before_start = RECENT_SECONDS.saturating_sub(self.second + 1);
        self.longest.get(before_start..).unwrap_or_default()
    }

    fn advance(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.start).as_secs();
        let second = usize::try_from(since).unwrap_or(usize::MAX - 1).max(self.second);
        let passed = (second - self.second).min(RECENT_SECONDS);
        if passed > 0 {
            self.longest.rotate_left(passed);
            let new = self.longest.iter_mut().rev().take(passed);
            new.for_each(|longest| *longest = Duration::ZERO);
            self.second = second;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn each_second_has_its_longest_lag_and_one_without_any_has_none() {
        let start = Instant::now();
        let mut recent = Recent::new(start);
        recent.record(start + milliseconds(100), milliseconds(7));
        recent.record(start + milliseconds(200), milliseconds(3));
        recent.record(start + milliseconds(2_100), milliseconds(1));
        let expected = [7, 0, 1].map(milliseconds);
        assert_eq!(recent.longest(start + milliseconds(2_999)), expected);
        assert_eq!(recent.longest(start + 3 * SECOND).last(), Some(&Duration::ZERO));
    }

    #[test]
    fn no_more_than_the_last_seconds_are_remembered() {
        let start = Instant::now();
        let mut recent = Recent::new(start);
        recent.record(start, milliseconds(7));
        assert_eq!(
            recent.longest(start + 119 * SECOND).first(),
            Some(&milliseconds(7))
        );
        assert_eq!(recent.longest(start + 120 * SECOND), [Duration::ZERO; 120]);
        recent.record(start + 100_000 * SECOND, milliseconds(5));
        let longest = recent.longest(start + 100_001 * SECOND);
        assert_eq!((longest.len(), longest[118]), (120, milliseconds(5)));
    }

    #[test]
    fn a_clock_that_is_read_late_changes_no_second() {
        let start = Instant::now();
        let mut recent = Recent::new(start);
        recent.record(start + 5 * SECOND, milliseconds(5));
        recent.record(start, milliseconds(9));
        assert_eq!(recent.longest(start), [0, 0, 0, 0, 0, 9].map(milliseconds));
    }
}
