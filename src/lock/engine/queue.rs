//! The waiters for each key in the order they came, and what this process holds.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Engine;
use super::holds::{Hold, Tombstones};
use crate::lock::boot_time::BootTime;
use crate::lock::error::StoreError;
use crate::lock::operation::LockRow;

/// Waits this long when a lock was found held and then its row was gone: it is being passed from hand to hand.
const PASSING: Duration = Duration::from_millis(5);
/// A row expires when the clock has passed its expiry: look just after.
const AFTER_EXPIRY: Duration = Duration::from_millis(1);
/// So many keys are not worth sweeping.
const FEW: usize = 1024;
/// No timer is set further ahead.
const FAR: f64 = 1e8;

/// Someone in this process who waits for a lock.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The lock's key.
    pub key: Arc<str>,
    /// The name it would be held under.
    pub holder: Arc<str>,
    /// How long it has been waited for.
    pub since: Duration,
}

/// A lock that this process holds.
#[derive(Debug, Clone)]
pub struct Holding {
    /// The lock's key.
    pub key: Arc<str>,
    /// The holder's name.
    pub holder: Arc<str>,
    /// The row's id.
    pub row: Arc<str>,
}

#[derive(Default)]
pub(super) struct Queues {
    keys: HashMap<Arc<str>, Key>,
    over: Tombstones,
    sweep_at: usize,
}

#[derive(Default)]
struct Key {
    waiters: VecDeque<Arc<Waiter>>,
    holds: Vec<Arc<Hold>>,
    /// What the database last said, if it failed: what those behind the first are told when their time is up.
    failure: Option<StoreError>,
}

struct Waiter {
    holder: Arc<str>,
    since: Instant,
    first: AtomicBool,
    wake_up: Notify,
    /// The row that stands in the way, and when it expires: set while the poller is to look at it.
    seen: Mutex<Option<Seen>>,
}

struct Seen {
    row: Option<String>,
    expiry: Instant,
}

impl Waiter {
    fn seen(&self) -> std::sync::MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    pub(super) fn wake(&self, key: &Arc<str>) {
        if let Some(first) = self.keys.get(key).and_then(|key| key.waiters.front()) {
            first.wake_up.notify_one();
        }
    }

    pub(super) fn wake_all(&self) {
        self.wake_where(|_| true);
    }

    pub(super) fn wake_where(&self, wanted: impl Fn(&str) -> bool) {
        for (key, state) in &self.keys {
            if let Some(first) = state.waiters.front()
                && wanted(key)
            {
                first.wake_up.notify_one();
            }
        }
    }

    /// The keys that the database is waited for.
    pub(super) fn awaited(&self) -> Vec<Arc<str>> {
        let waits = |state: &Key| state.waiters.front().is_some_and(|first| first.seen().is_some());
        self.keys
            .iter()
            .filter(|(_, state)| waits(state))
            .map(|(key, _)| Arc::clone(key))
            .collect()
    }

