//! A lock that was won and not yet given to anybody for good.

use std::sync::Arc;
use std::time::Duration;

use super::holds::{Hold, Status};
use super::queue::Wake;
use super::{Engine, LockError};
use crate::lock::boot_time::BootTime;
use crate::lock::operation::{Claim, Won};

/// A lock that was won. Dropping it releases the row in the background.
pub struct Grant {
    pub(crate) engine: Arc<Engine>,
    pub(crate) hold: Arc<Hold>,
    /// What the database said.
    pub won: Won,
    /// How long it lasts without renewal.
    pub ttl: Duration,
    claim: Option<Claim>,
}

impl Grant {
    pub(super) fn new(engine: &Arc<Engine>, claim: Claim, won: Won, sent: BootTime, manager: u64) -> Self {
        let hold = Arc::new(Hold::new(
            Arc::clone(&claim.key),
            Arc::clone(&claim.holder),
            Arc::clone(&claim.id),
            manager,
            sent + claim.ttl,
        ));
        engine.queues().hold(Arc::clone(&hold));
        Self {
            engine: Arc::clone(engine),
            hold,
            won,
            ttl: claim.ttl,
            claim: Some(claim),
        }
    }

    /// Keeps the row until it is released by name, or expires.
    pub fn keep(mut self) {
        self.disarm();
    }

    /// Deletes the row; whether it was still there. Once begun it is carried through, even if the future is dropped.
    ///
    /// # Errors
    /// [`LockError::Backend`] when the database did not answer; the row is then deleted in the background.
    pub async fn release(mut self) -> Result<bool, LockError> {
        self.disarm();
        self.hold.release(&self.engine).await
    }

    fn disarm(&mut self) {
        if let Some(mut claim) = self.claim.take() {
            claim.disarm();
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        // The claim, dropped next, deletes the row.
        if self.claim.is_some() {
            self.hold.end(Status::Released);
            self.engine.queues().end_hold(&self.hold, Wake::Nobody);
        }
    }
}
