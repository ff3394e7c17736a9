//! All that the simulation knows of the engine: how a lock is taken, what its holder believes, what a store is asked.

use std::sync::Arc;
use std::time::Duration;

use super::database::{Outcome, Statement};
use super::scenario::How;
use crate::figures::Ledger;
use crate::lock::engine::{Engine, Grant, Hold, Progress, Request};
use crate::lock::error::{LockError, StoreError};
use crate::lock::lease::life::Status;
use crate::lock::lease::{Keeping, Lease};
use crate::lock::operation::{HandOver, Operation, Release, ReleaseTarget, Renew};
use crate::lock::store::{Listener, Store};

/// How an acquisition ended without a lock.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    Timeout,
    Backend(String),
}

/// One process's engine.
#[derive(Clone)]
pub(super) struct Locks {
    engine: Arc<Engine>,
    ledger: Arc<Ledger>,
}

pub(super) struct Asked {
    pub(super) key: Arc<str>,
    pub(super) holder: Arc<str>,
    pub(super) how: How,
    pub(super) ttl: Duration,
    pub(super) timeout: Duration,
}

impl Locks {
    pub(super) fn new(make: impl FnOnce(Arc<dyn Listener>) -> Box<dyn Store>) -> Self {
        Self {
            engine: Engine::new(Arc::default(), make),
            ledger: Arc::default(),
        }
    }

    pub(super) fn acquire(&self, asked: &Asked) -> impl Future<Output = Result<Held, Ended>> + use<> {
        let request = Request {
            key: Arc::clone(&asked.key),
            holder: Arc::clone(&asked.holder),
            ttl: asked.ttl,
            timeout: asked.timeout,
            name: String::new(),
            said_timeout: asked.timeout,
            manager: 0,
            allows_optimistic_handoff: matches!(asked.how, How::Lease { .. }),
        };
        let acquiring = self
            .engine
            .acquire(request, Arc::clone(&self.ledger) as Arc<dyn Progress>);
        let (how, ledger) = (asked.how, Arc::clone(&self.ledger));
        async move {
            match acquiring.await {
                Ok(grant) => Ok(Held::new(grant, how, ledger)),
                Err(LockError::Timeout { .. }) => Err(Ended::Timeout),
                Err(error) => Err(Ended::Backend(error.to_string())),
            }
        }
    }

    /// What the engine has not finished: nothing once all is quiet.
    pub(super) fn unfinished(&self) -> Option<String> {
        let (held, waiting) = self.engine.held_and_waiting();
        let rows = self.engine.abandoned_rows();
        (waiting > 0 || rows > 0)
            .then(|| format!("{held} held, {waiting} wait, {rows} rows are still to be deleted"))
    }
}

/// What a holder believes, which goes on whether or not its process runs.
#[derive(Clone)]
pub(super) struct Belief(Arc<Hold>);

impl Belief {
    pub(super) fn is_held(&self) -> bool {
        self.0.is_held()
    }

    pub(super) fn is_released(&self) -> bool {
        matches!(self.0.status(), Status::Leaving | Status::Released)
    }

    pub(super) fn remaining(&self) -> Duration {
        self.0.remaining()
    }

    pub(super) fn row(&self) -> &Arc<str> {
        &self.0.id
    }
}

/// A lock that a task has.
pub(super) struct Held {
    pub(super) belief: Belief,
    pub(super) token: i64,
    having: Having,
}

enum Having {
    Grant(Option<Grant>),
    Lease(Lease),
}

impl Held {
    fn new(grant: Grant, how: How, ledger: Arc<Ledger>) -> Self {
        let belief = Belief(Arc::clone(&grant.hold));
        let token = grant.won.token;
        let having = match how {
            How::Grant => Having::Grant(Some(grant)),
            How::Lease {
                renewed,
                max_hold,
                margin,
                is_checked,
            } => {
                let keeping = Keeping {
                    auto_renew: renewed,
                    max_hold: max_hold.map(Duration::from_millis),
                    margin: Duration::from_millis(margin),
                    loss_check: is_checked.then_some(Duration::from_secs(1)),
                };
                Having::Lease(Lease::new(grant, keeping, ledger))
            }
        };
        Self {
            belief,
            token,
            having,
        }
    }

    /// Whether it was still there; an error when the database did not say.
    pub(super) fn release(&mut self) -> std::pin::Pin<Box<dyn Future<Output = Result<bool, Ended>> + Send>> {
        let backend = |error: LockError| Ended::Backend(error.to_string());
        match &mut self.having {
            Having::Grant(grant) => {
                let releasing = grant.take().map(Grant::release);
                Box::pin(async move {
                    match releasing {
                        Some(releasing) => releasing.await.map_err(backend),
                        None => Ok(false),
                    }
                })
            }
            Having::Lease(lease) => {
                let releasing = lease.release();
                Box::pin(async move { releasing.await.map_err(backend) })
            }
        }
    }

    /// Moves the expiry, if it is a lease.
    pub(super) async fn renew(&self, ttl: Duration) {
        if let Having::Lease(lease) = &self.having {
            let _ = lease.renew(Some(ttl)).await;
        }
    }