    /// Wakes those whose row has gone, has been followed by another, or expires sooner than was seen.
    pub(super) fn compare(&self, asked: &[Arc<str>], rows: &[LockRow]) {
        let rows: HashMap<&str, &LockRow> = rows.iter().map(|row| (&*row.key, row)).collect();
        for key in asked {
            let Some(first) = self.keys.get(key).and_then(|state| state.waiters.front()) else {
                continue;
            };
            let as_seen = match (&*first.seen(), rows.get(&**key)) {
                (Some(seen), Some(row)) => {
                    seen.row.as_deref() == Some(&*row.id) && expiry(row) + AFTER_EXPIRY >= seen.expiry
                }
                (Some(_), None) => false,
                (None, _) => true,
            };
            if !as_seen {
                first.wake_up.notify_one();
            }
        }
    }

    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let now = Instant::now();
        let mut waiting: Vec<_> = self
            .keys
            .iter()
            .flat_map(|(key, state)| {
                state.waiters.iter().map(move |waiter| Waiting {
                    key: Arc::clone(key),
                    holder: Arc::clone(&waiter.holder),
                    since: now.saturating_duration_since(waiter.since),
                })
            })
            .collect();
        waiting.sort_by_key(|waiting| Reverse(waiting.since));
        waiting
    }

    pub(super) fn holding(&self) -> Vec<Holding> {
        self.keys
            .iter()
            .flat_map(|(key, state)| {
                state.holds.iter().map(|hold| Holding {
                    key: Arc::clone(key),
                    holder: Arc::clone(&hold.holder),
                    row: Arc::clone(&hold.row),
                })
            })
            .collect()
    }

    pub(super) fn held_and_waiting(&self) -> (usize, usize) {
        let now = BootTime::now();
        self.keys.values().fold((0, 0), |(held, waiting), state| {
            let holds = state.holds.iter().filter(|hold| hold.is_held_at(now));
            (held + holds.count(), waiting + state.waiters.len())
        })
    }

    pub(super) fn hold_of(&self, key: &Arc<str>, holder: &str) -> Result<Arc<Hold>, bool> {
        self.keys
            .get(key)
            .and_then(|state| {
                state
                    .holds
                    .iter()
                    .rev()
                    .find(|hold| &*hold.holder == holder)
                    .cloned()
            })
            .ok_or_else(|| self.over.contains(key, holder))
    }

    pub(super) fn hold_by(&self, key: &Arc<str>, manager: u64) -> Option<Arc<Hold>> {
        let holds = &self.keys.get(key)?.holds;
        holds.iter().rev().find(|hold| hold.manager == manager).cloned()
    }

    pub(super) fn holds_of(&self, manager: Option<u64>) -> Vec<Arc<Hold>> {
        let wanted = |hold: &&Arc<Hold>| manager.is_none_or(|manager| hold.manager == manager);
        self.keys
            .values()
            .flat_map(|state| state.holds.iter().filter(wanted).cloned())
            .collect()
    }

    pub(super) fn in_use(&self) -> bool {
        self.keys
            .values()
            .any(|key| !key.waiters.is_empty() || key.holds.iter().any(|hold| hold.is_held()))
    }

    /// Notes what this process holds. Whatever it held under the same key before is over, as the row was free.
    pub(super) fn hold(&mut self, hold: Arc<Hold>) {
        if self.keys.len() > self.sweep_at {
            self.sweep();
        }
        let state = self.keys.entry(Arc::clone(&hold.key)).or_default();
        for earlier in state.holds.drain(..) {
            earlier.superseded();
            self.over.insert(&earlier.key, &earlier.holder);
        }
        state.holds.push(hold);
    }

    /// Notes that it is over, and may let the next one try.
    pub(super) fn end_hold(&mut self, hold: &Hold, wake: Wake) {
        self.over.insert(&hold.key, &hold.holder);
        if let Entry::Occupied(mut entry) = self.keys.entry(Arc::clone(&hold.key)) {
            let state = entry.get_mut();
            state.holds.retain(|other| other.row != hold.row);
            match (state.waiters.front(), wake) {
                (Some(first), Wake::First) => first.wake_up.notify_one(),
                (Some(_), Wake::Nobody) => {}
                (None, _) if state.holds.is_empty() => drop(entry.remove()),
                (None, _) => {}
            }
        }
    }

    /// Forgets what expired without ever being released. Its cost is spread over the acquisitions since the last time.
    fn sweep(&mut self) {
        let over = &mut self.over;
        self.keys.retain(|_, state| {
            state.holds.retain(|hold| {
                let keep = hold.is_held();
                if !keep {
                    over.insert(&hold.key, &hold.holder);
                }
                keep
            });
            !state.waiters.is_empty() || !state.holds.is_empty()
        });
        self.sweep_at = (self.keys.len() * 2).max(FEW);
    }
}

/// Whether the next one is to try at once.
#[derive(Clone, Copy)]
pub(super) enum Wake {
    First,
    Nobody,
}

