//! What one manager has counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::boot_time::BootTime;
use super::engine::Progress;

/// Upper bounds of a histogram's buckets, in seconds; the last bucket has none.
pub const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];

/// How often a time fell between which bounds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

/// A histogram as it was at one time.
#[derive(Debug, Clone)]
pub struct HistogramSnapshot {
    /// Counts for each of [`BOUNDS`], and of all beyond; not cumulative.
    pub buckets: Vec<u64>,
    /// The sum of all times, in seconds.
    pub sum: f64,
}

impl Histogram {
    fn record(&self, time: Duration) {
        let bucket = BOUNDS
            .iter()
            .position(|bound| time.as_secs_f64() <= *bound)
            .unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(
            u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// What it is now.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            buckets: self
                .buckets
                .iter()
                .map(|bucket| bucket.load(Ordering::Relaxed))
                .collect(),
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}

/// The counters of one manager.
#[derive(Debug, Default)]
pub struct Counters {
    attempts: AtomicU64,
    successes: AtomicU64,
    conflicts: AtomicU64,
    timeouts: AtomicU64,
    renewals: AtomicU64,
    losses: AtomicU64,
    backend_errors: AtomicU64,
    active_locks: AtomicU64,
    /// How long acquisitions waited, the failed ones too.
    pub wait: Histogram,
    /// How long leases were held until their release.
    pub hold: Histogram,
}

/// The counters as they were at one time.
#[derive(Debug, Clone, Copy)]
pub struct CounterSnapshot {
    /// Calls that wanted a lock.
    pub attempts: u64,
    /// Those that got it.
    pub successes: u64,
    /// Those that found it held.
    pub conflicts: u64,
    /// Those whose time ran out.
    pub timeouts: u64,
    /// Successful renewals.
    pub renewals: u64,
    /// Leases lost.
    pub losses: u64,
    /// Failures of the database, repeated ones too.
    pub backend_errors: u64,
    /// Rows not expired, as last counted.
    pub active_locks: u64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn attempted(&self) {
        add(&self.attempts);
    }

    pub(crate) fn succeeded(&self) {
        add(&self.successes);
    }

    pub(crate) fn timed_out(&self) {
        add(&self.timeouts);
    }

    pub(crate) fn renewed(&self) {
        add(&self.renewals);
    }

    pub(crate) fn lost(&self) {
        add(&self.losses);
    }

    pub(crate) fn backend_failed(&self) {
        add(&self.backend_errors);
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.wait.record(time);
    }

    pub(crate) fn held_for(&self, now: BootTime, since: BootTime) {
        self.hold.record(since.until(now));
    }

    pub(crate) fn note_active_locks(&self, count: u64) {
        self.active_locks.store(count, Ordering::Relaxed);
    }

    /// What they are now.
    #[must_use]
    pub fn snapshot(&self) -> CounterSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterSnapshot {
            attempts: read(&self.attempts),
            successes: read(&self.successes),
            conflicts: read(&self.conflicts),
            timeouts: read(&self.timeouts),
            renewals: read(&self.renewals),
            losses: read(&self.losses),
            backend_errors: read(&self.backend_errors),
            active_locks: read(&self.active_locks),
        }
    }
}

impl Progress for Counters {
    fn conflict(&self) {
        add(&self.conflicts);
    }

    fn backend_error(&self) {
        add(&self.backend_errors);
    }
}
