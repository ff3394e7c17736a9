//! How a lock ends, and goes to the next: to a waiter of this process directly, or to whoever finds
//! the row gone.
//!
//! A waiter that will learn of a loss, as a lease's holder does, is handed the lock in memory, with the
//! token that its predecessor's acquisition set aside. The database is told after that. Until it has
//! answered, the row is the predecessor's and keeps everybody else out, and the new holder believes in
//! it for as long as the predecessor might have. If the database then says that the lock had been lost,
//! both learn of it. Any other waiter waits for the database's answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::holds::Hold;
use super::key::{Event, Now};
use super::retry::Backoff;
use super::seat::Seat;
use super::{Answered, Engine, RELEASE_PATIENCE};
use crate::lock::boot_time::BootTime;
use crate::lock::error::{LockError, StoreError};
use crate::lock::lease::life::{self, Arrival, Expiry, Life};
use crate::lock::lease::time::{expires_at, trusted_until};
use crate::lock::operation::{
    Acquire, AcquisitionId, HandOver, Operation, Release, ReleaseTarget, Reply, Won,
};
use crate::lock::surroundings;
use crate::lock::surroundings::planted;
use crate::notices::Trouble;

/// Where the holder hears whether the lock was still there.
type Told = oneshot::Sender<Result<Released, LockError>>;

/// The outcome of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Released {
    /// The row existed. It was deleted, or handed over to a waiter.
    Deleted,
    /// The row no longer existed: the lock had been lost.
    Gone,
    /// The row no longer existed. An earlier try, whose answer was lost, may have deleted it.
    GoneOrDeleted,
}

impl Released {
    fn of(answered: &Answered<bool>) -> Self {
        match (answered.value, answered.carried_out_before) {
            (true, _) => Self::Deleted,
            (false, false) => Self::Gone,
            (false, true) => Self::GoneOrDeleted,
        }
    }

    /// Weakens the outcome, because another task of this process may have deleted the row.
    fn in_doubt(self) -> Self {
        match self {
            Self::Gone => Self::GoneOrDeleted,
            other => other,
        }
    }
}

/// A lock that has been handed over, and of which the database does not know yet.
struct Passing {
    from: AcquisitionId,
    /// When the predecessor's time is up.
    until: BootTime,
    hold: Arc<Hold>,
    ttl: Duration,
}

impl Passing {
    fn hand_over(&self, until: Instant, reply: Reply<Option<Won>>) -> Operation {
        Operation::HandOver(HandOver {
            from: Arc::clone(&self.from),
            id: Arc::clone(&self.hold.id),
            key: Arc::clone(&self.hold.key),
            holder: Arc::clone(&self.hold.holder),
            ttl: self.ttl,
            token: self.hold.token,
            until,
            reply,
        })
    }
}

/// A release that has begun.
enum Begun {
    /// The database has been asked to delete the row.
    Deletion(Unfinished, oneshot::Receiver<Result<bool, StoreError>>),
    /// A task sees to it, which needs nobody to wait.
    InTheBackground(oneshot::Receiver<Result<Released, LockError>>),
    /// The lock has been handed off before.
    Before,
}

