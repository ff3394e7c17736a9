//! The life of one acquisition, as a pure state machine: until when its holder may believe in it, how
//! it is renewed, and how it ends.
//!
//! It has no clock, timer or channel. What happens is an [`Event`], with its time; what is to be done
//! is an [`Effect`]. A renewal never writes a row anew, so it can't revive a lock that another has
//! taken, nor one that has been released meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::trusted_until;
use crate::lock::boot_time::BootTime;
use crate::lock::surroundings::planted;

mod terms;

pub(crate) use terms::{Answer, Arrival, Counted, Effect, Event, Expiry, Status, Told};

/// When a renewal that failed is tried again: sooner if little time is left, within these bounds.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Life {
    ttl: Duration,
    status: Status,
    /// Why it was lost; the first reason stands.
    loss: Option<String>,
    /// Until when the row certainly stands.
    valid_until: BootTime,
    expiry: Expiry,
    /// When the database was last known to have the row so.
    confirmed_at: BootTime,
    /// The time to live that the row was given last.
    given: Duration,
    /// How long before the row's expiry its holder stops believing in it.
    margin: Duration,
    is_lease: bool,
    /// When to renew it next without being asked.
    renew_at: Option<BootTime>,
    end: Option<BootTime>,
    /// Whether it has been renewed for the last time that max_hold allows.
    is_at_max_hold: bool,
    arrival: Option<Arrival>,
    wanted: VecDeque<Wanted>,
    renewal: Renewal,
    /// Why the latest renewal failed, until one succeeds.
    failure: Option<String>,
    /// The shortest time to live of those renewals that may yet be carried out, since their answers
    /// were lost. Whenever that happens, the row lasts that long from then on, and perhaps no longer.
    doubt: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Wanted {
    ttl: Duration,
    /// Who asked for it; None for a renewal without being asked.
    number: Option<u64>,
}

/// The renewal that has begun: the first of the wanted ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Renewal {
    None,
    UnderWay {
        sent: BootTime,
    },
    /// It has failed, and is tried again then.
    Failed {
        retry_at: BootTime,
    },
}

impl Life {
    pub(crate) fn new(ttl: Duration, valid_until: BootTime, expiry: Expiry) -> Self {
        Self {
            ttl,
            status: Status::Held,
            loss: None,
            valid_until,
            expiry,
            confirmed_at: BootTime::default(),
            given: ttl,
            margin: Duration::ZERO,
            is_lease: false,
            renew_at: None,
            end: None,
            is_at_max_hold: false,
            arrival: None,
            wanted: VecDeque::new(),
            renewal: Renewal::None,
            failure: None,
            doubt: None,
        }
    }

    /// It begins with a hand-off in memory, of which the database does not know yet.
    pub(crate) fn handed_off(ttl: Duration, valid_until: BootTime, expiry: Expiry) -> Self {
        Self {
            arrival: Some(Arrival::OnItsWay),
            ..Self::new(ttl, valid_until, expiry)
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.status
    }

    pub(crate) fn loss(&self) -> Option<&String> {
        self.loss.as_ref()
    }

    pub(crate) fn valid_until(&self) -> BootTime {
        self.valid_until
    }

    pub(crate) fn expiry(&self) -> Expiry {
        self.expiry
    }

    /// Whether a renewal is due so soon after the latest one that was answered.
    pub(crate) fn is_renewed_within(&self, time: Duration) -> bool {
        self.renewal == Renewal::None && self.renew_at.is_some_and(|due| due <= self.confirmed_at + time)
    }

    /// None for what did not begin with a hand-off in memory.
    pub(crate) fn arrival(&self) -> Option<Arrival> {
        self.arrival
    }

    /// How long its holder may still believe in it without renewal.
    pub(crate) fn trusted_for(&self, now: BootTime) -> Duration {
        // A short renewal must leave something to believe in.
        let margin = self.margin.min(self.given / 2);
        now.until(self.valid_until).saturating_sub(margin)
    }

    pub(crate) fn is_held(&self, now: BootTime) -> bool {
        self.status == Status::Held && !self.trusted_for(now).is_zero()
    }

    /// When [`Event::Time`] is due; None when only another event can change anything.
    pub(crate) fn wake_at(&self, now: BootTime) -> Option<BootTime> {
        if self.status != Status::Held {
            return (!self.wanted.is_empty()).then_some(now);
        }
        let end_of_belief = now + self.trusted_for(now);
        let next = match &self.renewal {
            Renewal::UnderWay { .. } => None,
            _ if self.arrival == Some(Arrival::OnItsWay) => None,
            Renewal::Failed { retry_at } => Some(*retry_at),
            Renewal::None if self.wanted.is_empty() => self.renew_at,
            Renewal::None => Some(now),
        };
        Some(next.map_or(end_of_belief, |next| next.min(end_of_belief)))
    }

    /// Whether anything is left to do for whoever renews it.
    pub(crate) fn is_kept(&self) -> bool {
        let is_watched = self.renew_at.is_some() || self.is_at_max_hold;
        !self.wanted.is_empty() || (self.status == Status::Held && is_watched)
    }

    #[cfg(test)]
    pub(crate) fn expire(&mut self, until: BootTime) {
        self.valid_until = until;
    }

    pub(crate) fn on(&mut self, now: BootTime, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Keep {
                auto_renew,
                end,
                margin,
            } => self.keep(now, auto_renew, end, margin, &mut effects),
            Event::Renew { number, ttl } => {
                let number = Some(number);
                self.wanted.push_back(Wanted { ttl, number });
                effects.push(Effect::Changed);
            }
            Event::Answered(answer) => self.answered(now, answer, &mut effects),
            Event::Arrived(arrival) => self.arrived(now, arrival, &mut effects),
            Event::Lost(reason) => self.lose(reason, &mut effects),
            Event::Release => {
                if self.status == Status::Held {
                    self.end_as(Status::Leaving, &mut effects);
                }
            }
            Event::Released { was_gone } => self.released(was_gone, &mut effects),
            Event::Check => self.check(now, &mut effects),
            Event::Time => self.on_time(now, &mut effects),
        }
        effects
    }

