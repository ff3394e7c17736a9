//! A lock that was won and not yet given to anybody for good.

use std::sync::Arc;
use std::time::Duration;

use super::holds::Hold;
use super::{Engine, LockError};
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
    pub(super) fn new(engine: &Arc<Engine>, claim: Claim, won: Won, hold: Arc<Hold>) -> Self {
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

    /// Deletes the row; whether it was still there. Begun by this call, and carried through even if the future is dropped.
    /// When the database does not answer ([`LockError::Backend`]), the row is deleted in the background.
    pub fn release(mut self) -> impl Future<Output = Result<bool, LockError>> + Send + 'static + use<> {
        self.disarm();
        let engine = Arc::clone(&self.engine);
        Arc::clone(&self.hold).release(&engine)
    }

    fn disarm(&mut self) {
        if let Some(mut claim) = self.claim.take() {
            claim.disarm();
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.claim.is_some() {
            self.disarm();
            self.engine.release_in_background(&self.hold);
        }
    }
}
