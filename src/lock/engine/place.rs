//! A caller's place in the queue for a key, and the caller's side of waiting there.
//!
//! The timers of a key are those of its callers' futures: whoever does not run takes no lock from
//! those who do.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::key::{Answer, Counted, Event, Now, Outcome, Row, Waiter};
use super::seat::{Answered, Seat};
use super::{Engine, Grant, Hold, Progress, Request, retry};
use crate::lock::boot_time::BootTime;
use crate::lock::error::{LockError, StoreError};
use crate::lock::lease::life::{Expiry, Life};
use crate::lock::lease::time::trusted_until;
use crate::lock::operation::{AcquisitionId, Attempt, Claim, LockRow, Won};
use crate::lock::surroundings::planted;

/// A caller's place in the queue for a key; left when dropped.
pub(super) struct Place {
    engine: Arc<Engine>,
    id: AcquisitionId,
    seat: Arc<Seat>,
}

impl Place {
    /// Takes a place at the end.
    pub(super) fn join(
        engine: &Arc<Engine>,
        claim: Claim,
        wanted: &Request,
        deadline: Instant,
        progress: Arc<dyn Progress>,
    ) -> Self {
        let id = Arc::clone(&claim.id);
        let waiter = Waiter {
            id: Arc::clone(&id),
            ttl: claim.ttl,
            deadline,
            allows_optimistic_handoff: wanted.allows_optimistic_handoff,
            met_conflict: false,
        };
        let seat = Arc::new(Seat::new(claim, wanted, deadline, progress));
        let mut table = engine.table();
        let todo = table.join(Now::read(), &seat, waiter);
        engine.remove_when_overdue(&mut table, deadline);
        drop(table);
        todo.carry_out(engine);
        Self {
            engine: Arc::clone(engine),
            id,
            seat,
        }
    }

    /// Waits for the lock.
    pub(super) async fn wait(self, request: &Request) -> Result<Grant, LockError> {
        loop {
            let wake_at = self.wake_at();
            let outcome = tokio::select! {
                biased;
                answered = self.answered() => match answered {
                    Ok((claim, answer)) => match self.read(claim, answer) {
                        Some(Ok(grant)) => return Ok(grant),
                        Some(Err(outcome)) => Some(outcome),
                        None => None,
                    },
                    Err(outcome) => {
                        if outcome != Outcome::TimedOut {
                            self.seat.count(Counted::BackendError);
                        }
                        Some(outcome)
                    }
                },
                () = self.seat.rearmed() => None,
                () = sleep_until(wake_at) => self.on(Event::Due(Arc::clone(&self.id))),
            };
            if let Some(outcome) = outcome {
                // A thread that nobody waits for would print the error during an exit without faults.
                // So it comes late, when the process has ended in most cases.
                if self.engine.table().has_ended() {
                    sleep_until(self.seat.deadline).await;
                }
                return Err(self.error(outcome, request));
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let now = Now::read();
        let table = self.engine.table();
        let Some(machine) = table.machine(&self.seat.key) else {
            return now.timer;
        };
        let wake_at = machine.wake_at(now, &self.id, self.seat.deadline);
        let is_awaited = machine.is_awaited();
        drop(table);
        if is_awaited {
            self.engine.poller.start(&self.engine);
        }
        wake_at
    }

    async fn answered(&self) -> Result<Answered, Outcome> {
        poll_fn(|context| self.seat.poll_answer(context)).await
    }

    /// Tells the key's state machine; what this waiter is told by it.
    fn on(&self, event: Event) -> Option<Outcome> {
        let mut todo = self.engine.table().on(&self.seat.key, Now::read(), event);
        let told = todo.told.take();
        todo.carry_out(&self.engine);
        told
    }

    /// Reads an answer: the lock, or what this waiter is told if it need not wait any more.
    fn read(&self, claim: Claim, answer: Result<Attempt, StoreError>) -> Option<Result<Grant, Outcome>> {
        let answer = match answer {
            Ok(Attempt::Won(won)) => return Some(self.won(claim, won)),
            Ok(Attempt::Held(row)) => {
                if let Some(time) = row.as_ref().and_then(LockRow::read_at) {
                    self.engine.clock.heard(time, claim.sent_at);
                }
                Answer::Held(row.as_ref().map(Row::of))
            }
            Err(error) => Answer::Failed {
                error,
                jitter: retry::thousandths(),
            },
        };
        let mut table = self.engine.table();
        self.seat.put_back(claim);
        let event = Event::Answered(Arc::clone(&self.id), answer);
        let mut todo = table.on(&self.seat.key, Now::read(), event);
        drop(table);
        let told = todo.told.take();
        todo.carry_out(&self.engine);
        told.map(Err)
    }

    fn won(&self, mut claim: Claim, won: Won) -> Result<Grant, Outcome> {
        let received = self.seat.received();
        if received.is_none() {
            self.engine.clock.heard(won.acquired_at, claim.sent_at);
        }
        let mut table = self.engine.table();
        if !table.is_seated(&self.id) {
            // Removed just now: the claim, dropped here, gives the row back.
            drop(table);
            return Err(Outcome::TimedOut);
        }
        let until = match &received {
            Some(_) => None,
            None if planted!(BeliefFromTheAnswer) => Some(trusted_until(BootTime::now(), claim.ttl)),
            None => Some(trusted_until(claim.sent_at, claim.ttl)),
        };
        let hold = received.unwrap_or_else(|| {
            let until = until.unwrap_or(claim.sent_at);
            let life = Life::new(claim.ttl, until, Expiry::at(won.expires_at));
            let hold = Arc::new(Hold::new(&claim, self.seat.manager, won.token, life));
            table.set_hold(Arc::clone(&hold));
            hold
        });
        claim.settle();
        let event = Event::Answered(Arc::clone(&self.id), Answer::Won { until });
        let todo = table.on(&self.seat.key, Now::read(), event);
        drop(table);
        todo.carry_out(&self.engine);
        Ok(Grant::new(&self.engine, claim, won, hold))
    }

    fn error(&self, outcome: Outcome, request: &Request) -> LockError {
        match outcome {
            Outcome::TimedOut => LockError::Timeout {
                name: request.name.clone(),
                timeout: request.said_timeout,
            },
            Outcome::Failed(error) => LockError::backend(error),
            Outcome::NoAnswer(failure) => LockError::backend(self.engine.no_answer(failure)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seat.unwatch(&self.engine);
        let todo = self.engine.table().leave(&self.seat.key, &self.id);
        todo.carry_out(&self.engine);
    }
}
