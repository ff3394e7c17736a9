//! The lag of an event loop, watched from outside.
//!
//! Where the loop can be had to tell, [`Monitor::runs`] is called when it begins to run what is ready, and [`Monitor::waits`]
//! when it goes to sleep: its lag is the time between them, in which nothing else could run, and a loop that has nothing to do
//! is never woken. Elsewhere a timer of the loop's own calls [`Monitor::beat`] every `interval`: its lag is how late that comes.
//!
//! A thread, [`Monitor::watch`], sleeps until a lag reaches the threshold; only then does it ask its [`Witness`] what the loop
//! is doing. Between stalls neither side waits for the other, and nothing here knows of Python.

mod pulse;
mod reading;
mod recent;
mod registry;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pulse::{Next, Pulse};
pub use reading::{Reading, Verdict};
pub use registry::{Lags, Registry};

use crate::mutex::lock;

/// Who is called when a loop stalls, in the thread that watches.
pub trait Witness {
    /// A lag has reached the threshold.
    fn stalled(&self, monitor: &Monitor) -> Verdict;

    /// A stall that was found [`Verdict::Blocked`] has ended after so long.
    fn ended(&self, lag: Duration);
}

/// The meeting place of a loop and the thread that watches it.
pub struct Monitor {
    pulse: Mutex<Pulse>,
    changed: Condvar,
}

impl Monitor {
    /// A monitor of a loop that will give a sign in `interval` from now at the latest.
    #[must_use]
    pub fn new(interval: Duration, threshold: Duration) -> Self {
        Self {
            pulse: Mutex::new(Pulse::new(threshold, Instant::now() + interval)),
            changed: Condvar::new(),
        }
    }

    /// The loop begins to run what is ready.
    pub fn runs(&self) {
        let now = Instant::now();
        self.sign(now, Some(now));
    }

    /// The loop goes to sleep until something is ready.
    pub fn waits(&self) {
        self.sign(Instant::now(), None);
    }

    /// The loop's timer fires, and will again in `interval`. False if it need not: the monitor was stopped.
    pub fn beat(&self, interval: Duration) -> bool {
        let now = Instant::now();
        self.sign(now, Some(now + interval));
        !self.pulse().is_stopped()
    }

    fn sign(&self, now: Instant, next_due: Option<Instant>) {
        if self.pulse().sign(now, next_due) {
            self.changed.notify_all();
        }
    }

    /// Stops measuring, and ends [`Self::watch`]. What is overdue by now counts as lag.
    pub fn stop(&self) {
        self.pulse().stop(Instant::now());
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.pulse().is_stopped()
    }

    /// What was measured until now.
    pub fn reading(&self) -> Reading {
        self.pulse().reading(Instant::now())
    }

    /// The longest lag in each second since the start, or in each of the last [`recent::RECENT_SECONDS`]; of the present one at the end.
    pub fn recent(&self) -> Vec<Duration> {
        self.pulse().recent(Instant::now())
    }

    /// The lag that grows now, if it has reached the threshold.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.pulse().stalled_for(Instant::now())
    }

    /// Watches until the monitor is stopped or the loop has gone.
    pub fn watch(&self, witness: &impl Witness) {
        let mut pulse = self.pulse();
        loop {
            match pulse.next(Instant::now()) {
                Next::Stop => return,
                Next::Sleep(None) => {
                    pulse = self.changed.wait(pulse).unwrap_or_else(PoisonError::into_inner);
                }
                Next::Sleep(Some(limit)) => {
                    let waited = self.changed.wait_timeout(pulse, limit);
                    pulse = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Next::AskWitness => {
                    drop(pulse);
                    let verdict = witness.stalled(self);
                    pulse = self.pulse();
                    pulse.judge(verdict);
                }
                Next::TellEnd(lag) => {
                    drop(pulse);
                    witness.ended(lag);
                    pulse = self.pulse();
                }
            }
        }
    }

    /// Held for a few instructions, by the loop's thread too: never while a witness is asked.
    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        lock(&self.pulse)
    }
}