    fn keep(
        &mut self,
        now: BootTime,
        auto_renew: bool,
        end: Option<BootTime>,
        margin: Duration,
        effects: &mut Vec<Effect>,
    ) {
        (self.is_lease, self.end, self.margin) = (true, end, margin);
        if auto_renew {
            self.plan_renewal(now);
        }
        if self.status == Status::Lost {
            effects.push(Effect::Count(Counted::Loss));
        }
    }

    /// Renews when a third of the time has passed that the row has been given at most. What its holder
    /// has renewed for longer is left as it is until then.
    fn plan_renewal(&mut self, now: BootTime) {
        let left = if planted!(RenewalThatUndoesALongerOne) {
            self.ttl
        } else {
            self.trusted_for(now)
        };
        self.renew_at = Some(now + (left - left.min(self.ttl) * 2 / 3));
    }

    fn check(&mut self, now: BootTime, effects: &mut Vec<Effect>) {
        if self.status == Status::Held && self.trusted_for(now).is_zero() {
            let reason = match (&self.renewal, &self.failure) {
                (Renewal::None, _) if self.is_at_max_hold => {
                    "it was held for as long as max_hold allows".to_owned()
                }
                (Renewal::None, _) => "its time ran out".to_owned(),
                (_, failure) => {
                    let cause = failure.as_deref().unwrap_or("the database did not answer");
                    format!("its time ran out before it could be renewed: {cause}")
                }
            };
            self.lose(&reason, effects);
        }
    }

    fn on_time(&mut self, now: BootTime, effects: &mut Vec<Effect>) {
        self.check(now, effects);
        if self.status != Status::Held {
            self.renewal = Renewal::None;
            for wanted in std::mem::take(&mut self.wanted) {
                wanted.tell(Told::NotHeld, effects);
            }
            return;
        }
        if self.arrival == Some(Arrival::OnItsWay) {
            return;
        }
        match &self.renewal {
            Renewal::UnderWay { .. } => return,
            Renewal::Failed { retry_at } if now < *retry_at => return,
            Renewal::Failed { .. } => {}
            Renewal::None => self.want_if_due(now),
        }
        if let Some(Wanted { ttl, .. }) = self.wanted.front().copied() {
            // If the answer is lost, the shorter of the two times must be believed.
            self.given = self.given.min(ttl);
            if !planted!(UnansweredRenewalIsTrusted) {
                self.set_valid_until(self.valid_until.min(trusted_until(now, ttl)), effects);
            }
            self.renewal = Renewal::UnderWay { sent: now };
            effects.push(Effect::Send {
                ttl,
                until: now + self.trusted_for(now),
            });
        }
    }

    fn want_if_due(&mut self, now: BootTime) {
        if !self.wanted.is_empty() || self.renew_at.is_none_or(|time| now < time) {
            return;
        }
        let number = None;
        match self.end.map(|end| now.until(end)).filter(|left| *left < self.ttl) {
            None => self.wanted.push_back(Wanted {
                ttl: self.ttl,
                number,
            }),
            Some(left) => {
                // The last renewal reaches just as far as the lock may be held.
                (self.is_at_max_hold, self.renew_at) = (true, None);
                if left > now.until(self.valid_until) {
                    self.wanted.push_back(Wanted { ttl: left, number });
                }
            }
        }
    }

