//! What is counted of locks: by each manager, and by the process, whose counts outlive its managers.

use std::sync::Arc;
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

/// What one manager has counted, or all of a process.
#[derive(Debug, Default)]
pub struct Counters {
    attempts: AtomicU64,
    successes: AtomicU64,
    conflicts: AtomicU64,
    timeouts: AtomicU64,
    hand_offs: AtomicU64,
    renewals: AtomicU64,
    losses: AtomicU64,
    backend_errors: AtomicU64,
    active_locks: AtomicU64,
    /// How long acquisitions waited, the failed ones too.
    pub wait: Histogram,
    /// How long locks were held until their release.
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
    /// Those that got it after they had found it held.
    pub hand_offs: u64,
    /// Successful renewals.
    pub renewals: u64,
    /// Leases lost.
    pub losses: u64,
    /// Failures of the database, repeated ones too.
    pub backend_errors: u64,
    /// Rows not expired, as last counted.
    pub active_locks: u64,
}

impl Counters {
    /// What they are now.
    #[must_use]
    pub fn snapshot(&self) -> CounterSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterSnapshot {
            attempts: read(&self.attempts),
            successes: read(&self.successes),
            conflicts: read(&self.conflicts),
            timeouts: read(&self.timeouts),
            hand_offs: read(&self.hand_offs),
            renewals: read(&self.renewals),
            losses: read(&self.losses),
            backend_errors: read(&self.backend_errors),
            active_locks: read(&self.active_locks),
        }
    }
}

/// Where what happens is counted: in a manager's own counters, and in its process's.
#[derive(Debug, Default)]
pub struct Ledger {
    own: Arc<Counters>,
    process: Arc<Counters>,
}

impl Ledger {
    /// A ledger of a manager with these counters, in a process with those.
    #[must_use]
    pub fn new(own: Arc<Counters>, process: Arc<Counters>) -> Self {
        Self { own, process }
    }

    /// The manager's own counters.
    pub(crate) fn own(&self) -> &Counters {
        &self.own
    }

    fn each(&self) -> [&Counters; 2] {
        [&self.own, &self.process]
    }

    fn add(&self, counter: impl Fn(&Counters) -> &AtomicU64) {
        for counters in self.each() {
            counter(counters).fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn attempted(&self) {
        self.add(|counters| &counters.attempts);
    }

    pub(crate) fn succeeded(&self) {
        self.add(|counters| &counters.successes);
    }

    pub(crate) fn timed_out(&self) {
        self.add(|counters| &counters.timeouts);
    }

    pub(crate) fn renewed(&self) {
        self.add(|counters| &counters.renewals);
    }

    pub(crate) fn lost(&self) {
        self.add(|counters| &counters.losses);
    }

    pub(crate) fn backend_failed(&self) {
        self.add(|counters| &counters.backend_errors);
    }

    pub(crate) fn waited(&self, time: Duration) {
        for counters in self.each() {
            counters.wait.record(time);
        }
    }

    pub(crate) fn held_since(&self, since: BootTime) {
        let time = since.until(BootTime::now());
        for counters in self.each() {
            counters.hold.record(time);
        }
    }

    pub(crate) fn note_active_locks(&self, count: u64) {
        self.own.active_locks.store(count, Ordering::Relaxed);
    }
}

impl Progress for Ledger {
    fn conflict(&self) {
        self.add(|counters| &counters.conflicts);
    }

    fn hand_off(&self) {
        self.add(|counters| &counters.hand_offs);
    }

    fn backend_error(&self) {
        self.backend_failed();
    }
}
