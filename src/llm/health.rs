//! The circuit breaker of one endpoint: a pure state machine that is told the time.
//!
//! Closed, it lets everything through and counts consecutive failures; at the threshold it opens and lets nothing through;
//! after the recovery time it is half-open and lets one probe through at a time, whose outcome closes or opens it again. A call that was
//! admitted before the state last changed tells nothing of the endpoint as it is now: it is counted in the totals, and
//! moves nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::circuit_news::{CircuitChange, CircuitNews, CircuitState};
use super::error::Error;
use crate::mutex::lock;

/// Microseconds since the Unix epoch. Python sees these as datetimes and may set them, so it is the wall clock that counts.
pub type Timestamp = i64;

/// How many response times are kept, unless the owner of the circuit wants more or fewer.
pub const RESPONSE_TIMES_KEPT: usize = 100;

/// The wall clock, now.
pub fn now() -> Timestamp {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

/// How a call ended, as far as its endpoint is concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CallOutcome {
    /// It answered, within so many milliseconds.
    Success(f64),
    /// It answered that the caller was wrong: it is alive.
    Rejected,
    /// It did not answer as it should.
    Failure,
}

/// What is known of an endpoint.
#[derive(Debug, Clone)]
pub struct EndpointHealth {
    pub endpoint: String,
    state: CircuitState,
    /// When its health was last asked for.
    pub last_health_check_at: Option<Timestamp>,
    /// When it last answered well.
    pub last_healthy_at: Option<Timestamp>,
    /// Failures since it last answered.
    pub consecutive_failures: u64,
    pub total_requests: u64,
    pub total_failures: u64,
    /// Since when the circuit is open, or half-open.
    pub opened_at: Option<Timestamp>,
    /// Consecutive failures that open the circuit.
    pub failure_threshold: u64,
    /// Seconds that it stays open.
    pub recovery_timeout_seconds: f64,
    /// Of the latest successes, in milliseconds, until somebody [takes them](Self::take_response_times).
    response_times: VecDeque<f64>,
    /// How many of them are kept at most.
    pub response_times_kept: usize,
    /// Grows with every change of state.
    epoch: u64,
    /// Since when a probe is under way.
    probe: Option<Timestamp>,
}

/// The right to make one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    epoch: u64,
    probe: bool,
}

impl EndpointHealth {
    pub fn new(endpoint: impl Into<String>, failure_threshold: u64, recovery_timeout_seconds: f64) -> Self {
        Self {
            endpoint: endpoint.into(),
            state: CircuitState::default(),
            last_health_check_at: None,
            last_healthy_at: None,
            consecutive_failures: 0,
            total_requests: 0,
            total_failures: 0,
            opened_at: None,
            failure_threshold,
            recovery_timeout_seconds,
            response_times: VecDeque::new(),
            response_times_kept: RESPONSE_TIMES_KEPT,
            epoch: 0,
            probe: None,
        }
    }

    /// The state as it was last left; an open circuit becomes half-open when it is next asked to [`admit`](Self::admit).
    pub fn state(&self) -> CircuitState {
        self.state
    }

    /// Changes the state by hand, or by an outcome.
    pub fn set_state(&mut self, state: CircuitState) {
        self.state = state;
        // Calls that were admitted before speak of another time: by their number they are known when they end.
        self.epoch += 1;
        self.probe = None;
    }

    /// Whether [`admit`](Self::admit) would refuse, without taking a probe's place.
    pub fn would_refuse(&self, now: Timestamp) -> bool {
        match self.state {
            CircuitState::Closed => false,
            CircuitState::Open => !self.has_recovered(self.opened_at, now),
            CircuitState::HalfOpen => !self.has_recovered_or_free(now),
        }
    }

    /// Asks to make a call; `None` if the circuit is open, or half-open with its probe under way.
    pub fn admit(&mut self, now: Timestamp) -> Option<Admission> {
        match self.state {
            CircuitState::Closed => {
                return Some(Admission {
                    epoch: self.epoch,
                    probe: false,
                });
            }
            CircuitState::Open => {
                // A circuit opened by hand, or a clock that was set back: the recovery time counts from here.
                if self.opened_at.is_none_or(|opened_at| opened_at > now) {
                    self.opened_at = Some(now);
                }
                if !self.has_recovered(self.opened_at, now) {
                    return None;
                }
                // Here and not by a timer: nothing has to run while nobody calls.
                self.set_state(CircuitState::HalfOpen);
                self.consecutive_failures = 0;
            }
            CircuitState::HalfOpen => {
                // As above, for a probe that never ends.
                if let Some(began) = &mut self.probe {
                    *began = now.min(*began);
                }
                if !self.has_recovered_or_free(now) {
                    return None;
                }
            }
        }
        self.probe = Some(now);
        Some(Admission {
            epoch: self.epoch,
            probe: true,
        })
    }

    /// Counts the end of an admitted call.
    pub fn settle(&mut self, admission: Admission, outcome: CallOutcome, now: Timestamp) {
        if admission.epoch == self.epoch {
            self.record(outcome, now);
        } else {
            self.count(outcome, now);
        }
    }

    /// Gives an admission back that led to no outcome: the call was cancelled.
    pub fn abandon(&mut self, admission: Admission) {
        // A call that was admitted before the state changed has no place now.
        if admission.probe && admission.epoch == self.epoch {
            self.probe = None;
        }
    }

