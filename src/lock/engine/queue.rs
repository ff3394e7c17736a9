//! The waiters for each key in the order they came, and what this process holds.
//!
//! A waiter leaves its request ready. Whoever learns that the lock may be free sends it, on whatever thread that is: the
//! waiter's own task, on an event loop perhaps, runs again only when there is an answer.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::OVERDUE;
use super::holds::{Hold, Status, Tombstones};
use crate::lock::boot_time::BootTime;
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, Attempt, Claim, LockRow, Won};
use crate::lock::surroundings::{Map, planted};
use crate::mutex::lock;

mod overdue;
mod place;

pub(super) use overdue::Overdue;
pub(super) use place::Place;

/// A row expires when the clock has passed its expiry: look just after.
const AFTER_EXPIRY: Duration = Duration::from_millis(1);
/// Seconds by which the same end may be told differently: Redis rounds those of old processes' locks.
const ROUNDING: f64 = 0.005;
/// So many keys are not worth sweeping.
const FEW: usize = 1024;
/// No timer is set further ahead.
const FAR: f64 = 1e8;
/// How often in a row a lock goes from a holder to a waiter of the same process before other processes get their chance.
const MOST_HANDED_OVER: u32 = 16;

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

#[derive(Default)]
pub(super) struct Queues {
    keys: Map<Arc<str>, Key>,
    over: Tombstones,
    sweep_at: usize,
    /// When the next look for waiters to remove is due; None while nobody looks.
    next_look: Option<Instant>,
}

#[derive(Default)]
struct Key {
    waiters: VecDeque<Arc<Waiter>>,
    holds: Vec<Arc<Hold>>,
    /// How often in a row the lock has been handed over.
    handed_over: u32,
    /// What the database last said, if it failed: what those behind the first are told when their time is up.
    failure: Option<StoreError>,
}

impl Key {
    /// Whether this process has the lock, as far as it knows.
    fn is_held(&self) -> bool {
        self.holds.iter().any(|hold| hold.is_held())
    }

    /// Whether this process is about to have released the lock: then the request is sent when it has.
    fn is_being_released(&self) -> bool {
        self.holds.iter().any(|hold| hold.status() == Status::Released)
    }
}

struct Waiter {
    holder: Arc<str>,
    manager: u64,
    is_told_of_losses: bool,
    since: Instant,
    deadline: Instant,
    first: AtomicBool,
    /// It has become the first: what it waits for is another thing now.
    changed: Notify,
    request: Mutex<Request>,
    expected: Mutex<Expected>,
    /// Whether the store looks out for the lock on its behalf.
    watched: AtomicBool,
    /// The row that stands in the way, and when it expires: set while the poller is to look at it.
    seen: Mutex<Option<Seen>>,
    /// The lock, if it was handed over in memory.
    received: Mutex<Option<Arc<Hold>>>,
}

struct Seen {
    row: Option<String>,
    /// By the database's clock, in Unix seconds. None for a lock of this process, which tells by itself when it will end sooner.
    expires_at: Option<f64>,
}

impl Seen {
    /// Whether there is nothing new: the same row, which ends no sooner.
    fn is(&self, row: &LockRow) -> bool {
        let ends_sooner = self
            .expires_at
            .is_some_and(|expires_at| row.expires_at < expires_at - ROUNDING);
        self.row.as_deref() == Some(&*row.id) && !ends_sooner
    }
}

/// What a waiter's task expects.
enum Expected {
    /// What comes of the request.
    Answer(Answer),
    /// Nothing more: the waiter was removed. The error is the database's, if that had failed by then.
    Nothing(Option<StoreError>),
}

/// A waiter's request for the row.
enum Request {
    /// To be sent by whoever hears that the lock may be free.
    Ready(Acquire),
    /// With the database, or answered.
    UnderWay {
        since: Instant,
        /// The lock may have become free after the database looked at it.
        heard: bool,
    },
}

/// A waiter who gets the lock next.
pub(super) struct Successor {
    pub(super) acquire: Acquire,
    waiter: Arc<Waiter>,
}

impl Successor {
    pub(super) fn is_told_of_losses(&self) -> bool {
        self.waiter.is_told_of_losses
    }

    pub(super) fn manager(&self) -> u64 {
        self.waiter.manager
    }

    /// Gives it the lock.
    pub(super) fn receive(self, hold: Arc<Hold>, won: Won) {
        *self.waiter.received() = Some(hold);
        self.acquire.won(won);
    }
}

/// What becomes of a request: the claim comes back.
type Answered = (Claim, Result<Attempt, StoreError>);
type Answer = oneshot::Receiver<Answered>;

impl Waiter {
    fn request(&self) -> std::sync::MutexGuard<'_, Request> {
        lock(&self.request)
    }

    /// Takes the request, to be sent now. If it is under way, it may have come too early: that is noted.
    fn hear(&self) -> Option<Acquire> {
        let mut request = self.request();
        if let Request::UnderWay { heard, .. } = &mut *request {
            *heard = true;
            return None;
        }
        take(&mut request)
    }

    /// Locked before the request where both are.
    fn expected(&self) -> std::sync::MutexGuard<'_, Expected> {
        lock(&self.expected)
    }

    /// When it is to be removed.
    fn due(&self) -> Instant {
        self.deadline + OVERDUE
    }

    fn received(&self) -> std::sync::MutexGuard<'_, Option<Arc<Hold>>> {
        lock(&self.received)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Option<Seen>> {
        lock(&self.seen)
    }
}