/// A caller's place in the queue for a key; left when dropped.
pub(super) struct Place {
    engine: Arc<Engine>,
    key: Arc<str>,
    waiter: Arc<Waiter>,
    watched: AtomicBool,
    came_first: bool,
}

impl Place {
    pub(super) fn join(engine: &Arc<Engine>, key: &Arc<str>, holder: &Arc<str>) -> Self {
        let mut queues = engine.queues();
        let waiters = &mut queues.keys.entry(Arc::clone(key)).or_default().waiters;
        let came_first = waiters.is_empty();
        let waiter = Arc::new(Waiter {
            holder: Arc::clone(holder),
            since: Instant::now(),
            first: AtomicBool::new(came_first),
            wake_up: Notify::new(),
            seen: Mutex::new(None),
        });
        waiters.push_back(Arc::clone(&waiter));
        drop(queues);
        Self {
            engine: Arc::clone(engine),
            key: Arc::clone(key),
            waiter,
            watched: AtomicBool::new(false),
            came_first,
        }
    }

    /// Whether nobody was waiting when this place was taken.
    pub(super) fn came_first(&self) -> bool {
        self.came_first
    }

    /// Waits until everyone who came before has gone.
    pub(super) async fn first(&self) {
        loop {
            self.waiter.wake_up.notified().await;
            if self.waiter.first.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// When the lock expires that this process itself has on the key, if it has one.
    pub(super) fn held_here(&self) -> Option<Instant> {
        let queues = self.engine.queues();
        let hold = queues
            .keys
            .get(&self.key)?
            .holds
            .iter()
            .find(|hold| hold.is_held())?;
        let expiry = Instant::now() + hold.remaining() + AFTER_EXPIRY;
        *self.waiter.seen() = Some(Seen {
            row: Some(hold.row.to_string()),
            expiry,
        });
        Some(expiry)
    }

    /// Waits for a wake-up, until `latest` at most; whether there was one. The poller looks out for the key meanwhile.
    pub(super) async fn wake_up(&self, latest: Instant) -> bool {
        self.engine.poller.start(&self.engine);
        tokio::select! {
            () = self.waiter.wake_up.notified() => true,
            () = sleep_until(latest) => false,
        }
    }

    /// Notes whose row stands in the way, and has the store look out for its end; answers when that row expires.
    pub(super) fn saw(&self, row: Option<&LockRow>) -> Instant {
        if !self.watched.swap(true, Ordering::AcqRel) {
            self.engine.store.watch(&self.key, true);
            self.engine.poller.quicken();
        }
        let expiry = row.map_or_else(|| Instant::now() + PASSING, |row| expiry(row) + AFTER_EXPIRY);
        *self.waiter.seen() = Some(Seen {
            row: row.map(|row| row.id.clone()),
            expiry,
        });
        expiry
    }

    pub(super) fn failure(&self) -> Option<StoreError> {
        self.engine
            .queues()
            .keys
            .get(&self.key)
            .and_then(|state| state.failure.clone())
    }

    pub(super) fn note_failure(&self, failure: Option<StoreError>) {
        if let Some(state) = self.engine.queues().keys.get_mut(&self.key) {
            state.failure = failure;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.watched.load(Ordering::Acquire) {
            self.engine.store.watch(&self.key, false);
        }
        let mut queues = self.engine.queues();
        if let Entry::Occupied(mut entry) = queues.keys.entry(Arc::clone(&self.key)) {
            let state = entry.get_mut();
            state.waiters.retain(|other| !Arc::ptr_eq(other, &self.waiter));
            if let Some(next) = state.waiters.front() {
                if !next.first.swap(true, Ordering::AcqRel) {
                    next.wake_up.notify_one();
                }
            } else if state.holds.is_empty() {
                entry.remove();
            } else {
                state.failure = None;
            }
        }
    }
}

fn expiry(row: &LockRow) -> Instant {
    Instant::now() + Duration::from_secs_f64(row.expires_in.clamp(0.0, FAR))
}