    /// Counts an outcome that speaks of the endpoint as it is now.
    pub fn record(&mut self, outcome: CallOutcome, now: Timestamp) {
        self.count(outcome, now);
        match outcome {
            CallOutcome::Success(_) | CallOutcome::Rejected => {
                // A rejection counts as life here: only what the server failed to do may open the circuit.
                self.consecutive_failures = 0;
                // An open circuit let no call through: only a probe may close it.
                if self.state == CircuitState::HalfOpen {
                    self.set_state(CircuitState::Closed);
                    self.opened_at = None;
                }
            }
            CallOutcome::Failure => {
                self.consecutive_failures += 1;
                let opens = match self.state {
                    CircuitState::Closed => self.consecutive_failures >= self.failure_threshold,
                    // One failed probe is enough: the circuit is half-open because there were many failures before.
                    CircuitState::HalfOpen => true,
                    // Its recovery time is running. Beginning it anew with each late failure might never let it end.
                    CircuitState::Open => false,
                };
                if opens {
                    self.set_state(CircuitState::Open);
                    self.opened_at = Some(now);
                }
            }
        }
    }

    /// The response times that nobody has taken yet.
    pub fn take_response_times(&mut self) -> VecDeque<f64> {
        std::mem::take(&mut self.response_times)
    }

    fn count(&mut self, outcome: CallOutcome, now: Timestamp) {
        self.total_requests += 1;
        match outcome {
            CallOutcome::Success(milliseconds) => {
                self.last_healthy_at = Some(now);
                if milliseconds > 0.0 {
                    self.response_times.push_back(milliseconds);
                    let surplus = self.response_times.len().saturating_sub(self.response_times_kept);
                    self.response_times.drain(..surplus);
                }
            }
            CallOutcome::Rejected => {}
            CallOutcome::Failure => self.total_failures += 1,
        }
    }

    fn has_recovered(&self, since: Option<Timestamp>, now: Timestamp) -> bool {
        since.is_some_and(|since| now.saturating_sub(since) as f64 >= self.recovery_timeout_seconds * 1e6)
    }

    /// A probe that never told its outcome (code that asks `should_allow_request` and records nothing) gives up its place
    /// after the recovery time.
    fn has_recovered_or_free(&self, now: Timestamp) -> bool {
        self.probe.is_none() || self.has_recovered(self.probe, now)
    }
}

/// An endpoint's health, shared by all calls to it and by Python.
#[derive(Debug, Clone)]
pub struct SharedHealth {
    health: Arc<Mutex<EndpointHealth>>,
    news: Arc<CircuitNews>,
}

impl SharedHealth {
    /// `news` is where calls report that they changed the state.
    pub fn new(health: EndpointHealth, news: Arc<CircuitNews>) -> Self {
        Self {
            health: Arc::new(Mutex::new(health)),
            news,
        }
    }

    /// A copy that shares nothing with the original: for a process that was forked from the one that goes on using that. Calls
    /// under way are the other process's, and so is a probe among them. None if another thread was just changing it when the
    /// process forked.
    pub fn separate_copy(&self) -> Option<EndpointHealth> {
        let mut health = match self.health.try_lock() {
            Ok(health) => health.clone(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().clone(),
            Err(TryLockError::WouldBlock) => return None,
        };
        health.set_state(health.state());
        Some(health)
    }

    /// Held for a few instructions only.
    pub fn lock(&self) -> MutexGuard<'_, EndpointHealth> {
        lock(&self.health)
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// [`Error::CircuitOpen`].
    pub fn admit(&self) -> Result<Permit, Error> {
        let mut health = self.lock();
        let before = health.state();
        let admission = health.admit(now());
        self.report(before, &health, String::new);
        Ok(Permit {
            admission: Some(admission.ok_or_else(|| Error::circuit_open(&health.endpoint))?),
            health: self.clone(),
        })
    }

    /// As [`admit`](Self::admit), for code that counts its calls itself: no [`Permit`] has to be settled.
    pub fn allows(&self) -> bool {
        let mut health = self.lock();
        let before = health.state();
        let allowed = health.admit(now()).is_some();
        self.report(before, &health, String::new);
        allowed
    }

    /// Counts a call of such code.
    pub fn record(&self, outcome: CallOutcome, error: impl FnOnce() -> String) {
        let mut health = self.lock();
        let before = health.state();
        health.record(outcome, now());
        self.report(before, &health, error);
    }

    /// Asks whether [`admit`](Self::admit) would return an error, without taking a probe's place.
    ///
    /// # Errors
    /// [`Error::CircuitOpen`].
    pub fn refuse_if_open(&self) -> Result<(), Error> {
        let health = self.lock();
        if health.would_refuse(now()) {
            return Err(Error::circuit_open(&health.endpoint));
        }
        Ok(())
    }

    fn report(&self, before: CircuitState, health: &EndpointHealth, error: impl FnOnce() -> String) {
        if before != health.state() {
            self.news.put(CircuitChange {
                endpoint: health.endpoint.clone(),
                state: health.state(),
                failures: health.consecutive_failures,
                error: error(),
            });
        }
    }
}

/// An [`Admission`] that is given back if it is dropped without an outcome.
#[derive(Debug)]
pub struct Permit {
    health: SharedHealth,
    admission: Option<Admission>,
}

impl Permit {
    /// Counts the call's end; `error` says what went wrong, and is called only if somebody has to know.
    pub fn settle(mut self, outcome: CallOutcome, error: impl FnOnce() -> String) {
        if let Some(admission) = self.admission.take() {
            let mut health = self.health.lock();
            let before = health.state();
            health.settle(admission, outcome, now());
            self.health.report(before, &health, error);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            self.health.lock().abandon(admission);
        }
    }
}
