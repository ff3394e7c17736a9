//! One key as this process sees it, as a pure state machine: who waits in which order, which request
//! is under way, whose row stands in the way, and when to ask the database again.
//!
//! It has no clock, timer or channel. The driver tells it what happened ([`Event`]) and at what time,
//! and carries out what it answers ([`Effect`]). Only the first waiter asks the database, and
//! [`Key::ask_at`] alone decides when.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::retry;
use crate::lock::boot_time::BootTime;
use crate::lock::error::StoreError;
use crate::lock::lease::time::AFTER_EXPIRY;
use crate::lock::operation::AcquisitionId;
use crate::lock::surroundings::planted;

mod terms;

pub(crate) use terms::{Answer, Counted, Effect, Event, Now, Outcome, Row, Waiter};
use terms::{Asking, Ours, Seen};

/// How long a caller waits after its deadline for a request that is still under way. No caller may
/// wait longer than one second after its deadline.
pub(crate) const GRACE: Duration = Duration::from_millis(900);
/// How long after its deadline a waiter is removed that has not left by itself. It is longer than
/// [`GRACE`], because a request that was sent in time may still be answered.
pub(crate) const OVERDUE: Duration = Duration::from_secs(1);
/// How soon to ask again when a lock was held and its row then gone: it is changing hands.
const CHANGING_HANDS: Duration = Duration::from_millis(5);
/// How often in a row a lock goes from a holder to a waiter of the same process before other
/// processes get their chance.
const MOST_HAND_OFFS: u32 = 16;
/// After how long a lock that has been handed off is not handed off again, before other processes
/// get their chance.
const LONGEST_TURN: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    waiters: VecDeque<Waiter>,
    ours: Option<Ours>,
    asking: Option<Asking>,
    next: Next,
    /// The row that the poller compares with what it finds.
    seen: Option<Seen>,
    turn: Option<Turn>,
    /// How often in a row the database has failed.
    failures: u32,
    /// What the database last said, if it failed: what those behind the first are told when their
    /// time is up.
    failure: Option<StoreError>,
}

/// Hand-offs in a row within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Turn {
    began: BootTime,
    hand_offs: u32,
}

impl Turn {
    fn is_over(self, now: BootTime) -> bool {
        self.hand_offs >= MOST_HAND_OFFS || self.began.until(now) >= LONGEST_TURN
    }
}

/// When the first waiter asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Next {
    Now,
    At(Instant),
    /// When this process no longer has the lock; at once if it has not got it.
    #[default]
    AfterOurs,
}

impl Key {
    pub(crate) fn on(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let joins = matches!(event, Event::Join(_));
        match event {
            Event::Join(waiter) if planted!(TwoRequests) => {
                effects.push(Effect::Ask(waiter.id.clone()));
                self.join(waiter);
            }
            Event::Join(waiter) => self.join(waiter),
            Event::Leave(id) => self.leave(&id, &mut effects),
            Event::Due(id) => self.due(now, &id, &mut effects),
            Event::Answered(id, answer) => self.answered(now, &id, answer, &mut effects),
            Event::MayBeFree => self.may_be_free(),
            Event::Observed(row) => {
                let is_as_seen = match (&self.seen, row) {
                    (Some(seen), Some(row)) => seen.is(&row),
                    (Some(_), None) => false,
                    (None, _) => true,
                };
                if !is_as_seen && !planted!(BlindPoller) {
                    self.may_be_free();
                }
            }
            Event::RemoveOverdue => self.remove_overdue(now, &mut effects),
            Event::Leaving(id) => self.leaving(&id),
            Event::Release {
                id,
                may_be_handed_off,
                is_clock_known,
            } => self.release(now, &id, may_be_handed_off, is_clock_known, &mut effects),
            Event::Ended(id) => self.ended(&id),
            Event::Extended { id, until } => self.extended(&id, until, &mut effects),
        }
        self.ask_if_due(now, &mut effects);
        if joins {
            self.count_conflict_of_last(&mut effects);
        }
        effects
    }

