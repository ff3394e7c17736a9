//! The state of a watched loop: what is due, and what is known of it when it does not come.

use std::time::{Duration, Instant};

use super::reading::{Reading, Verdict};
use super::recent::Recent;
use crate::figures::{Histogram, LAG_BOUNDS};

/// What the watching thread is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again after so long, or when something changes.
    Sleep(Option<Duration>),
    /// Find out what the loop is doing: its beat is overdue by the threshold.
    AskWitness,
    /// Say that the stall is over, after so long.
    TellEnd(Duration),
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Beating,
    /// The witness is being asked; the loop may beat meanwhile.
    Asking,
    Blocked,
    Resting,
    Stopped,
}

pub(super) struct Pulse {
    threshold: Duration,
    /// When the loop ought to have given a sign at the latest. None: it waits for something to do.
    due: Option<Instant>,
    phase: Phase,
    /// When the watching thread meant to look again.
    planned_look: Option<Instant>,
    /// Whether it has seen the loop idle, and nothing else since.
    idle_before: bool,
    /// Whether it sleeps until it is woken.
    asleep: bool,
    ended: Option<Duration>,
    last: Duration,
    worst: Duration,
    stalls: u64,
    histogram: Histogram,
    recent: Recent,
}

impl Pulse {
    pub(super) fn new(threshold: Duration, due: Instant) -> Self {
        Self {
            threshold,
            due: Some(due),
            phase: Phase::Beating,
            planned_look: None,
            idle_before: false,
            asleep: false,
            ended: None,
            last: Duration::ZERO,
            worst: Duration::ZERO,
            stalls: 0,
            histogram: Histogram::new(LAG_BOUNDS),
            recent: Recent::new(due),
        }
    }

    /// The loop gives a sign, and says when the next is due. True if the watching thread waits for it.
    pub(super) fn sign(&mut self, now: Instant, next_due: Option<Instant>) -> bool {
        let due = std::mem::replace(&mut self.due, next_due);
        let lag = due.map(|due| now.saturating_duration_since(due));
        match (self.phase, lag) {
            (Phase::Stopped, _) => return false,
            (Phase::Resting, _) | (_, None) => {} // nothing was due, or nobody ran the loop
            (Phase::Blocked, Some(lag)) => {
                self.record(now, lag);
                self.ended = Some(lag);
            }
            (Phase::Beating | Phase::Asking, Some(lag)) => self.record(now, lag),
        }
        // Also while the witness is asked: its verdict is about a time that is over, and `judge` drops it.
        self.phase = Phase::Beating;
        self.idle_before = false;
        // The watching thread is woken only if it sleeps without limit. Waking it at every sign would cost a busy loop a system
        // call (futex) each time it turns.
        std::mem::take(&mut self.asleep)
    }

    pub(super) fn stop(&mut self, now: Instant) {
        let lag = self.overdue(now);
        if !lag.is_zero() {
            self.record(now, lag);
        }
        self.phase = Phase::Stopped;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.phase == Phase::Stopped {
            return Next::Stop;
        }
        // Before anything else: a stall that follows at once must not be told before the end of this one.
        if let Some(lag) = self.ended.take() {
            return Next::TellEnd(lag);
        }
        let overslept = self
            .planned_look
            .take()
            .is_some_and(|planned| now.saturating_duration_since(planned) > self.threshold / 2);
        match (self.phase, self.due) {
            // This thread has been late, too: the process was stopped or the machine slept, and the loop gets time to catch up.
            // Half the threshold tells that from the lateness of any timer.
            (Phase::Beating, _) if overslept => self.sleep_until(now, now + self.threshold),
            (Phase::Beating, Some(due)) if now >= due + self.threshold => {
                self.phase = Phase::Asking;
                Next::AskWitness
            }
            (Phase::Beating, Some(due)) => self.sleep_until(now, due + self.threshold),
            // A look now and then costs a busy loop less than waking this thread would.
            (Phase::Beating, None) if !std::mem::replace(&mut self.idle_before, true) => {
                self.sleep_until(now, now + self.threshold)
            }
            _ => {
                self.asleep = true;
                Next::Sleep(None)
            }
        }
    }

    fn sleep_until(&mut self, now: Instant, planned: Instant) -> Next {
        self.planned_look = Some(planned);
        Next::Sleep(Some(planned.saturating_duration_since(now)))
    }

    /// What the witness said. It is out of date if the loop has beaten since.
    pub(super) fn judge(&mut self, verdict: Verdict) {
        match (self.phase, verdict) {
            (Phase::Stopped, _) => {}
            (_, Verdict::Gone) => self.phase = Phase::Stopped,
            (Phase::Asking, Verdict::Blocked) => self.phase = Phase::Blocked,
            (Phase::Asking, Verdict::Resting) => self.phase = Phase::Resting,
            _ => {}
        }
    }

    pub(super) fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let lag = self.overdue(now);
        (lag >= self.threshold).then_some(lag)
    }

    pub(super) fn reading(&self, now: Instant) -> Reading {
        let overdue = self.overdue(now);
        Reading {
            current: if overdue.is_zero() { self.last } else { overdue },
            worst: self.worst.max(overdue),
            stalls: self.stalls + u64::from(overdue >= self.threshold),
            // The registry adds up what has ended: a stall under way would be counted again at its end.
            ended_stalls: self.stalls,
            histogram: self.histogram.snapshot(),
        }
    }

    /// The longest lag in each of the last seconds; that of a stall under way is the present second's.
    pub(super) fn recent(&mut self, now: Instant) -> Vec<Duration> {
        let overdue = self.overdue(now);
        let mut longest = self.recent.longest(now).to_vec();
        if let Some(present) = longest.last_mut() {
            *present = overdue.max(*present);
        }
        longest
    }

    fn overdue(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Resting | Phase::Stopped => Duration::ZERO,
            Phase::Beating | Phase::Asking | Phase::Blocked => self
                .due
                .map_or(Duration::ZERO, |due| now.saturating_duration_since(due)),
        }
    }

    fn record(&mut self, now: Instant, lag: Duration) {
        self.histogram.record(lag);
        self.recent.record(now, lag);
        self.last = lag;
        self.worst = self.worst.max(lag);
        self.stalls += u64::from(lag >= self.threshold);
    }
}

#[cfg(test)]
mod tests;
