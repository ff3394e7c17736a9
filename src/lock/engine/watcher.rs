//! Looks after the leases of this process: finds those whose rows have gone, as often as their loss
//! check says and the store bears, and once a second those whose time ran out while the machine
//! slept, when timers stand still.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::key::Now;
use super::{Engine, Hold};
use crate::lock::boot_time::BootTime;
use crate::lock::lease::life::Event;
use crate::lock::operation::{LockRow, Operation};
use crate::lock::surroundings::{self, Map, planted};

const PERIOD: Duration = Duration::from_secs(1);
/// Processes do not look in step. A look comes sooner by chance, and never later.
const JITTER: std::ops::Range<f64> = 0.85..1.0;
/// A look that takes longer is given up: the next one comes anyway.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long news of a release may take.
const LATE_NEWS: Duration = Duration::from_secs(1);
/// By how much the clock of belief gets ahead of that of timers when the machine has slept.
const SLEPT: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Watcher {
    is_running: AtomicBool,
    soon: Arc<Notify>,
}

impl Watcher {
    /// Looks for all rows now.
    pub(super) fn look_soon(&self) {
        if self.is_running.load(Ordering::Acquire) {
            self.soon.notify_one();
        }
    }
}

impl Engine {
    /// Looks after the leases from now on, for as long as there are any. Called within the runtime.
    pub(crate) fn watch_leases(&self) {
        if !self.watcher.is_running.swap(true, Ordering::AcqRel) {
            let soon = Arc::clone(&self.watcher.soon);
            drop(surroundings::spawn(
                &self.runtime,
                watch(Weak::clone(&self.weak), soon),
            ));
        }
    }

    /// Rows of some keys may have been deleted. Where looks are put off to spare the store, its news
    /// stands in for them.
    pub(super) fn may_be_lost(&self, wanted: impl Fn(&str) -> bool) {
        if self.store.looks_apart() <= PERIOD {
            return;
        }
        let now = BootTime::now();
        // What was released lately is most likely what made way for the new lease.
        let is_meant = |lease: &Hold| wanted(&lease.key) && lease.since.until(now) > LATE_NEWS;
        if self.table().leases().iter().any(|lease| is_meant(lease)) {
            self.watcher.look_soon();
        }
    }

    async fn find_losses(&self, leases: Vec<Arc<Hold>>) {
        let keys: Vec<_> = leases.iter().map(|lease| Arc::clone(&lease.key)).collect();
        let look = |reply, until| Operation::Observe {
            keys: keys.clone(),
            until,
            reply,
        };
        // On failure the next look will do.
        let Ok(rows) = self.ask(PATIENCE, look).await else {
            return;
        };
        let rows: Map<&str, &LockRow> = rows.iter().map(|row| (&*row.key, row)).collect();
        for lease in leases {
            let is_ours = rows.get(&*lease.key).is_some_and(|row| *row.id == *lease.id);
            if !is_ours && lease.should_stand() && !planted!(BlindLossCheck) {
                let _ = lease.on(self, Event::Lost("another holder has it, or its row was deleted"));
            }
        }
    }
}

async fn watch(engine: Weak<Engine>, soon: Arc<Notify>) {
    let mut before = Now::read();
    let (mut every, mut looked_at) = (PERIOD, before.timer);
    loop {
        let until_look = (looked_at + every).saturating_duration_since(Instant::now());
        let pause = surroundings::jitter(until_look.min(PERIOD), JITTER);
        let is_news = timeout(pause, soon.notified()).await.is_ok();
        let Some(engine) = engine.upgrade() else { return };
        let mut leases = engine.table().leases();
        if leases.is_empty() {
            engine.watcher.is_running.store(false, Ordering::Release);
            // A lease may have begun just before, trusting in this task.
            let has_begun = !engine.table().leases().is_empty();
            if !has_begun || engine.watcher.is_running.swap(true, Ordering::AcqRel) {
                return;
            }
            continue;
        }
        let now = Now::read();
        let awake = now.timer.saturating_duration_since(before.timer);
        if before.belief.until(now.belief) > awake + SLEPT {
            leases.iter().for_each(|lease| lease.wake());
        }
        // One statement serves all leases, so the one that is to be checked most often decides.
        let shortest = leases.iter().filter_map(|lease| lease.loss_check()).min();
        let mut apart = shortest.map_or(Duration::ZERO, |_| engine.store.looks_apart());
        every = shortest.unwrap_or(PERIOD).max(apart);
        if is_news || looked_at + every.mul_f64(JITTER.start) <= now.timer {
            if is_news {
                // A renewal that comes before the next look may come much later than this one.
                apart = Duration::ZERO;
            }
            leases.retain(|lease| lease.is_to_be_checked(apart));
            if !leases.is_empty() {
                engine.find_losses(leases).await;
            }
            // From its end, so that a slow database is not looked at all the time.
            looked_at = Instant::now();
        }
        before = now;
    }
}