    /// When the first waiter's request is to be sent; None while nobody waits or a request is under
    /// way. Nothing else decides whether a key's request may be sent.
    fn ask_at(&self, now: Now) -> Option<Instant> {
        if self.asking.is_some() || self.waiters.is_empty() {
            return None;
        }
        Some(match (self.next, &self.ours) {
            (Next::At(time), _) => time,
            (Next::AfterOurs, Some(ours)) if now.belief < ours.until => {
                now.timer_at(ours.until) + AFTER_EXPIRY
            }
            (Next::Now | Next::AfterOurs, _) => now.timer,
        })
    }

    fn ask_if_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.ask_at(now).is_some_and(|time| time <= now.timer)
            && let Some(first) = self.waiters.front()
        {
            self.asking = Some(Asking::since(now, &first.id));
            effects.push(Effect::Ask(first.id.clone()));
        }
    }

    /// Whoever joins and is not asked for at once has met others.
    fn count_conflict_of_last(&mut self, effects: &mut Vec<Effect>) {
        if let Some(last) = self.waiters.back_mut()
            && self.asking.as_ref().is_none_or(|asking| asking.id != last.id)
        {
            last.met_conflict = true;
            effects.push(Effect::Count(last.id.clone(), Counted::Conflict));
        }
    }

    /// When a waiter's [`Event::Due`] is due.
    pub(crate) fn wake_at(&self, now: Now, id: &AcquisitionId, deadline: Instant) -> Instant {
        match &self.asking {
            Some(asking) if asking.id == *id => deadline.max(asking.since + GRACE),
            _ if self.is_first(id) => self.ask_at(now).map_or(deadline, |time| time.min(deadline)),
            _ => deadline,
        }
    }

    /// When the next waiter is to be removed that has not left by itself.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        let deadlines = self.waiters.iter().map(|waiter| waiter.deadline);
        deadlines.min().map(|deadline| deadline + OVERDUE)
    }

    /// Whether the poller has to look at the key.
    pub(crate) fn is_awaited(&self) -> bool {
        self.seen.is_some() && !self.waiters.is_empty()
    }

    pub(crate) fn waiters(&self) -> impl Iterator<Item = &AcquisitionId> {
        self.waiters.iter().map(|waiter| &waiter.id)
    }

    pub(crate) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Has the lock expire that this process has, without anybody noticing.
    #[cfg(test)]
    pub(super) fn expire(&mut self, until: BootTime) {
        if let Some(ours) = &mut self.ours {
            ours.until = until;
        }
    }

    fn is_first(&self, id: &AcquisitionId) -> bool {
        self.waiters.front().is_some_and(|first| first.id == *id)
    }

    fn is_held(&self, now: Now) -> bool {
        let is_believed = |ours: &Ours| !ours.is_leaving && now.belief < ours.until;
        self.ours.as_ref().is_some_and(is_believed)
    }

    /// Our lock, if `id` has it.
    fn ours(&mut self, id: &AcquisitionId) -> Option<&mut Ours> {
        self.ours.as_mut().filter(|ours| ours.id == *id)
    }

    fn join(&mut self, waiter: Waiter) {
        if self.waiters.is_empty() {
            // Only the database knows for sure who has the lock, unless we are giving it up.
            let is_leaving = self.ours.as_ref().is_some_and(|ours| ours.is_leaving);
            self.next = if is_leaving { Next::AfterOurs } else { Next::Now };
            self.failures = 0;
        }
        if planted!(QueueJumper) {
            self.waiters.insert(self.waiters.len().min(1), waiter)
        } else {
            self.waiters.push_back(waiter)
        }
    }

    fn leave(&mut self, id: &AcquisitionId, effects: &mut Vec<Effect>) {
        if !self.is_first(id) {
            self.waiters.retain(|waiter| waiter.id != *id);
            return;
        }
        self.waiters.pop_front();
        if !planted!(ForgottenSuccessor) {
            self.asking = None;
        }
        self.next = Next::AfterOurs;
        self.failures = 0;
        self.seen = self.ours.as_ref().map(Ours::as_seen);
        match self.waiters.front() {
            Some(next) => effects.push(Effect::Rearm(next.id.clone())),
            None => self.failure = None,
        }
    }

    fn due(&mut self, now: Now, id: &AcquisitionId, effects: &mut Vec<Effect>) {
        let Some(deadline) = self
            .deadline_of(id)
            .filter(|deadline| *deadline <= now.timer || planted!(EarlyTimeout))
        else {
            return;
        };
        let outcome = match &self.asking {
            Some(asking) if asking.id == *id => {
                if now.timer < deadline.max(asking.since + GRACE) {
                    return;
                }
                effects.push(Effect::Count(id.clone(), Counted::BackendError));
                Outcome::NoAnswer(self.failure.clone())
            }
            _ if !self.is_first(id) => self.failure.clone().map_or(Outcome::TimedOut, Outcome::Failed),
            _ if self.is_held(now) => Outcome::TimedOut,
            _ => {
                self.next = Next::Now; // asks a last time
                return;
            }
        };
        effects.push(Effect::Tell(id.clone(), outcome));
    }

    fn deadline_of(&self, id: &AcquisitionId) -> Option<Instant> {
        let waiter = self.waiters.iter().find(|waiter| waiter.id == *id);
        waiter.map(|waiter| waiter.deadline)
    }

    fn answered(&mut self, now: Now, id: &AcquisitionId, answer: Answer, effects: &mut Vec<Effect>) {
        let Some(asking) = self.asking.take_if(|asking| asking.id == *id) else {
            return;
        };
        let Some(first) = self.waiters.front_mut() else {
            return;
        };
        let is_over = first.deadline <= now.timer;
        let mut is_told = false;
        match answer {
            Answer::Won { until } => {
                if first.met_conflict {
                    effects.push(Effect::Count(id.clone(), Counted::HandOff));
                }
                if let Some(until) = until {
                    self.ours = Some(Ours::held(id, until));
                }
                self.failure = None;
                is_told = true;
            }
            Answer::Held(row) => {
                if !std::mem::replace(&mut first.met_conflict, true) {
                    effects.push(Effect::Count(id.clone(), Counted::Conflict));
                }
                (self.failure, self.failures) = (None, 0);
                if is_over {
                    is_told = true;
                    effects.push(Effect::Tell(id.clone(), Outcome::TimedOut));
                } else {
                    self.saw(now, id, row, effects);
                }
            }
            Answer::Failed { error, jitter } => {
                effects.push(Effect::Count(id.clone(), Counted::BackendError));
                self.failure = Some(error.clone());
                self.next = Next::At(now.timer + retry::wait(self.failures) * jitter / 1_000);
                self.failures = self.failures.saturating_add(1);
                if is_over || !error.transient {
                    is_told = true;
                    effects.push(Effect::Tell(id.clone(), Outcome::Failed(error)));
                }
            }
        }
        if is_told {
            // It leaves now; until then nobody asks on its behalf.
            self.asking = Some(asking);
        } else if asking.is_outdated {
            self.next = Next::Now;
        }
    }

    /// Notes whose row stands in the way, and when to ask again.
    fn saw(&mut self, now: Now, id: &AcquisitionId, row: Option<Row>, effects: &mut Vec<Effect>) {
        if let (Some(row), Some(ours)) = (&row, &self.ours)
            && row.id == ours.id
            && now.belief < ours.until
        {
            self.seen = Some(ours.as_seen());
            self.next = Next::AfterOurs;
            return;
        }
        effects.push(Effect::Watch(id.clone()));
        self.next = Next::At(match &row {
            Some(row) => now.timer + row.expires_in + AFTER_EXPIRY,
            None => now.timer + CHANGING_HANDS,
        });
        self.seen = Some(Seen {
            expires_at: row.as_ref().map(|row| row.expires_at),
            id: row.map(|row| row.id),
        });
    }

    fn may_be_free(&mut self) {
        match &mut self.asking {
            // The database may have looked before.
            Some(asking) => asking.is_outdated = true,
            None => self.next = Next::Now,
        }
    }

    fn leaving(&mut self, id: &AcquisitionId) {
        if let Some(ours) = self.ours(id) {
            ours.is_leaving = true;
        }
    }

    fn release(
        &mut self,
        now: Now,
        id: &AcquisitionId,
        may_be_handed_off: bool,
        is_clock_known: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.leaving(id);
        let Some(ours) = self
            .ours
            .clone()
            .filter(|ours| ours.id == *id && may_be_handed_off)
        else {
            return effects.push(Effect::Delete);
        };
        // The lock is not for a waiter whose time is over.
        while self.asking.is_none()
            && let Some(first) = self.waiters.front()
            && first.deadline <= now.timer
        {
            let first = first.id.clone();
            self.remove(now, &first, effects);
        }
        let mut turn = self.turn.take().unwrap_or(Turn {
            began: now.belief,
            hand_offs: 0,
        });
        let Some(next) = self.waiters.front() else {
            return effects.push(Effect::Delete);
        };
        if self.asking.is_some() || turn.is_over(now.belief) {
            return effects.push(Effect::Delete);
        }
        turn.hand_offs += 1;
        self.turn = Some(turn);
        self.asking = Some(Asking::since(now, &next.id));
        let left = now.belief.until(ours.until);
        let is_optimistic = next.allows_optimistic_handoff && is_clock_known && left >= next.ttl / 2;
        let to = next.id.clone();
        if is_optimistic {
            // Until the database has answered, the row is the predecessor's and expires with it.
            self.ours = Some(Ours::held(&to, now.belief + left.min(next.ttl)));
        }
        effects.push(Effect::HandOff { to, is_optimistic });
    }

    fn ended(&mut self, id: &AcquisitionId) {
        if planted!(LostWakeUp) {
            return;
        }
        if self.ours.take_if(|ours| ours.id == *id).is_some() || self.ours.is_none() {
            self.may_be_free();
        }
    }

    fn extended(&mut self, id: &AcquisitionId, until: BootTime, effects: &mut Vec<Effect>) {
        let Some(ours) = self.ours(id) else { return };
        let is_sooner = until < std::mem::replace(&mut ours.until, until);
        if is_sooner {
            self.may_be_free(); // the first waiter counts on a later end
        }
        if let Some(first) = self.waiters.front() {
            effects.push(Effect::Rearm(first.id.clone()));
        }
    }

    fn remove_overdue(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let overdue =
            |waiter: &&Waiter| waiter.deadline + OVERDUE <= now.timer && !planted!(ForgottenOverdueWaiter);
        // From the back, so that nobody becomes the first who is to be removed.
        let overdue = self.waiters.iter().rev().filter(overdue);
        for id in overdue.map(|waiter| waiter.id.clone()).collect::<Vec<_>>() {
            self.remove(now, &id, effects);
        }
    }

    fn remove(&mut self, now: Now, id: &AcquisitionId, effects: &mut Vec<Effect>) {
        let outcome = match &self.asking {
            Some(asking) if asking.id == *id => {
                if now.timer >= asking.since + GRACE {
                    Outcome::NoAnswer(self.failure.clone())
                } else {
                    Outcome::TimedOut
                }
            }
            _ => self.failure.clone().map_or(Outcome::TimedOut, Outcome::Failed),
        };
        effects.push(Effect::Remove(id.clone(), outcome));
        self.leave(id, effects);
    }
}

#[cfg(test)]
mod tests;
