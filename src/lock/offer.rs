//! What was won for a caller that has yet to pick it up.

use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::error::LockError;
use super::surroundings;
use crate::mutex::lock;

/// Something that is given back unless it is picked up in time: the caller's event loop may never run again.
pub struct Offer<T> {
    value: Arc<Mutex<Option<T>>>,
    refusal: LockError,
    withdrawal: AbortHandle,
}

impl<T: Send + 'static> Offer<T> {
    /// Offers `value` until `end`, and says `refusal` after that. Needs an ambient tokio runtime.
    pub(super) fn until(end: Instant, value: T, refusal: LockError) -> Self {
        let value = Arc::new(Mutex::new(Some(value)));
        let offered = Arc::clone(&value);
        let withdrawing = surroundings::spawn(&Handle::current(), async move {
            sleep_until(end).await;
            drop(take(&offered));
        });
        Self {
            value,
            refusal,
            withdrawal: withdrawing.abort_handle(),
        }
    }

    /// Picks it up.
    ///
    /// # Errors
    /// The refusal, when it is too late.
    pub fn pick_up(self) -> Result<T, LockError> {
        take(&self.value).ok_or_else(|| self.refusal.clone())
    }
}

impl<T> Drop for Offer<T> {
    fn drop(&mut self) {
        self.withdrawal.abort();
        drop(take(&self.value));
    }
}

fn take<T>(value: &Mutex<Option<T>>) -> Option<T> {
    lock(value).take()
}