    pub(super) fn loss(&self) -> Option<String> {
        match &self.having {
            Having::Lease(lease) => lease.loss(),
            Having::Grant(_) => None,
        }
    }

    /// Ends when the lease does: why it was lost, or None when it was released.
    pub(super) fn lost(&self) -> Option<std::pin::Pin<Box<dyn Future<Output = Option<String>> + Send>>> {
        match &self.having {
            Having::Lease(lease) => Some(Box::pin(lease.lost())),
            Having::Grant(_) => None,
        }
    }

    /// Leaves the row until it expires, if it is a grant.
    pub(super) fn keep(self) {
        if let Having::Grant(Some(grant)) = self.having {
            grant.keep();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    Acquire,
    Renew,
    Release,
    HandOver,
    Observe,
    Other,
}

pub(super) fn statement(operation: &Operation) -> (Verb, Statement) {
    match operation {
        Operation::Acquire(acquire) => (
            Verb::Acquire,
            Statement::Acquire {
                id: Arc::clone(&acquire.claim.id),
                key: Arc::clone(&acquire.claim.key),
                holder: Arc::clone(&acquire.claim.holder),
                ttl: acquire.claim.ttl,
            },
        ),
        Operation::Renew(renew) => (
            Verb::Renew,
            Statement::Renew {
                id: Arc::clone(&renew.id),
                key: Arc::clone(&renew.key),
                ttl: renew.ttl,
            },
        ),
        Operation::Release(release) => (Verb::Release, Statement::Release(release.target.clone())),
        Operation::HandOver(give) => (
            Verb::HandOver,
            Statement::HandOver {
                from: Arc::clone(&give.from),
                id: Arc::clone(&give.id),
                key: Arc::clone(&give.key),
                holder: Arc::clone(&give.holder),
                ttl: give.ttl,
                token: give.token,
            },
        ),
        Operation::Observe { keys, .. } => (Verb::Observe, Statement::Observe(keys.clone())),
        _ => (Verb::Other, Statement::Other),
    }
}

impl Statement {
    pub(super) fn key(&self) -> Option<&Arc<str>> {
        match self {
            Self::Acquire { key, .. } | Self::Renew { key, .. } | Self::HandOver { key, .. } => Some(key),
            Self::Release(target) => Some(target.key()),
            Self::Observe(_) | Self::Other => None,
        }
    }
}

/// For how many milliseconds its answer is waited for.
pub(super) fn patience(operation: &Operation) -> u64 {
    let until = match operation {
        Operation::Acquire(acquire) => acquire.until,
        Operation::Renew(renew) => renew.until,
        Operation::Release(release) => release.until,
        Operation::HandOver(give) => give.until,
        Operation::Observe { until, .. } => *until,
        _ => return 1000,
    };
    let left = until.saturating_duration_since(tokio::time::Instant::now());
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

/// Whether nobody waits for the answer any more.
pub(super) fn is_abandoned(operation: &Operation) -> bool {
    match operation {
        Operation::Acquire(acquire) => acquire.reply.is_closed(),
        Operation::Renew(renew) => renew.reply.is_closed(),
        Operation::Release(release) => release.reply.is_closed(),
        Operation::HandOver(give) => give.reply.is_closed(),
        _ => false,
    }
}

/// Answers an operation.
pub(super) fn tell(operation: Operation, outcome: Result<Outcome, StoreError>) {
    match (operation, outcome) {
        (Operation::Acquire(acquire), Ok(Outcome::Won(won))) => acquire.won(won),
        (Operation::Acquire(acquire), Ok(Outcome::Held(by))) => acquire.held(by),
        (Operation::Acquire(acquire), Err(error)) => acquire.failed(error),
        (Operation::Renew(Renew { reply, .. }), Ok(Outcome::Renewed(expiry))) => drop(reply.send(Ok(expiry))),
        (Operation::Renew(Renew { reply, .. }), Err(error)) => drop(reply.send(Err(error))),
        (Operation::Release(Release { reply, .. }), Ok(Outcome::Released(released))) => {
            drop(reply.send(Ok(released)));
        }
        (Operation::Release(Release { reply, .. }), Err(error)) => drop(reply.send(Err(error))),
        (Operation::HandOver(HandOver { reply, .. }), Ok(Outcome::HandedOver(won))) => {
            drop(reply.send(Ok(won)));
        }
        (Operation::HandOver(HandOver { reply, .. }), Err(error)) => drop(reply.send(Err(error))),
        (Operation::Observe { reply, .. }, Ok(Outcome::Rows(rows))) => drop(reply.send(Ok(rows))),
        (Operation::Observe { reply, .. }, Err(error)) => drop(reply.send(Err(error))),
        _ => {}
    }
}

/// The statement by which an operator breaks a lock.
pub(super) fn breaking(key: &Arc<str>) -> Statement {
    Statement::Release(ReleaseTarget::Key { key: Arc::clone(key) })
}
