//! What the engine asks of a store, one value per request, each with the way its answer goes.
//!
//! A store may gather requests and carry them out together. It answers each exactly once. An answer whose asker has gone
//! away is dropped, and a [`Claim`] that was won or may have been won releases its row then: that is how an abandoned
//! acquisition leaves nothing behind, whatever the moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::boot_time::BootTime;
use super::error::StoreError;
use super::surroundings;
use crate::lock::surroundings::planted;

/// The id of one acquisition, made anew for each. A row that has it is that acquisition's.
pub type AcquisitionId = Arc<str>;

pub type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// One request to a store. Each says until when its asker waits for the answer, so that a store can
/// choose its own patience.
pub enum Operation {
    /// Take a row if it is free or expired.
    Acquire(Acquire),
    /// Move the expiry of a row that is still ours and not expired.
    Renew(Renew),
    Release(Release),
    /// Give a row that is ours to another acquisition of this process: nobody else finds it free in between.
    HandOver(HandOver),
    /// Look who holds these keys.
    Observe {
        keys: Vec<Arc<str>>,
        until: Instant,
        /// One answer for each key that has an unexpired row.
        reply: Reply<Vec<LockRow>>,
    },
    /// Read every row, expired ones too.
    List {
        until: Instant,
        reply: Reply<Vec<LockRow>>,
    },
    /// Count the rows that are not expired.
    Count {
        until: Instant,
        reply: Reply<u64>,
    },
    Clear {
        until: Instant,
        reply: Reply<u64>,
    },
    /// Delete the expired rows whose keys are [`LockName`](super::names::LockName)s.
    Sweep {
        until: Instant,
        reply: Reply<u64>,
    },
}

impl Operation {
    /// Until when its asker waits for the answer.
    #[must_use]
    #[allow(dead_code, reason = "for stores that choose their patience by it")]
    pub fn until(&self) -> Instant {
        match self {
            Self::Acquire(Acquire { until, .. })
            | Self::Renew(Renew { until, .. })
            | Self::Release(Release { until, .. })
            | Self::HandOver(HandOver { until, .. })
            | Self::Observe { until, .. }
            | Self::List { until, .. }
            | Self::Count { until, .. }
            | Self::Clear { until, .. }
            | Self::Sweep { until, .. } => *until,
        }
    }
}

pub struct Acquire {
    /// The row to write; its owner decides what becomes of it.
    pub claim: Claim,
    /// The caller's deadline and the grace after it.
    pub until: Instant,
    /// Where the claim goes back to, with what came of it.
    pub reply: oneshot::Sender<(Claim, Result<Attempt, StoreError>)>,
}

impl Acquire {
    /// An earlier try of a store's own, whose answer was lost, may yet write the row.
    #[allow(dead_code, reason = "for stores that try twice")]
    pub fn note_doubt(&mut self) {
        self.claim.had_doubt = true;
    }

    /// The row was written.
    pub fn won(mut self, won: Won) {
        self.claim.state = ClaimState::Written;
        // A failed send drops the claim, and that releases the row.
        let _ = self.reply.send((self.claim, Ok(Attempt::Won(won))));
    }

    /// Another row stands under the key.
    pub fn held(self, by: Option<LockRow>) {
        let _ = self.reply.send((self.claim, Ok(Attempt::Held(by))));
    }

    /// The store failed.
    pub fn failed(mut self, error: StoreError) {
        if error.outcome_unknown && !planted!(ForgottenDoubt) {
            self.claim.had_doubt = true;
            if self.claim.state == ClaimState::Unwritten {
                self.claim.state = ClaimState::InDoubt;
            }
        }
        let _ = self.reply.send((self.claim, Err(error)));
    }
}

/// What came of a request to take a lock.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Won(Won),
    /// It is someone else's; None when the row was gone again before it could be read.
    Held(Option<LockRow>),
}

/// A lock just taken. Times are Unix seconds by the database's clock.
#[derive(Debug, Clone, Copy)]
pub struct Won {
    /// Grows with every acquisition of the key, by more than one: the next number is the one to whom the lock is handed over without asking.
    pub token: i64,
    pub acquired_at: f64,
    pub expires_at: f64,
}

pub struct Renew {
    pub id: AcquisitionId,
    pub key: Arc<str>,
    /// How long it lasts from now on.
    pub ttl: Duration,
    /// When the lease ends unless it is renewed.
    pub until: Instant,
    /// The new expiry in Unix seconds, or None when the row is not ours any more.
    pub reply: Reply<Option<f64>>,
}

