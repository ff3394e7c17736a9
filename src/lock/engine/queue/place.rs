//! A caller's place in the queue for a key, and what it waits for there.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::{AFTER_EXPIRY, Answered, Expected, Key, Request, Seen, Waiter, expiry, take};
use crate::lock::engine::Engine;
use crate::lock::engine::holds::Hold;
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, Claim, LockRow};
use crate::lock::surroundings::planted;

/// Waits this long when a lock was found held and then its row was gone: it is being passed from hand to hand.
const PASSING: Duration = Duration::from_millis(5);

/// A caller's place in the queue for a key; left when dropped.
pub(in crate::lock::engine) struct Place {
    engine: Arc<Engine>,
    key: Arc<str>,
    waiter: Arc<Waiter>,
    had_to_wait: bool,
}

impl Place {
    /// Takes a place at the end. If that is the front, the request is sent: only the database knows for sure who has the lock.
    pub(in crate::lock::engine) fn join(
        engine: &Arc<Engine>,
        claim: Claim,
        wanted: &super::super::Request,
        deadline: Instant,
    ) -> Self {
        let (key, holder) = (Arc::clone(&claim.key), Arc::clone(&claim.holder));
        let (reply, answer) = oneshot::channel();
        let mut request = Request::Ready(Acquire { claim, reply });
        let mut queues = engine.queues();
        let state = queues.keys.entry(Arc::clone(&key)).or_default();
        let first = state.waiters.is_empty() || planted!(TwoRequests);
        let to_send = if first && !state.is_being_released() {
            take(&mut request)
        } else {
            None
        };
        let waiter = Arc::new(Waiter {
            holder,
            manager: wanted.manager,
            is_told_of_losses: wanted.is_told_of_losses,
            since: Instant::now(),
            deadline,
            first: AtomicBool::new(first),
            changed: Notify::new(),
            request: Mutex::new(request),
            expected: Mutex::new(Expected::Answer(answer)),
            watched: AtomicBool::new(false),
            seen: Mutex::new(None),
            received: Mutex::new(None),
        });
        if planted!(QueueJumper) {
            state.waiters.push_front(Arc::clone(&waiter))
        } else {
            state.waiters.push_back(Arc::clone(&waiter))
        }
        engine.look_when_due(&mut queues, waiter.due());
        drop(queues);
        let place = Self {
            engine: Arc::clone(engine),
            key,
            waiter,
            had_to_wait: to_send.is_none(),
        };
        engine.send(to_send);
        place
    }

    /// Whether others waited already, or had not yet released the lock.
    pub(in crate::lock::engine) fn had_to_wait(&self) -> bool {
        self.had_to_wait
    }

    /// Whether everyone who came before has gone.
    pub(in crate::lock::engine) fn is_first(&self) -> bool {
        self.waiter.first.load(Ordering::Acquire)
    }

    /// Waits to become the first.
    pub(in crate::lock::engine) async fn changed(&self) {
        self.waiter.changed.notified().await;
    }

    /// Since when the request has been under way; None while it is ready.
    pub(in crate::lock::engine) fn under_way_since(&self) -> Option<Instant> {
        match &*self.waiter.request() {
            Request::Ready(_) => None,
            Request::UnderWay { since, .. } => Some(*since),
        }
    }

    /// Sends the request if it is ready.
    pub(in crate::lock::engine) fn send(&self) {
        let ready = take(&mut self.waiter.request());
        self.engine.send(ready);
    }

    /// Waits for what comes of the request: the claim comes back. It fails when the waiter has been
    /// removed; with an error if the database had failed by then.
    pub(in crate::lock::engine) async fn answered(&self) -> Result<Answered, Option<StoreError>> {
        poll_fn(|context| match &mut *self.waiter.expected() {
            Expected::Answer(answer) => Pin::new(answer)
                .poll(context)
                .map_err(|_| Some(StoreError::closed())),
            Expected::Nothing(failure) => Poll::Ready(Err(failure.clone())),
        })
        .await
    }