/// Takes a request that is ready, to be sent now.
fn take(request: &mut Request) -> Option<Acquire> {
    let under_way = Request::UnderWay {
        since: Instant::now(),
        heard: false,
    };
    match std::mem::replace(request, under_way) {
        Request::Ready(mut acquire) => {
            acquire.claim.sent_at = BootTime::now();
            Some(acquire)
        }
        earlier => {
            *request = earlier;
            None
        }
    }
}

impl Queues {
    /// The lock may be free: the first waiter's request, to be sent.
    pub(super) fn wake(&self, key: &Arc<str>) -> Option<Acquire> {
        self.keys.get(key)?.waiters.front()?.hear()
    }

    /// As [`Self::wake`], for all keys.
    pub(super) fn wake_all(&self) -> Vec<Acquire> {
        self.wake_where(|_| true)
    }

    /// As [`Self::wake`], for some keys.
    pub(super) fn wake_where(&self, wanted: impl Fn(&str) -> bool) -> Vec<Acquire> {
        self.keys
            .iter()
            .filter(|(key, _)| wanted(key))
            .filter_map(|(_, state)| state.waiters.front()?.hear())
            .collect()
    }

    fn first(&self, key: &Arc<str>) -> Option<Arc<Waiter>> {
        self.keys.get(key)?.waiters.front().cloned()
    }

    /// To whom the holder may hand the lock over; None also when it is other processes' turn.
    fn successor(&mut self, key: &Arc<str>) -> Option<Successor> {
        let state = self.keys.get_mut(key)?;
        let handed_over = std::mem::take(&mut state.handed_over);
        if handed_over == MOST_HANDED_OVER {
            return None;
        }
        let waiter = Arc::clone(state.waiters.front()?);
        let acquire = take(&mut waiter.request())?;
        state.handed_over = handed_over + 1;
        Some(Successor { acquire, waiter })
    }

    /// Takes a waiter out of the queue; the next one's request, to be sent.
    fn leave(&mut self, key: &Arc<str>, waiter: &Arc<Waiter>) -> Option<Acquire> {
        let Entry::Occupied(mut entry) = self.keys.entry(Arc::clone(key)) else {
            return None;
        };
        let state = entry.get_mut();
        if state
            .waiters
            .front()
            .is_some_and(|first| Arc::ptr_eq(first, waiter))
        {
            state.waiters.pop_front();
        } else {
            state.waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        }
        if let Some(next) = state.waiters.front() {
            if !next.first.swap(true, Ordering::AcqRel) && !planted!(ForgottenSuccessor) {
                next.changed.notify_one();
                if !state.is_held() && !state.is_being_released() {
                    return next.hear();
                }
            }
        } else if state.holds.is_empty() {
            entry.remove();
        } else {
            state.failure = None;
        }
        None
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

    /// The requests of those whose row has gone, has been followed by another, or expires sooner than was seen.
    pub(super) fn compare(&self, asked: &[Arc<str>], rows: &[LockRow]) -> Vec<Acquire> {
        let rows: Map<&str, &LockRow> = rows.iter().map(|row| (&*row.key, row)).collect();
        let request = |key: &Arc<str>| {
            let first = self.keys.get(key)?.waiters.front()?;
            let as_seen = match (&*first.seen(), rows.get(&**key)) {
                (Some(seen), Some(row)) => seen.is(row),
                (Some(_), None) => false,
                (None, _) => true,
            };
            if as_seen || planted!(BlindPoller) {
                None
            } else {
                first.hear()
            }
        };
        asked.iter().filter_map(request).collect()
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

    /// The hold that has this row.
    pub(super) fn hold_with(&self, key: &Arc<str>, row: &Arc<str>) -> Option<Arc<Hold>> {
        let holds = &self.keys.get(key)?.holds;
        holds.iter().find(|hold| hold.row == *row).cloned()
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

    /// Notes that it is over: the first waiter's request, to be sent, unless this process has the lock anew.
    pub(super) fn end_hold(&mut self, hold: &Hold) -> Option<Acquire> {
        self.forget_hold(hold);
        let state = self.keys.get(&hold.key)?;
        if state.is_held() || state.is_being_released() || planted!(LostWakeUp) {
            return None;
        }
        state.waiters.front()?.hear()
    }

    /// Notes that it is over, while its row may still stand in the way.
    pub(super) fn forget_hold(&mut self, hold: &Hold) {
        self.over.insert(&hold.key, &hold.holder);
        if let Entry::Occupied(mut entry) = self.keys.entry(Arc::clone(&hold.key)) {
            let state = entry.get_mut();
            state.holds.retain(|other| other.row != hold.row);
            if state.waiters.is_empty() && state.holds.is_empty() {
                entry.remove();
            }
        }
    }

    /// Forgets what expired without ever being released. Its cost is spread over the acquisitions since the last time.
    pub(super) fn sweep(&mut self) {
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

/// A row whose expiry is NaN never expires: PostgreSQL, too, sorts NaN after every other number.
fn expiry(row: &LockRow) -> Instant {
    let seconds = if row.expires_in.is_nan() {
        FAR
    } else {
        row.expires_in
    };
    Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, FAR))
}
