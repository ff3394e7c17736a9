//! The safety net under notifications: one look at all awaited keys, with one statement, at least every 0.3 s.
//!
//! It runs only while someone waits for a lock of another process. It starts quickly, since a notification is most easily
//! missed when the waiting has only just begun, and then slows down. Jitter keeps processes from looking in step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Engine;
use super::key::{Event, Row};
use crate::lock::operation::{LockRow, Operation};
use crate::lock::surroundings::{self, Map, planted};

const FIRST: Duration = Duration::from_millis(25);
const SLOWEST: Duration = Duration::from_millis(290);
/// A look that takes longer is given up: the next one comes anyway.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Poller {
    running: AtomicBool,
    quick: AtomicBool,
    soon: Notify,
}

impl Poller {
    /// Starts looking, unless it does already. Called within the runtime.
    pub(super) fn start(&self, engine: &Arc<Engine>) {
        if !self.running.swap(true, Ordering::AcqRel) || planted!(ManyPollers) {
            drop(surroundings::spawn(&engine.runtime, run(Arc::clone(engine))));
        }
    }

    /// Starts over with short pauses: someone has just begun to wait for another process.
    pub(super) fn quicken(&self) {
        self.quick.store(true, Ordering::Release);
    }

    /// Looks now.
    pub(super) fn look_soon(&self) {
        self.soon.notify_one();
    }
}

async fn run(engine: Arc<Engine>) {
    let mut pause = FIRST;
    loop {
        if engine.poller.quick.swap(false, Ordering::AcqRel) {
            pause = FIRST;
        }
        let wait = surroundings::jitter(pause, 0.85..1.0);
        tokio::select! {
            biased;
            () = tokio::time::sleep(if planted!(RestlessPoller) { wait / 25 } else { wait }) => pause = (pause * 2).min(SLOWEST),
            () = engine.poller.soon.notified() => {}
        }
        let keys = engine.table().awaited();
        if keys.is_empty() {
            engine.poller.running.store(false, Ordering::Release);
            // Someone may have begun to wait just before, trusting in this task.
            if engine.table().awaited().is_empty() || engine.poller.running.swap(true, Ordering::AcqRel) {
                return;
            }
            continue;
        }
        // On failure the next look will do; who waits has its own time limit.
        if let Ok(rows) = engine
            .ask(PATIENCE, |reply, until| Operation::Observe {
                keys: keys.clone(),
                until,
                reply,
            })
            .await
        {
            let rows: Map<&str, &LockRow> = rows.iter().map(|row| (&*row.key, row)).collect();
            let row = |key: &Arc<str>| rows.get(&**key).map(|row| Row::of(row));
            let todo = engine.table().on_each(&keys, |key| Event::Observed(row(key)));
            todo.carry_out(&engine);
        }
    }
}
