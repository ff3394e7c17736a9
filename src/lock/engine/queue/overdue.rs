//! Waiters that are removed because their own task does not run.
//!
//! A waiter's task leaves the queue at the waiter's deadline. But the task may be on an event loop
//! that is blocked, closed or never run again. So the engine removes whoever is still there a second
//! later, and gives back what has been won for it meanwhile. If the task ever runs again, it finds
//! that the time is over.
//!
//! One task of the engine does so. It sleeps until the first waiter is due, and ends when nobody
//! waits any more.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Answered, Expected, Key, Queues, Request, Successor, Waiter};
use crate::lock::engine::{Engine, GRACE};
use crate::lock::operation::Acquire;
use crate::lock::surroundings::{self, planted};

/// The task that looks for waiters to remove.
#[derive(Default)]
pub(in crate::lock::engine) struct Overdue {
    /// It has to look sooner than it thought, or to end.
    sooner: Arc<Notify>,
}

impl Overdue {
    pub(in crate::lock::engine) fn stop(&self) {
        self.sooner.notify_one();
    }
}

async fn look(engine: Weak<Engine>, sooner: Arc<Notify>, mut next: Instant) {
    loop {
        tokio::select! {
            biased;
            () = sleep_until(next) => {}
            () = sooner.notified() => {}
        }
        let Some(engine) = engine.upgrade() else { return };
        match engine.remove_overdue() {
            Some(later) => next = later,
            None => return,
        }
    }
}

/// What a removed waiter leaves. Dropping its claims gives back what was won.
struct Left {
    key: Arc<str>,
    waiter: Arc<Waiter>,
    /// The next waiter's request, to be sent.
    next: Option<Acquire>,
    claims: (Request, Option<Answered>),
}

impl Engine {
    /// Has the waiters looked at when one is due.
    pub(super) fn look_when_due(&self, queues: &mut Queues, due: Instant) {
        let sooner = &self.overdue.sooner;
        match queues.next_look {
            Some(next) if next <= due => return,
            Some(_) => sooner.notify_one(),
            None => drop(surroundings::spawn(
                &self.runtime,
                look(Weak::clone(&self.weak), Arc::clone(sooner), due),
            )),
        }
        queues.next_look = Some(due);
    }

    /// Removes who is due; when the next one will be.
    fn remove_overdue(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut queues = self.queues();
        // From the back, so that nobody becomes the first who is to be removed.
        let overdue = |(key, state): (&Arc<str>, &Key)| {
            let waiters = state
                .waiters
                .iter()
                .rev()
                .filter(|waiter| waiter.due() <= now && !planted!(ForgottenOverdueWaiter));
            let named = waiters.map(|waiter| (Arc::clone(key), Arc::clone(waiter)));
            named.collect::<Vec<_>>()
        };
        let overdue: Vec<_> = queues.keys.iter().flat_map(overdue).collect();
        let left: Vec<_> = overdue
            .into_iter()
            .map(|(key, waiter)| self.remove(&mut queues, key, waiter))
            .collect();
        let waiters = queues.keys.values().flat_map(|state| &state.waiters);
        let next = waiters.map(|waiter| waiter.due()).min();
        queues.next_look = next;
        drop(queues);
        self.let_go(left);
        next
    }

    /// To whom the holder may hand the lock over: nobody whose time is over.
    pub(in crate::lock::engine) fn successor(&self, key: &Arc<str>) -> Option<Successor> {
        let now = Instant::now();
        let mut queues = self.queues();
        let mut left = Vec::new();
        while let Some(first) = queues.first(key)
            && first.deadline <= now
            && matches!(*first.request(), Request::Ready(_))
        {
            left.push(self.remove(&mut queues, Arc::clone(key), first));
        }
        let successor = queues.successor(key);
        drop(queues);
        self.let_go(left);
        successor
    }

    fn remove(&self, queues: &mut Queues, key: Arc<str>, waiter: Arc<Waiter>) -> Left {
        let failed_before = queues.keys.get(&key).and_then(|state| state.failure.clone());
        let mut expected = waiter.expected();
        let answered = match &mut *expected {
            Expected::Answer(answer) => {
                answer.close(); // the claim of a later answer is dropped, and gives its row back
                answer.try_recv().ok()
            }
            Expected::Nothing(_) => None,
        };
        let gone = Request::UnderWay {
            since: Instant::now(),
            heard: false,
        };
        let request = std::mem::replace(&mut *waiter.request(), gone);
        *expected = Expected::Nothing(match (&answered, &request) {
            (Some((_, Err(error))), _) => Some(error.clone()),
            (Some(_), _) => None,
            (None, Request::Ready(_)) => failed_before,
            (None, Request::UnderWay { since, .. }) => {
                (since.elapsed() >= GRACE).then(|| self.no_answer(failed_before))
            }
        });
        drop(expected);
        let next = queues.leave(&key, &waiter);
        Left {
            key,
            waiter,
            next,
            claims: (request, answered),
        }
    }

    fn let_go(&self, left: Vec<Left>) {
        for Left {
            key,
            waiter,
            next,
            claims,
        } in left
        {
            drop(claims);
            waiter.unwatch(self, &key);
            waiter.changed.notify_one();
            self.send(next);
        }
    }
}

impl Waiter {
    /// Has the store look out for the lock no longer on its behalf.
    pub(super) fn unwatch(&self, engine: &Engine, key: &Arc<str>) {
        if self.watched.swap(false, Ordering::AcqRel) {
            engine.store.watch(key, false);
        }
    }
}
