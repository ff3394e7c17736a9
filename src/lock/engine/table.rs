//! The keys that this process waits for or holds, and how the effects of their state machines are
//! carried out.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::holds::{Hold, Tombstones};
use super::key::{Effect, Event, Key, Now, Outcome};
use super::seat::{Left, Seat};
use crate::lock::boot_time::BootTime;
use crate::lock::error::StoreError;
use crate::lock::lease::life::Status;
use crate::lock::operation::{Acquire, AcquisitionId, Operation};
use crate::lock::surroundings::{Map, planted};

/// Fewer keys are not worth sweeping.
const LEAST_SWEPT: usize = 1024;

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
pub(super) struct Table {
    keys: Map<Arc<str>, State>,
    /// Those who wait, by the ids of their acquisitions.
    seats: Map<AcquisitionId, Arc<Seat>>,
    ended: Tombstones,
    sweep_at: usize,
    /// The process ends: nobody is granted anything.
    has_ended: bool,
    /// When waiters are to be removed next; None while no task is there to do so.
    pub(super) next_removal: Option<Instant>,
}

#[derive(Default)]
struct State {
    machine: Key,
    /// The latest acquisition of this process, until it has ended.
    hold: Option<Arc<Hold>>,
}

/// What an event leads to, to be carried out when the table is unlocked.
#[derive(Default)]
#[must_use]
pub(super) struct Todo {
    requests: Vec<Acquire>,
    removed: Vec<(Arc<Seat>, Left)>,
    rearmed: Vec<Arc<Seat>>,
    watched: Vec<Arc<Seat>>,
    /// What the waiter is told whose future brought the event about.
    pub(super) told: Option<Outcome>,
    /// To whom the released lock goes, and whether in memory. None: its row is to be deleted.
    pub(super) hand_off: Option<(Arc<Seat>, Acquire, bool)>,
}

impl Todo {
    fn add(&mut self, seats: &mut Map<AcquisitionId, Arc<Seat>>, effect: Effect) {
        match effect {
            Effect::Ask(id) => self
                .requests
                .extend(seats.get(&id).and_then(|seat| seat.take_request())),
            Effect::Tell(_, outcome) => self.told = Some(outcome),
            Effect::Remove(id, outcome) => {
                if let Some(seat) = seats.remove(&id) {
                    let left = seat.remove(outcome);
                    self.removed.push((seat, left));
                }
            }
            Effect::Rearm(id) => self.rearmed.extend(seats.get(&id).cloned()),
            Effect::Watch(id) => self.watched.extend(seats.get(&id).cloned()),
            Effect::Count(id, counted) => {
                if let Some(seat) = seats.get(&id) {
                    seat.count(counted);
                }
            }
            Effect::HandOff { to, is_optimistic } => {
                self.hand_off = seats.get(&to).and_then(|seat| {
                    let request = seat.take_request()?;
                    Some((Arc::clone(seat), request, is_optimistic))
                });
            }
            Effect::Delete => {}
        }
    }

    /// Has a waiter fail because the process ends.
    fn refuse(&mut self, seat: Arc<Seat>) {
        let left = seat.remove(Outcome::Failed(StoreError::ended()));
        self.removed.push((seat, left));
    }

    pub(super) fn carry_out(self, engine: &Engine) {
        // Before the requests: a release after the database's look must be heard of.
        for seat in self.watched {
            seat.watch(engine);
        }
        for request in self.requests {
            engine.store.submit(Operation::Acquire(request));
        }
        for (seat, left) in self.removed {
            if planted!(ForgottenPrize) {
                std::mem::forget(left);
            } else {
                drop(left);
            }
            seat.unwatch(engine);
        }
        for seat in self.rearmed {
            seat.rearm();
        }
    }
}

impl Table {
    /// Tells a key's state machine what happened.
    pub(super) fn on(&mut self, key: &Arc<str>, now: Now, event: Event) -> Todo {
        let mut todo = Todo::default();
        self.on_also(&mut todo, key, now, event);
        todo
    }

    fn on_also(&mut self, todo: &mut Todo, key: &Arc<str>, now: Now, event: Event) {
        let Entry::Occupied(mut entry) = self.keys.entry(Arc::clone(key)) else {
            return;
        };
        for effect in entry.get_mut().machine.on(now, event) {
            todo.add(&mut self.seats, effect);
        }
        if entry.get().is_idle() {
            entry.remove();
        }
    }

    /// Tells the state machines of some keys what happened.
    pub(super) fn on_each(&mut self, keys: &[Arc<str>], event: impl Fn(&Arc<str>) -> Event) -> Todo {
        let (now, mut todo) = (Now::read(), Todo::default());
        for key in keys {
            self.on_also(&mut todo, key, now, event(key));
        }
        todo
    }

    pub(super) fn join(&mut self, now: Now, seat: &Arc<Seat>, waiter: super::key::Waiter) -> Todo {
        if self.has_ended {
            let mut todo = Todo::default();
            todo.refuse(Arc::clone(seat));
            return todo;
        }
        self.seats.insert(Arc::clone(&waiter.id), Arc::clone(seat));
        self.keys.entry(Arc::clone(&seat.key)).or_default();
        self.on(&seat.key, now, Event::Join(waiter))
    }

    pub(super) fn leave(&mut self, key: &Arc<str>, id: &AcquisitionId) -> Todo {
        if self.seats.remove(id).is_none() {
            return Todo::default();
        }
        self.on(key, Now::read(), Event::Leave(Arc::clone(id)))
    }

