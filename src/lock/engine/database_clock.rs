//! What the database's clock shows, without asking it: told by the answers that took the least time.

use std::sync::Mutex;

use crate::lock::boot_time::BootTime;
use crate::mutex::lock;

/// How fast two clocks part at most, in seconds a second, as quartz goes.
const DRIFT: f64 = 5e-5;
/// Who can't tell the time to so many seconds does not tell it.
const WELL_KNOWN: f64 = 0.02;

/// The database's clock, as its answers tell it.
#[derive(Default)]
pub(super) struct DatabaseClock(Mutex<Option<Reading>>);

#[derive(Clone, Copy)]
struct Reading {
    /// In Unix seconds.
    shown: f64,
    at: BootTime,
    /// How far off it may be, in seconds: the clock was read some time between the question and the answer.
    error: f64,
}

impl Reading {
    fn error_at(&self, now: BootTime) -> f64 {
        self.error + DRIFT * self.at.until(now).as_secs_f64()
    }
}

impl DatabaseClock {
    /// An answer to a question that was asked at `asked` tells that the clock showed `shown` meanwhile.
    pub(super) fn heard(&self, shown: f64, asked: BootTime) {
        if !shown.is_finite() {
            return; // no later reading could ever replace a reading that is not finite
        }
        let now = BootTime::now();
        let error = asked.until(now).as_secs_f64() / 2.0;
        let mut reading = lock(&self.0);
        if reading.is_none_or(|reading| error <= reading.error_at(now)) {
            *reading = Some(Reading {
                shown: shown + error,
                at: now,
                error,
            });
        }
    }

    /// What the clock shows now, in Unix seconds; None if that is not well known.
    pub(super) fn now(&self) -> Option<f64> {
        let now = BootTime::now();
        let reading = *lock(&self.0);
        reading
            .filter(|reading| reading.error_at(now) <= WELL_KNOWN)
            .map(|reading| reading.shown + reading.at.until(now).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_goes_on_by_itself() {
        let clock = DatabaseClock::default();
        assert_eq!(clock.now(), None);
        clock.heard(1_000.0, BootTime::now());
        let first = clock.now().unwrap();
        assert!((1_000.0..1_001.0).contains(&first));
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.now().unwrap() >= first + 0.002);
    }

    #[test]
    fn a_slow_answer_tells_less_than_a_quick_one() {
        let clock = DatabaseClock::default();
        let asked = BootTime::now();
        clock.heard(1_000.0, asked);
        std::thread::sleep(Duration::from_millis(20));
        clock.heard(5_000.0, asked);
        assert!(clock.now().unwrap() < 1_001.0);
        clock.heard(2_000.0, BootTime::now());
        assert!(clock.now().unwrap() >= 2_000.0);
    }

    #[test]
    fn what_is_told_too_slowly_is_not_known() {
        let clock = DatabaseClock::default();
        let asked = BootTime::now();
        std::thread::sleep(Duration::from_millis(60));
        clock.heard(1_000.0, asked);
        assert_eq!(clock.now(), None);
    }
}