/// A request to give a row to another acquisition.
pub struct HandOver {
    pub from: AcquisitionId,
    /// Its id from now on. A row that has it already was given in an earlier try whose answer was lost.
    pub id: AcquisitionId,
    pub key: Arc<str>,
    /// The new holder's name.
    pub holder: Arc<str>,
    /// How long it lasts from now on.
    pub ttl: Duration,
    /// The new holder's token, which nobody else is given later: see [`Won::token`].
    pub token: i64,
    pub until: Instant,
    /// The new holder's lock, or None when the row was not ours any more.
    pub reply: Reply<Option<Won>>,
}

pub struct Release {
    pub target: ReleaseTarget,
    pub until: Instant,
    /// Whether there was such a row.
    pub reply: Reply<bool>,
}

#[derive(Debug, Clone)]
pub enum ReleaseTarget {
    /// This very acquisition.
    Row { id: AcquisitionId, key: Arc<str> },
    /// Whatever a holder of this name has.
    Holder { key: Arc<str>, holder: Arc<str> },
    /// Whoever has it.
    Key { key: Arc<str> },
}

impl ReleaseTarget {
    /// The key under which the row stands.
    #[must_use]
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Row { key, .. } | Self::Holder { key, .. } | Self::Key { key } => key,
        }
    }
}

/// A row of the table. Times are Unix seconds.
#[derive(Debug, Clone)]
pub struct LockRow {
    pub key: Arc<str>,
    /// The row's own id, made anew for each acquisition.
    pub id: String,
    pub holder: String,
    pub acquired_at: f64,
    pub expires_at: f64,
    /// Seconds until it expires, by the clock that decides; negative when it has.
    pub expires_in: f64,
}

impl LockRow {
    /// The longest time to an expiry, in seconds, from which the time of reading can be computed
    /// exactly. Larger floats lose the fraction of a second.
    const LONGEST_EXACT: f64 = 1e8;

    /// Returns the time at which the row was read, in Unix seconds by the clock of the database, or
    /// `None` if the expiry is too far away, infinite or NaN.
    #[must_use]
    pub fn read_at(&self) -> Option<f64> {
        (self.expires_in.abs() <= Self::LONGEST_EXACT).then_some(self.expires_at - self.expires_in)
    }
}

/// Who cleans up after an abandoned claim.
pub trait Abandoned: Send + Sync {
    /// Deletes the row soon, in the background. `in_doubt` is given when the row may yet be written, by a statement that is
    /// still under way: for how long it would last then.
    fn abandoned(&self, id: &AcquisitionId, key: &Arc<str>, in_doubt: Option<Duration>);
}

/// The right to one row that is about to be written, or has been. Dropping it releases what it may have written.
pub struct Claim {
    /// The row's id, made for this acquisition alone: what "ours" means.
    pub id: AcquisitionId,
    pub key: Arc<str>,
    pub holder: Arc<str>,
    /// How long the lock lasts.
    pub ttl: Duration,
    /// When it was last sent to the store: what a holder may believe counts from then.
    pub sent_at: BootTime,
    state: ClaimState,
    /// Whether the answer to an earlier try was lost.
    had_doubt: bool,
    owner: Arc<dyn Abandoned>,
    /// Dropped after the owner has been told that the claim is abandoned.
    unsettled: Option<Unsettled>,
}

/// Counts a claim whose outcome is open, for as long as it exists.
struct Unsettled(Arc<AtomicU64>);

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClaimState {
    /// No row can stand under this id.
    Unwritten,
    /// A row may stand under this id, or come to stand there later.
    InDoubt,
    /// A row stands under this id.
    Written,
}

impl Claim {
    /// A claim on `key`, with an id of its own.
    pub fn new(key: Arc<str>, holder: Arc<str>, ttl: Duration, owner: Arc<dyn Abandoned>) -> Self {
        Self {
            id: surroundings::new_id(),
            key,
            holder,
            ttl,
            sent_at: BootTime::now(),
            state: ClaimState::Unwritten,
            had_doubt: false,
            owner,
            unsettled: None,
        }
    }

    /// Counts the claim until it is settled or dropped.
    pub fn count_in(&mut self, unsettled: &Arc<AtomicU64>) {
        unsettled.fetch_add(1, Ordering::AcqRel);
        self.unsettled = Some(Unsettled(Arc::clone(unsettled)));
    }

    /// The row is ours, and its owner knows.
    pub fn settle(&mut self) {
        self.unsettled = None;
    }

    /// For how long the row would last that a statement may yet write whose answer was lost.
    #[must_use]
    pub fn in_doubt(&self) -> Option<Duration> {
        self.had_doubt.then_some(self.ttl)
    }

    /// Drops the claim without deleting the row, which is released otherwise, or kept.
    pub fn disarm(&mut self) {
        self.state = ClaimState::Unwritten;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        match self.state {
            ClaimState::Unwritten => {}
            ClaimState::InDoubt => self.owner.abandoned(&self.id, &self.key, Some(self.ttl)),
            ClaimState::Written => self.owner.abandoned(&self.id, &self.key, self.in_doubt()),
        }
    }
}
