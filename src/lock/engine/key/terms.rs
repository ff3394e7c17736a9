//! What the state machine of a key is told, and what it answers.

use std::time::Duration;

use tokio::time::Instant;

use crate::lock::boot_time::BootTime;
use crate::lock::error::StoreError;
use crate::lock::operation::{AcquisitionId, LockRow};

/// The time, by the clock of timers and by the clock by which holders believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Now {
    pub timer: Instant,
    pub belief: BootTime,
}

impl Now {
    pub(crate) fn read() -> Self {
        Self {
            timer: Instant::now(),
            belief: BootTime::now(),
        }
    }

    /// When the timers' clock will show what the clock of belief shows at `time`.
    pub(super) fn timer_at(self, time: BootTime) -> Instant {
        self.timer + self.belief.until(time)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    Join(Waiter),
    /// A waiter has what it was told, or its caller has gone.
    Leave(AcquisitionId),
    /// The time has come that [`Key::wake_at`] gave for this waiter.
    Due(AcquisitionId),
    /// The answer to the request under way has been read.
    Answered(AcquisitionId, Answer),
    /// The lock may be free.
    MayBeFree,
    /// The poller has looked: the row under the key, unless there is none or it has expired.
    Observed(Option<Row>),
    /// The time has come to remove the waiters whose callers do not run.
    RemoveOverdue,
    /// Our lock is about to be released; nobody asks for it until then.
    Leaving(AcquisitionId),
    Release {
        id: AcquisitionId,
        /// False if its holder no longer believes in it.
        may_be_handed_off: bool,
        /// Whether the database's clock is known well enough to hand the lock off in memory.
        is_clock_known: bool,
    },
    /// Our row has gone, or is no longer ours.
    Ended(AcquisitionId),
    /// Our row expires later or sooner than it did.
    Extended {
        id: AcquisitionId,
        until: BootTime,
    },
}

/// Someone who waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Waiter {
    pub id: AcquisitionId,
    pub ttl: Duration,
    pub deadline: Instant,
    pub allows_optimistic_handoff: bool,
    /// Whether it found the lock held, or others waiting before it.
    pub met_conflict: bool,
}

/// What the database said to a request for the lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Won {
        /// None for a lock that was handed off in memory: it was ours, and may have been lost since.
        until: Option<BootTime>,
    },
    /// None if the row was gone before it could be read.
    Held(Option<Row>),
    Failed {
        error: StoreError,
        /// A number from 500 to 1000: thousandths of the longest wait before the next try.
        jitter: u32,
    },
}

/// A row in the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(super) id: AcquisitionId,
    /// Milliseconds since 1970 by the database's clock.
    pub(super) expires_at: i64,
    pub(super) expires_in: Duration,
}

impl Row {
    /// By how much the same expiry may differ from one answer to the next: Redis rounds that of an
    /// old process's lock.
    const ROUNDING: i64 = 5;
    /// No timer is set further ahead.
    const FAR: f64 = 1e8;

    /// A row whose expiry is NaN never expires: PostgreSQL, too, sorts NaN after every other number.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the cast saturates, and no expiry is so far off"
    )]
    pub(crate) fn of(row: &LockRow) -> Self {
        let or_never = |seconds: f64, never| if seconds.is_nan() { never } else { seconds };
        Self {
            id: row.id.as_str().into(),
            expires_at: (or_never(row.expires_at, f64::INFINITY) * 1_000.0) as i64,
            expires_in: Duration::from_secs_f64(or_never(row.expires_in, Self::FAR).clamp(0.0, Self::FAR)),
        }
    }

    pub(super) fn expires_sooner_than(&self, expires_at: i64) -> bool {
        self.expires_at < expires_at.saturating_sub(Self::ROUNDING)
    }
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    /// Send this waiter's request.
    Ask(AcquisitionId),
    /// Tell a waiter why it does not get the lock.
    Tell(AcquisitionId, Outcome),
    /// Take back what a waiter has won unread, and tell it this if it ever runs again.
    Remove(AcquisitionId, Outcome),
    /// [`Key::wake_at`] has changed for this waiter.
    Rearm(AcquisitionId),
    /// Have the store look out for the lock on behalf of this waiter.
    Watch(AcquisitionId),
    /// Count this for the waiter.
    Count(AcquisitionId, Counted),
    /// Give the released lock to this waiter.
    HandOff {
        to: AcquisitionId,
        /// In memory, before the database has answered; otherwise it waits for the answer.
        is_optimistic: bool,
    },
    /// Delete the row of the released lock.
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    TimedOut,
    Failed(StoreError),
    /// The database did not answer in time; the error is what it said the last time, if that failed.
    NoAnswer(Option<StoreError>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Counted {
    Conflict,
    /// The lock was won after a conflict.
    HandOff,
    BackendError,
}

/// A row as it was seen last.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) id: Option<AcquisitionId>,
    /// None for a lock of this process, whose changes are known without looking.
    pub(super) expires_at: Option<i64>,
}

impl Seen {
    /// Whether the row stands there still, and ends no sooner.
    pub(super) fn is(&self, row: &Row) -> bool {
        let ends_sooner = self
            .expires_at
            .is_some_and(|expires_at| row.expires_sooner_than(expires_at));
        self.id.as_ref() == Some(&row.id) && !ends_sooner
    }
}

/// The lock as this process has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ours {
    pub(super) id: AcquisitionId,
    /// Until when its holder may believe in it, however it goes on.
    pub(super) until: BootTime,
    pub(super) is_leaving: bool,
}

/// A request that is under way, or whose answer has not been read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asking {
    pub(super) id: AcquisitionId,
    pub(super) since: Instant,
    /// Whether the lock may have become free after the database looked at it.
    pub(super) is_outdated: bool,
}

impl Ours {
    pub(super) fn held(id: &AcquisitionId, until: BootTime) -> Self {
        Self {
            id: id.clone(),
            until,
            is_leaving: false,
        }
    }

    pub(super) fn as_seen(&self) -> Seen {
        Seen {
            id: Some(self.id.clone()),
            expires_at: None,
        }
    }
}

impl Asking {
    pub(super) fn since(now: Now, id: &AcquisitionId) -> Self {
        Self {
            id: id.clone(),
            since: now.timer,
            is_outdated: false,
        }
    }
}
