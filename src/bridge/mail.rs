//! The workers' side of an inbox: how the end of a call reaches the loop that waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::SegQueue;

use super::state::state;
use super::wakeup::Wakeup;

/// The numbers of ended calls, on their way to a loop's thread.
pub(super) struct Mail {
    queue: SegQueue<usize>,
    /// Whether the loop has been woken and has not drained yet: then it needs no second wake-up.
    woken: AtomicBool,
    pub(super) wakeup: Wakeup,
}

impl Mail {
    pub(super) fn new(wakeup: Wakeup) -> Self {
        Self {
            queue: SegQueue::new(),
            woken: AtomicBool::new(false),
            wakeup,
        }
    }

    /// Wakes the loop, unless a wake-up is under way.
    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.wakeup.wake();
        }
    }

    /// Before the loop's thread reads the queue: from here on a push wakes the loop again.
    pub(super) fn open(&self) {
        // In this order. A push between the two lines sends no wake-up, since `woken` is still
        // true, but its number is on the queue that is read next. In the other order its wake-up
        // would be sent and then cleared, and `woken` would stay true: no later push would wake the
        // loop.
        self.wakeup.clear();
        // A read-modify-write, not a store: it takes part in the workers' release sequence, so that
        // the number of whoever found `woken` still true is visible to the `pop` that follows.
        self.woken.swap(false, Ordering::AcqRel);
    }

    /// The number of a call that has ended.
    pub(super) fn pop(&self) -> Option<usize> {
        self.queue.pop()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// The promise to tell an inbox that a call has ended. Kept by `Drop`, so that it holds for a call
/// that panics or is aborted.
pub(super) struct Ticket {
    mail: Arc<Mail>,
    number: usize,
}

impl Ticket {
    /// The promise for the call of this number, which counts as under way from now on.
    pub(super) fn new(mail: Arc<Mail>, number: usize) -> Self {
        state().calls_under_way.fetch_add(1, Ordering::Relaxed);
        Self { mail, number }
    }

    pub(super) fn mail(&self) -> &Mail {
        &self.mail
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Counted down before the loop is woken: whoever resumes does not find its own call under
        // way.
        state().calls_under_way.fetch_sub(1, Ordering::Relaxed);
        self.mail.queue.push(self.number);
        self.mail.wake();
    }
}

/// How many awaitables of this process were started whose futures have neither ended nor been
/// dropped.
pub fn calls_under_way() -> usize {
    state().calls_under_way.load(Ordering::Relaxed)
}
