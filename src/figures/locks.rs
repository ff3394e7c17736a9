//! What is counted of locks: by each manager, and by the process, whose counts outlive its managers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Twice;
use super::counters::{Counters, counters};
use super::histogram::{Histogram, LOCK_BOUNDS};

counters! {
    /// The plain counters of locks.
    enum LockCounter {
        Attempts = "attempts",
        Successes = "successes",
        /// Calls that found the lock held, or others waiting for it.
        Conflicts = "conflicts",
        Timeouts = "timeouts",
        /// Calls that got the lock after a conflict.
        HandOffs = "hand_offs",
        Renewals = "renewals",
        Losses = "losses",
        /// Failures of the database, repeated ones too.
        BackendErrors = "backend_errors",
        /// Failed attempts to listen for releases, after half a second of failures.
        ListenerFailures = "listener_failures",
        /// Rows that nobody owned any more and that could not be deleted.
        RowsLeft = "rows_left",
        /// Connections that did not answer in time.
        ConnectionsReplaced = "connections_replaced",
        /// Times that the kernel could not be asked to report changes of a database's file.
        ChangeWatchFailures = "change_watch_failures",
    }
}

/// What one manager has counted, or all of a process.
#[derive(Debug)]
pub(crate) struct LockFigures {
    pub counters: Counters<LockCounter>,
    /// How long acquisitions waited, the failed ones too.
    pub wait: Histogram,
    /// How long locks were held until their release.
    pub hold: Histogram,
    /// Rows not expired, as last counted by this manager: a gauge, which no sum of managers can tell.
    active_locks: AtomicU64,
}

impl Default for LockFigures {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            wait: Histogram::new(LOCK_BOUNDS),
            hold: Histogram::new(LOCK_BOUNDS),
            active_locks: AtomicU64::new(0),
        }
    }
}

/// Where a manager counts: in its own figures and in its process's.
pub(crate) type Ledger = Twice<LockFigures>;

impl Ledger {
    pub(crate) fn add(&self, counter: LockCounter) {
        self.each(|figures| figures.counters.add(counter, 1));
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.each(|figures| figures.wait.record(time));
    }

    pub(crate) fn held(&self, time: Duration) {
        self.each(|figures| figures.hold.record(time));
    }

    pub(crate) fn note_active_locks(&self, count: u64) {
        self.own().active_locks.store(count, Ordering::Relaxed);
    }

    pub(crate) fn active_locks(&self) -> u64 {
        self.own().active_locks.load(Ordering::Relaxed)
    }
}