    /// Makes the request ready anew. If the lock may have become free since the last one was sent, it is sent at once.
    pub(in crate::lock::engine) fn ask_again(&self, claim: Claim) {
        let (reply, answer) = oneshot::channel();
        let mut expected = self.waiter.expected();
        if matches!(*expected, Expected::Nothing(_)) {
            return;
        }
        *expected = Expected::Answer(answer);
        let mut request = self.waiter.request();
        let heard = matches!(*request, Request::UnderWay { heard: true, .. });
        *request = Request::Ready(Acquire { claim, reply });
        let to_send = if heard { take(&mut request) } else { None };
        drop(request);
        drop(expected);
        self.engine.send(to_send);
    }

    /// Returns when this waiter has to send the request itself, if it has not been sent before
    /// that. The first waiter sends it when the lock expires that this process holds on the key, or
    /// now if this process holds none. Every other waiter only waits, until its deadline at most.
    /// So does the first one while the lock is being released, since the end of the release sends
    /// the request.
    pub(in crate::lock::engine) fn ask_at(&self, deadline: Instant) -> Instant {
        if !self.is_first() {
            return deadline;
        }
        self.held_here().unwrap_or_else(|| {
            let is_being_released = {
                let queues = self.engine.queues();
                queues.keys.get(&self.key).is_some_and(Key::is_being_released)
            };
            if is_being_released {
                deadline
            } else {
                Instant::now()
            }
        })
    }

    /// When the lock expires that this process itself has on the key, if it has one.
    pub(in crate::lock::engine) fn held_here(&self) -> Option<Instant> {
        self.own_hold().map(|hold| self.expect_end_of(&hold))
    }

    fn own_hold(&self) -> Option<Arc<Hold>> {
        let queues = self.engine.queues();
        let holds = &queues.keys.get(&self.key)?.holds;
        holds.iter().find(|hold| hold.is_held()).cloned()
    }

    /// Its release will send the request: only its end by other ways is to be looked out for.
    fn expect_end_of(&self, hold: &Hold) -> Instant {
        *self.waiter.seen() = Some(Seen {
            row: Some(hold.row.to_string()),
            expires_at: None,
        });
        Instant::now() + hold.remaining() + AFTER_EXPIRY
    }

    /// Notes whose row stands in the way, and has the store look out for its end; answers when that row expires.
    pub(in crate::lock::engine) fn saw(&self, row: Option<&LockRow>) -> Instant {
        if let Some(row) = row
            && let Some(hold) = self.own_hold()
            && *hold.row == *row.id
        {
            return self.expect_end_of(&hold);
        }
        if !self.waiter.watched.swap(true, Ordering::AcqRel) {
            self.engine.store.watch(&self.key, true);
            self.engine.poller.quicken();
        }
        *self.waiter.seen() = Some(Seen {
            row: row.map(|row| row.id.clone()),
            expires_at: row.map(|row| row.expires_at),
        });
        row.map_or_else(|| Instant::now() + PASSING, |row| expiry(row) + AFTER_EXPIRY)
    }

    /// The lock, if it was handed over in memory.
    pub(in crate::lock::engine) fn received(&self) -> Option<Arc<Hold>> {
        self.waiter.received().take()
    }

    pub(in crate::lock::engine) fn failure(&self) -> Option<StoreError> {
        self.engine
            .queues()
            .keys
            .get(&self.key)
            .and_then(|state| state.failure.clone())
    }

    pub(in crate::lock::engine) fn note_failure(&self, failure: Option<StoreError>) {
        if let Some(state) = self.engine.queues().keys.get_mut(&self.key) {
            state.failure = failure;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiter.unwatch(&self.engine, &self.key);
        let to_send = self.engine.queues().leave(&self.key, &self.waiter);
        self.engine.send(to_send);
    }
}