    fn answered(&mut self, now: BootTime, answer: Answer, effects: &mut Vec<Effect>) {
        let (Renewal::UnderWay { sent }, Some(wanted)) = (&self.renewal, self.wanted.front().copied()) else {
            return;
        };
        let sent = *sent;
        self.renewal = Renewal::None;
        match answer {
            Answer::Renewed(expiry) => {
                self.wanted.pop_front();
                let ttl = self.doubt.map_or(wanted.ttl, |doubt| doubt.min(wanted.ttl));
                (self.given, self.expiry, self.failure) = (ttl, expiry, None);
                self.set_valid_until(trusted_until(sent, ttl), effects);
                self.confirmed_at = sent;
                if self.renew_at.is_some() {
                    self.plan_renewal(now);
                }
                effects.extend([Effect::Extended, Effect::Count(Counted::Renewal)]);
                wanted.tell(Told::Renewed(expiry), effects);
            }
            Answer::Gone if planted!(RenewalThatRevives) => {
                self.wanted.pop_front();
                self.valid_until = trusted_until(sent, wanted.ttl);
            }
            Answer::Gone => {
                self.wanted.pop_front();
                self.lose(
                    "another holder has it, or its row was deleted or expired",
                    effects,
                );
                wanted.tell(Told::NotHeld, effects);
            }
            Answer::Failed { cause, .. } if planted!(OneFailedRenewalIsALoss) => self.lose(&cause, effects),
            Answer::Failed { cause, is_in_doubt } => {
                if is_in_doubt && !planted!(ForgottenDoubtOfARenewal) {
                    self.doubt = Some(self.doubt.map_or(wanted.ttl, |doubt| doubt.min(wanted.ttl)));
                }
                effects.push(Effect::Count(Counted::BackendError));
                let pause = (self.trusted_for(now) / 3).clamp(FIRST_RETRY, LAST_RETRY);
                let retry_at = now + pause;
                self.renewal = Renewal::Failed { retry_at };
                self.failure = Some(cause);
            }
            Answer::Closed => {
                self.wanted.pop_front();
                self.renew_at = None;
                wanted.tell(Told::Closed, effects);
            }
        }
        self.on_time(now, effects);
    }

    fn arrived(&mut self, now: BootTime, arrival: Arrival, effects: &mut Vec<Effect>) {
        self.arrival = Some(arrival);
        match arrival {
            Arrival::Here { until, expiry } => {
                (self.valid_until, self.expiry) = (until, expiry);
                if self.renew_at.is_some() {
                    self.plan_renewal(now);
                }
                effects.push(Effect::Extended);
            }
            Arrival::Refused => self.lose("another holder has it, or its row was deleted", effects),
            Arrival::OnItsWay | Arrival::Unknown => {}
        }
        effects.push(Effect::Changed);
    }

    fn released(&mut self, was_gone: bool, effects: &mut Vec<Effect>) {
        if self.status != Status::Leaving {
            return;
        }
        self.end_as(Status::Released, effects);
        if was_gone {
            self.status = Status::Lost;
            let reason = "the release found no row: another holder has the lock, or the row was deleted";
            self.note_loss(reason, effects);
        }
    }

    fn lose(&mut self, reason: &str, effects: &mut Vec<Effect>) {
        if self.status == Status::Held {
            self.end_as(Status::Lost, effects);
            effects.push(Effect::Lost);
            self.note_loss(reason, effects);
        }
    }

    fn note_loss(&mut self, reason: &str, effects: &mut Vec<Effect>) {
        self.loss = Some(reason.to_owned());
        if self.is_lease {
            effects.push(Effect::Count(Counted::Loss));
        }
    }

    /// Whoever waits for the end must learn that it comes sooner.
    fn set_valid_until(&mut self, time: BootTime, effects: &mut Vec<Effect>) {
        if time < std::mem::replace(&mut self.valid_until, time) {
            effects.push(Effect::Changed);
        }
    }

    fn end_as(&mut self, status: Status, effects: &mut Vec<Effect>) {
        self.status = status;
        effects.push(Effect::Changed);
    }
}

impl Wanted {
    fn tell(self, told: Told, effects: &mut Vec<Effect>) {
        effects.extend(self.number.map(|number| Effect::Tell(number, told)));
    }
}

#[cfg(test)]
mod tests;
