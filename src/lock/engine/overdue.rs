//! Waiters that are removed because their callers do not run.
//!
//! A caller's future leaves the queue at its deadline. But the future may be on an event loop that is
//! blocked, closed or never run again. So the engine removes whoever is still there a second later,
//! and gives back what has been won for it meanwhile. If the future ever runs again, it finds that
//! the time is over.
//!
//! One task of the engine does so. It sleeps until the first waiter is due, and ends when nobody
//! waits any more.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Engine;
use super::key::OVERDUE;
use super::table::Table;
use crate::lock::surroundings;

/// The task that looks for waiters to remove.
#[derive(Default)]
pub(super) struct Overdue {
    /// It has to look sooner than it thought, or to end.
    sooner: Arc<Notify>,
}

impl Overdue {
    pub(super) fn stop(&self) {
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
        let mut table = engine.table();
        let todo = table.remove_overdue();
        let later = table.next_removal;
        drop(table);
        todo.carry_out(&engine);
        match later {
            Some(later) => next = later,
            None => return,
        }
    }
}

impl Engine {
    /// Has a waiter removed that is still there a second after its deadline.
    pub(super) fn remove_when_overdue(&self, table: &mut Table, deadline: Instant) {
        let due = deadline + OVERDUE;
        let sooner = &self.overdue.sooner;
        match table.next_removal {
            Some(next) if next <= due => return,
            Some(_) => sooner.notify_one(),
            None => {
                let look = look(self.weak.clone(), Arc::clone(sooner), due);
                drop(surroundings::spawn(&self.runtime, look));
            }
        }
        table.next_removal = Some(due);
    }
}