    /// Removes whoever waits, and lets nobody join any more.
    pub(super) fn end(&mut self) -> Todo {
        self.has_ended = true;
        let (now, mut todo) = (Now::read(), Todo::default());
        // All of them first, so that nobody's leaving has the next one ask.
        for (id, seat) in std::mem::take(&mut self.seats) {
            self.on_also(&mut todo, &seat.key, now, Event::Leave(id));
            todo.refuse(seat);
        }
        todo
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) fn is_seated(&self, id: &AcquisitionId) -> bool {
        self.seats.contains_key(id)
    }

    pub(super) fn machine(&self, key: &Arc<str>) -> Option<&Key> {
        self.keys.get(key).map(|state| &state.machine)
    }

    /// Those keys among the `wanted` ones that somebody waits for.
    pub(super) fn keys_where(&self, wanted: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let waited_for = self.keys.iter().filter(|(_, state)| state.machine.has_waiters());
        let keys = waited_for.map(|(key, _)| key);
        keys.filter(|key| wanted(key)).cloned().collect()
    }

    /// The keys that the poller has to look at.
    pub(super) fn awaited(&self) -> Vec<Arc<str>> {
        let awaited = self.keys.iter().filter(|(_, state)| state.machine.is_awaited());
        awaited.map(|(key, _)| Arc::clone(key)).collect()
    }

    pub(super) fn remove_overdue(&mut self) -> Todo {
        let now = Now::read();
        let is_due = |state: &State| state.machine.overdue_at().is_some_and(|due| due <= now.timer);
        let due = self.keys.iter().filter(|(_, state)| is_due(state));
        let due: Vec<_> = due.map(|(key, _)| Arc::clone(key)).collect();
        let todo = self.on_each(&due, |_| Event::RemoveOverdue);
        let dues = self.keys.values().filter_map(|state| state.machine.overdue_at());
        self.next_removal = dues.min();
        todo
    }

    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let now = Instant::now();
        let ids = self.keys.values().flat_map(|state| state.machine.waiters());
        let mut waiting: Vec<_> = ids
            .filter_map(|id| self.seats.get(id))
            .map(|seat| Waiting {
                key: Arc::clone(&seat.key),
                holder: Arc::clone(&seat.holder),
                since: seat.waited(now),
            })
            .collect();
        waiting.sort_by_key(|waiting| Reverse(waiting.since));
        waiting
    }

    fn all_holds(&self) -> impl Iterator<Item = &Arc<Hold>> {
        self.keys.values().filter_map(|state| state.hold.as_ref())
    }

    pub(super) fn held_and_waiting(&self) -> (usize, usize) {
        let now = BootTime::now();
        let held = self.all_holds().filter(|hold| hold.is_held_at(now)).count();
        (held, self.seats.len())
    }

    pub(super) fn in_use(&self) -> bool {
        !self.seats.is_empty() || self.all_holds().any(|hold| hold.is_held())
    }

    /// Whether there are rows of this process that have not expired, those included whose release is
    /// under way.
    pub(super) fn may_have_rows(&self) -> bool {
        let now = BootTime::now();
        self.all_holds()
            .any(|hold| matches!(hold.status(), Status::Held | Status::Leaving) && now < hold.valid_until())
    }

    pub(super) fn holds_of(&self, manager: Option<u64>) -> Vec<Arc<Hold>> {
        let wanted = |hold: &&Arc<Hold>| manager.is_none_or(|manager| hold.manager == manager);
        self.all_holds().filter(wanted).cloned().collect()
    }

    /// The leases whose holders believe in them.
    pub(super) fn leases(&self) -> Vec<Arc<Hold>> {
        let now = BootTime::now();
        let leases = self
            .all_holds()
            .filter(|hold| hold.is_lease() && hold.is_held_at(now));
        leases.cloned().collect()
    }

    /// This process's latest acquisition of the key, if it has not ended.
    pub(super) fn hold(&self, key: &Arc<str>) -> Option<&Arc<Hold>> {
        self.keys.get(key)?.hold.as_ref()
    }

    /// Whether this process has acquired the key under this name once.
    pub(super) fn has_held(&self, key: &str, holder: &str) -> bool {
        self.ended.contains(key, holder) && !planted!(ForgottenTombstone)
    }

    /// Notes what this process holds. What it held under the same key before has ended, as the row
    /// was free.
    pub(super) fn set_hold(&mut self, hold: Arc<Hold>) {
        if self.keys.len() > self.sweep_at {
            self.sweep();
        }
        let state = self.keys.entry(Arc::clone(&hold.key)).or_default();
        if let Some(earlier) = state.hold.replace(hold) {
            earlier.superseded();
            self.ended.insert(&earlier.key, &earlier.holder);
        }
    }

    /// Notes that a hold is over; its row may still stand.
    pub(super) fn forget_hold(&mut self, hold: &Hold) {
        self.ended.insert(&hold.key, &hold.holder);
        if let Some(state) = self.keys.get_mut(&hold.key) {
            state.hold.take_if(|other| other.id == hold.id);
        }
    }

    #[cfg(test)]
    pub(super) fn expire(&mut self, key: &Arc<str>, until: BootTime) {
        self.keys
            .entry(Arc::clone(key))
            .or_default()
            .machine
            .expire(until);
    }

    /// Forgets what expired without ever being released. Its cost is spread over the acquisitions
    /// since the last time.
    pub(super) fn sweep(&mut self) {
        let ended = &mut self.ended;
        self.keys.retain(|_, state| {
            if let Some(hold) = state.hold.take_if(|hold| !hold.is_held()) {
                ended.insert(&hold.key, &hold.holder);
            }
            !state.is_idle()
        });
        self.sweep_at = (self.keys.len() * 2).max(LEAST_SWEPT);
    }
}

impl State {
    /// What the machine knows of a lock that has ended is worth nothing while nobody waits.
    fn is_idle(&self) -> bool {
        self.hold.is_none() && !self.machine.has_waiters()
    }
}
