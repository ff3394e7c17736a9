//! A waiter's request and what comes of it, shared by the caller's future and by whoever sends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::holds::Hold;
use super::key::{Counted, GRACE, Outcome};
use super::{Engine, Progress, Request};
use crate::lock::boot_time::BootTime;
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, Attempt, Claim};
use crate::mutex::lock;

/// What becomes of a request: the claim comes back.
pub(super) type Answered = (Claim, Result<Attempt, StoreError>);

/// A caller that waits.
pub(super) struct Seat {
    pub(super) key: Arc<str>,
    pub(super) holder: Arc<str>,
    pub(super) manager: u64,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    progress: Arc<dyn Progress>,
    /// The caller's future has to look again when its time comes.
    news: Notify,
    /// Whether the store looks out for the lock on this caller's behalf.
    is_watched: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// The request, while it is not under way.
    request: Option<Acquire>,
    expected: Expected,
    /// The lock, if it was handed off in memory.
    received: Option<Arc<Hold>>,
}

enum Expected {
    Answer(oneshot::Receiver<Answered>),
    /// The waiter was removed.
    Nothing(Outcome),
}

/// What a removed waiter leaves. Dropping it gives back what was won.
pub(super) type Left = (Option<Acquire>, Option<Answered>);

impl Seat {
    pub(super) fn new(
        claim: Claim,
        wanted: &Request,
        deadline: Instant,
        progress: Arc<dyn Progress>,
    ) -> Self {
        let (key, holder) = (Arc::clone(&claim.key), Arc::clone(&claim.holder));
        let (request, answer) = request(claim, deadline);
        Self {
            key,
            holder,
            manager: wanted.manager,
            since: Instant::now(),
            deadline,
            progress,
            news: Notify::new(),
            is_watched: AtomicBool::new(false),
            state: Mutex::new(State {
                request: Some(request),
                expected: Expected::Answer(answer),
                received: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes the request, to be sent now.
    pub(super) fn take_request(&self) -> Option<Acquire> {
        let mut request = self.state().request.take()?;
        request.claim.sent_at = BootTime::now();
        Some(request)
    }

    /// Makes the request ready again; false if the waiter was removed, and then the claim is dropped.
    pub(super) fn put_back(&self, claim: Claim) {
        let mut state = self.state();
        if matches!(state.expected, Expected::Answer(_)) {
            let (request, answer) = request(claim, self.deadline);
            state.request = Some(request);
            state.expected = Expected::Answer(answer);
        }
    }

    /// Polls for what comes of the request. It fails when the waiter has been removed.
    pub(super) fn poll_answer(&self, context: &mut Context<'_>) -> Poll<Result<Answered, Outcome>> {
        match &mut self.state().expected {
            Expected::Answer(answer) => std::pin::Pin::new(answer)
                .poll(context)
                .map_err(|_| Outcome::Failed(StoreError::closed())),
            Expected::Nothing(outcome) => Poll::Ready(Err(outcome.clone())),
        }
    }

    pub(super) fn receive(&self, hold: Arc<Hold>) {
        self.state().received = Some(hold);
    }

    /// The lock, if it was handed off in memory.
    pub(super) fn received(&self) -> Option<Arc<Hold>> {
        self.state().received.take()
    }

    /// Takes everything back. If the caller's future ever runs again, it gets the outcome, or that of
    /// an answer that it has not read.
    pub(super) fn remove(&self, outcome: Outcome) -> Left {
        let mut state = self.state();
        let answered = match &mut state.expected {
            Expected::Answer(answer) => {
                answer.close(); // the claim of a later answer is dropped, and gives its row back
                answer.try_recv().ok()
            }
            Expected::Nothing(_) => None,
        };
        state.expected = Expected::Nothing(match &answered {
            Some((_, Err(error))) => Outcome::Failed(error.clone()),
            Some(_) => Outcome::TimedOut,
            None => outcome,
        });
        let left = (state.request.take(), answered);
        drop(state);
        self.rearm();
        left
    }

    /// Has the caller's future look again when its time comes.
    pub(super) fn rearm(&self) {
        self.news.notify_one();
    }

    pub(super) async fn rearmed(&self) {
        self.news.notified().await;
    }

    pub(super) fn count(&self, counted: Counted) {
        match counted {
            Counted::Conflict => self.progress.conflict(),
            Counted::HandOff => self.progress.hand_off(),
            Counted::BackendError => self.progress.backend_error(),
        }
    }

    /// Has the store look out for the lock.
    pub(super) fn watch(&self, engine: &Engine) {
        if !self.is_watched.swap(true, Ordering::AcqRel) {
            engine.store.watch(&self.key, true);
            engine.poller.quicken();
        }
    }

    pub(super) fn unwatch(&self, engine: &Engine) {
        if self.is_watched.swap(false, Ordering::AcqRel) {
            engine.store.watch(&self.key, false);
        }
    }

    pub(super) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

fn request(claim: Claim, deadline: Instant) -> (Acquire, oneshot::Receiver<Answered>) {
    let (reply, answer) = oneshot::channel();
    let until = deadline + GRACE;
    (Acquire { claim, until, reply }, answer)
}
