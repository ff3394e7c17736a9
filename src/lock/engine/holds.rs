//! What this process holds, so that a release by name deletes exactly what was acquired here and nothing else.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Engine;
use super::release::Released;
use crate::lock::boot_time::BootTime;
use crate::lock::error::LockError;
use crate::lock::operation::{AcquisitionId, Claim, ReleaseTarget, Won};
use crate::lock::store::key_hash;
use crate::lock::surroundings::planted;

/// How many past acquisitions are remembered; beyond it, a release by name goes by the holder's name alone.
const REMEMBERED: usize = 65_536;

/// One acquisition of this process.
pub(crate) struct Hold {
    pub(crate) key: Arc<str>,
    pub(crate) holder: Arc<str>,
    pub(crate) id: AcquisitionId,
    pub(crate) manager: u64,
    pub(crate) since: BootTime,
    /// The fencing token.
    pub(crate) token: i64,
    valid_until: AtomicU64,
    /// When the row expires by the database's clock, in Unix seconds.
    expires_at: AtomicU64,
    status: AtomicU8,
    changed: Notify,
}

/// What this process knows of an acquisition by a holder's name.
pub(crate) enum Known {
    /// It is the latest of its key, and has not ended as far as is known.
    Held(Arc<Hold>),
    /// There was one, and it has ended.
    Past,
    Never,
}

/// What has become of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    /// As far as is known, ours.
    Held = 0,
    /// Released by its holder, or about to be.
    Released = 1,
    /// A renewal came too late, or a renewal or the release found that the row had gone.
    Lost = 2,
}

impl Hold {
    pub(super) fn new(claim: &Claim, manager: u64, won: Won, valid_until: BootTime) -> Self {
        Self {
            key: Arc::clone(&claim.key),
            holder: Arc::clone(&claim.holder),
            id: Arc::clone(&claim.id),
            manager,
            since: BootTime::now(),
            token: won.token,
            valid_until: AtomicU64::new(valid_until.as_nanos()),
            expires_at: AtomicU64::new(won.expires_at.to_bits()),
            status: AtomicU8::new(Status::Held as u8),
            changed: Notify::new(),
        }
    }

    /// Until when the holder may believe it has the lock.
    pub(crate) fn valid_until(&self) -> BootTime {
        BootTime::from_nanos(self.valid_until.load(Ordering::Acquire))
    }

    pub(crate) fn set_valid_until(&self, time: BootTime) {
        self.valid_until.store(time.as_nanos(), Ordering::Release);
    }

    /// When the row expires by the database's clock, in Unix seconds.
    pub(crate) fn expires_at(&self) -> f64 {
        f64::from_bits(self.expires_at.load(Ordering::Acquire))
    }

    /// The row expires then and then, by our clock and by the database's.
    pub(crate) fn set_validity(&self, valid_until: BootTime, expires_at: f64) {
        self.set_valid_until(valid_until);
        self.expires_at.store(expires_at.to_bits(), Ordering::Release);
    }

    pub(crate) fn remaining(&self) -> Duration {
        BootTime::now().until(self.valid_until())
    }

    pub(crate) fn status(&self) -> Status {
        match self.status.load(Ordering::Acquire) {
            0 => Status::Held,
            1 => Status::Released,
            _ => Status::Lost,
        }
    }

    /// Ours, and not expired.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held_at(BootTime::now())
    }

    pub(super) fn is_held_at(&self, now: BootTime) -> bool {
        self.status() == Status::Held && now < self.valid_until()
    }

    /// Moves from held to another status; false if it was not held any more.
    pub(crate) fn end(&self, status: Status) -> bool {
        self.move_on(Status::Held, status)
    }

    /// Marks the hold as lost, because its release found that the row had gone.
    pub(super) fn found_gone(&self) {
        self.move_on(Status::Released, Status::Lost);
    }

    fn move_on(&self, from: Status, to: Status) -> bool {
        let ended = self
            .status
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if ended && !planted!(UnreportedLoss) {
            self.changed.notify_waiters();
        }
        ended
    }

    /// Another acquisition of this process has the key now.
    pub(super) fn superseded(&self) {
        self.end(Status::Lost);
    }

    /// Waits until it is held no more, by whatever way but expiry.
    pub(crate) async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.status() != Status::Held {
                return;
            }
            changed.await;
        }
    }

    /// Ends the hold, and hands the lock over or deletes the row. Resolves to whether the row still
    /// existed. The call itself begins the release, which continues even if the future is dropped.
    /// If the row had certainly gone before the release, the hold becomes lost.
    pub(crate) fn release(
        self: Arc<Self>,
        engine: &Arc<Engine>,
    ) -> impl Future<Output = Result<bool, LockError>> + Send + 'static + use<> {
        let may_be_handed_over = self.is_held();
        // A second release finds no row, because the first one has deleted it. That is no loss.
        let is_first = self.end(Status::Released);
        let releasing = engine.release_hold(Arc::clone(&self), may_be_handed_over);
        async move {
            let released = releasing.await?;
            if is_first && released == Released::Gone && !planted!(IgnoredAnswerOfARelease) {
                self.found_gone();
            }
            Ok(released == Released::Deleted)
        }
    }

    pub(super) fn target(&self) -> ReleaseTarget {
        ReleaseTarget::Row {
            id: Arc::clone(&self.id),
            key: Arc::clone(&self.key),
        }
    }
}

/// (key, holder) pairs that this process acquired once: a late release by such a holder must not delete its successor's row.
#[derive(Default)]
pub(super) struct Tombstones {
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl Tombstones {
    pub(super) fn insert(&mut self, key: &str, holder: &str) {
        let mark = mark(key, holder);
        if self.known.insert(mark) {
            self.order.push_back(mark);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    pub(super) fn contains(&self, key: &str, holder: &str) -> bool {
        self.known.contains(&mark(key, holder))
    }
}

fn mark(key: &str, holder: &str) -> u64 {
    key_hash(key) ^ key_hash(holder).rotate_left(32)
}