impl Engine {
    /// Ends a hold: hands the lock over to the first waiter of this process, if it may be, or deletes the row; whether it was still
    /// there. Begun by this call, and carried through even if the future is dropped.
    pub(super) fn release_hold(
        self: &Arc<Self>,
        hold: Arc<Hold>,
        may_be_handed_off: bool,
    ) -> impl Future<Output = Result<Released, LockError>> + Send + 'static + use<> {
        let begun = if hold.is_given_away() {
            // Until the database has carried out the hand-off, the row has this hold's id still.
            Begun::Before
        } else if hold.is_on_its_way() {
            self.release_on_arrival(hold, may_be_handed_off)
        } else {
            self.begin_release(hold, may_be_handed_off)
        };
        let engine = Arc::clone(self);
        async move { engine.outcome(begun).await }
    }

    async fn outcome(&self, begun: Begun) -> Result<Released, LockError> {
        match begun {
            Begun::Deletion(mut unfinished, answer) => {
                let released = self.released(&unfinished.hold.target(), Some(answer)).await;
                unfinished.done = released.is_ok();
                if released.is_ok() {
                    self.reporter.works(Trouble::Deleting);
                }
                released
            }
            Begun::Before => Ok(Released::GoneOrDeleted),
            Begun::InTheBackground(outcome) => match timeout(RELEASE_PATIENCE, outcome).await {
                Ok(Ok(released)) => released,
                Ok(Err(_)) => Err(LockError::backend(StoreError::closed())),
                Err(_) => Err(LockError::backend(self.no_answer(None))),
            },
        }
    }

    fn begin_release(self: &Arc<Self>, hold: Arc<Hold>, may_be_handed_off: bool) -> Begun {
        let shown = self.clock.now();
        let event = Event::Release {
            id: Arc::clone(&hold.id),
            may_be_handed_off,
            is_clock_known: shown.is_some(),
        };
        let mut table = self.table();
        let mut todo = table.on(&hold.key, Now::read(), event);
        let (told, outcome) = oneshot::channel();
        match (todo.hand_off.take(), shown) {
            (Some((seat, request, true)), Some(shown)) => {
                hold.give_away();
                let (passing, won) = self.hand_off_in_memory(&hold, &seat, &request, shown);
                table.set_hold(Arc::clone(&passing.hold));
                drop(table);
                todo.carry_out(self);
                request.won(won);
                let engine = Arc::clone(self);
                let passing = async move {
                    engine.pass_on(passing, told).await;
                    engine.look_for_late_row(&hold);
                };
                surroundings::spawn(&self.runtime, passing);
            }
            (Some((_, request, _)), _) => {
                hold.give_away();
                drop(table);
                todo.carry_out(self);
                let engine = Arc::clone(self);
                let handing_over = async move { engine.hand_over_when_answered(hold, request, told).await };
                surroundings::spawn(&self.runtime, handing_over);
            }
            (None, _) => {
                drop(table);
                todo.carry_out(self);
                let (reply, answer) = oneshot::channel();
                self.submit(Operation::Release(Release {
                    target: hold.target(),
                    until: Instant::now() + RELEASE_PATIENCE,
                    reply,
                }));
                return Begun::Deletion(Unfinished::of(hold, self), answer);
            }
        }
        Begun::InTheBackground(outcome)
    }

    /// The database has not yet answered to the hand-off that began this hold.
    fn release_on_arrival(self: &Arc<Self>, hold: Arc<Hold>, may_be_handed_off: bool) -> Begun {
        let (told, outcome) = oneshot::channel();
        self.on(&hold.key, Event::Leaving(Arc::clone(&hold.id)));
        let engine = Arc::clone(self);
        surroundings::spawn(&self.runtime, async move {
            hold.arrived().await;
            let is_here = matches!(hold.life().arrival(), Some(Arrival::Here { .. }));
            let may_be_handed_off = is_here && may_be_handed_off && !hold.remaining().is_zero();
            let begun = engine.begin_release(hold, may_be_handed_off);
            let _ = told.send(engine.outcome(begun).await);
        });
        Begun::InTheBackground(outcome)
    }

    /// What becomes of a lock that is handed off in memory when the database's clock shows `acquired_at`.
    fn hand_off_in_memory(
        &self,
        from: &Hold,
        seat: &Seat,
        request: &Acquire,
        acquired_at: f64,
    ) -> (Passing, Won) {
        let claim = &request.claim;
        let (now, until) = (BootTime::now(), from.valid_until());
        let won = Won {
            token: from.token.saturating_add(i64::from(!planted!(TokenOutOfOrder))),
            acquired_at,
            expires_at: from.expires_at().min(expires_at(acquired_at, claim.ttl)),
        };
        let lasting = if planted!(HandOffThatTrustsTooLong) {
            claim.ttl
        } else {
            now.until(until).min(claim.ttl)
        };
        let life = Life::handed_off(claim.ttl, now + lasting, Expiry::at(won.expires_at));
        let hold = Arc::new(Hold::new(claim, seat.manager, won.token, life));
        seat.receive(Arc::clone(&hold));
        let passing = Passing {
            from: Arc::clone(&from.id),
            until,
            ttl: claim.ttl,
            hold,
        };
        (passing, won)
    }

    /// Tells the database of a lock that has been handed over.
    async fn pass_on(self: &Arc<Self>, passing: Passing, told: Told) {
        let outcome = self.give(&passing).await;
        let Passing { hold, from, ttl, .. } = passing;
        let arrived = |arrival| {
            let _ = hold.on(self, life::Event::Arrived(arrival));
        };
        match outcome {
            Ok(Answered {
                value: Some((won, until)),
                ..
            }) => {
                let expiry = Expiry::at(won.expires_at);
                arrived(Arrival::Here { until, expiry });
                let _ = told.send(Ok(Released::Deleted));
            }
            Ok(Answered {
                value: None,
                carried_out_before,
            }) => {
                arrived(Arrival::Refused);
                let answered = Answered {
                    value: false,
                    carried_out_before,
                };
                let _ = told.send(Ok(Released::of(&answered)));
            }
            Err(error) => {
                arrived(Arrival::Unknown);
                let _ = told.send(Err(LockError::backend(error)));
                // The row has the one id or the other, and keeps everybody else out for as long as
                // its holder believes in it.
                hold.over().await;
                self.delete_in_background(&from, &hold.key, None);
                self.delete_in_background(&hold.id, &hold.key, Some(ttl));
            }
        }
    }

    /// Gives the row away, trying until the predecessor's time is up: what the database said, and until when it may be believed.
    async fn give(&self, passing: &Passing) -> Result<Answered<Option<(Won, BootTime)>>, StoreError> {
        let mut backoff = Backoff::default();
        let mut carried_out_before = false;
        loop {
            let sent = BootTime::now();
            let left = sent.until(passing.until);
            let (reply, answer) = oneshot::channel();
            self.submit(passing.hand_over(Instant::now() + left, reply));
            let failure = match timeout(left, answer).await {
                Ok(Ok(Ok(won))) => {
                    if let Some(won) = won {
                        self.clock.heard(won.acquired_at, sent);
                    }
                    return Ok(Answered {
                        value: won.map(|won| (won, trusted_until(sent, passing.ttl))),
                        carried_out_before,
                    });
                }
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => return Err(StoreError::closed()),
                Err(_) => return Err(self.no_answer(None)),
            };
            if !failure.transient || BootTime::now() >= passing.until {
                return Err(failure);
            }
            carried_out_before |= failure.outcome_unknown;
            tokio::time::sleep_until(backoff.next()).await;
        }
    }

    /// Hands a lock over to one who can't be told of its loss: when the database has answered.
    async fn hand_over_when_answered(self: &Arc<Self>, from: Arc<Hold>, acquire: Acquire, told: Told) {
        let claim = &acquire.claim;
        let sent = BootTime::now();
        let (reply, answer) = oneshot::channel();
        self.submit(Operation::HandOver(HandOver {
            from: Arc::clone(&from.id),
            id: Arc::clone(&claim.id),
            key: Arc::clone(&claim.key),
            holder: Arc::clone(&claim.holder),
            ttl: claim.ttl,
            token: from.token.saturating_add(1),
            until: Instant::now() + from.remaining(),
            reply,
        }));
        let outcome = answer.await.unwrap_or_else(|_| Err(StoreError::closed()));
        let mut unfinished = Unfinished::of(from, self);
        unfinished.done = true;
        let released = match outcome {
            Ok(Some(won)) => {
                self.clock.heard(won.acquired_at, sent);
                acquire.won(won);
                Ok(Released::Deleted)
            }
            Ok(None) => {
                acquire.held(None);
                Ok(Released::Gone)
            }
            Err(error) => {
                let given_perhaps = error.outcome_unknown;
                acquire.failed(error);
                let target = unfinished.hold.target();
                let released = self.released(&target, None).await;
                unfinished.done = released.is_ok();
                if given_perhaps {
                    released.map(Released::in_doubt)
                } else {
                    released
                }
            }
        };
        drop(unfinished);
        let _ = told.send(released);
    }

    /// Deletes a row and wakes who waits for it here. The request is sent by this call, not by the future's first poll.
    pub fn release_row(
        self: &Arc<Self>,
        target: ReleaseTarget,
    ) -> impl Future<Output = Result<bool, LockError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        self.submit(Operation::Release(Release {
            target: target.clone(),
            until: Instant::now() + RELEASE_PATIENCE,
            reply,
        }));
        let engine = Arc::clone(self);
        async move {
            let released = engine.released(&target, Some(answer)).await;
            engine.on(target.key(), Event::MayBeFree);
            released.map(|released| released == Released::Deleted)
        }
    }

    /// Waits for the answer to a release, if it has been sent; one that fails is sent again.
    async fn released(
        &self,
        target: &ReleaseTarget,
        sent: Option<oneshot::Receiver<Result<bool, StoreError>>>,
    ) -> Result<Released, LockError> {
        let release = |reply, until| {
            Operation::Release(Release {
                target: target.clone(),
                until,
                reply,
            })
        };
        self.ask_again(RELEASE_PATIENCE, sent, release)
            .await
            .map(|answered| Released::of(&answered))
            .map_err(LockError::backend)
    }
}

/// A release under way: what it did not get done is done in the background.
struct Unfinished {
    hold: Arc<Hold>,
    engine: Arc<Engine>,
    done: bool,
}

impl Unfinished {
    fn of(hold: Arc<Hold>, engine: &Arc<Engine>) -> Self {
        Self {
            hold,
            engine: Arc::clone(engine),
            done: false,
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done && !planted!(AbandonedRelease) {
            self.engine
                .delete_in_background(&self.hold.id, &self.hold.key, None);
        }
        self.engine.end_hold(&self.hold);
        self.engine.look_for_late_row(&self.hold);
    }
}
