//! All that the simulation knows of the engine: how a lock is taken, what its holder believes, what a store is asked.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::database::{Outcome, Statement};
use super::scenario::How;
use crate::figures::Ledger;
use crate::lock::engine::{Engine, Grant, Hold};
use crate::lock::error::{LockError, StoreError};
use crate::lock::lease::life::Status;
use crate::lock::lease::{Keeping, Lease};
use crate::lock::manager::{Manager, Wanted};
use crate::lock::names::LockName;
use crate::lock::operation::{HandOver, Operation, Release, ReleaseTarget, Renew};
use crate::lock::registry::EngineHandle;
use crate::lock::store::{Listener, Store};

/// How an acquisition ended without a lock.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    Timeout,
    Backend(String),
}

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One process's locks.
#[derive(Clone)]
pub(super) struct Locks(Arc<Manager>);

pub(super) struct Asked {
    /// In the order in which they are asked for; one, unless it is for several.
    pub(super) keys: Vec<Arc<str>>,
    pub(super) holder: Arc<str>,
    pub(super) how: How,
    pub(super) ttl: Duration,
    pub(super) timeout: Duration,
}

impl Asked {
    fn wanted(&self, key: &Arc<str>) -> Wanted {
        Wanted {
            name: LockName { key: Arc::clone(key) },
            holder: Arc::clone(&self.holder),
            ttl: self.ttl,
            timeout: self.timeout,
        }
    }
}

impl Locks {
    pub(super) fn new(make: impl FnOnce(Arc<dyn Listener>) -> Box<dyn Store>) -> Self {
        let engine = EngineHandle::of(Engine::new(Arc::default(), make));
        Self(Arc::new(Manager::new(engine, Ledger::default())))
    }

    pub(super) fn acquire(&self, asked: &Asked) -> Later<Result<Vec<Held>, Ended>> {
        let ended = |error| match error {
            LockError::Timeout { .. } => Ended::Timeout,
            error => Ended::Backend(error.to_string()),
        };
        let mut wanted: Vec<_> = asked.keys.iter().map(|key| asked.wanted(key)).collect();
        let manager = Arc::clone(&self.0);
        match (asked.how, wanted.pop()) {
            (How::Grant, Some(wanted)) => {
                let acquiring = manager.acquire(wanted);
                Box::pin(async move { Ok(vec![Held::grant(acquiring.await.map_err(ended)?)]) })
            }
            (
                How::Lease {
                    renewed,
                    max_hold,
                    margin,
                    is_checked,
                },
                Some(wanted),
            ) => {
                let keeping = Keeping {
                    auto_renew: renewed,
                    max_hold: max_hold.map(Duration::from_millis),
                    margin: Duration::from_millis(margin),
                    loss_check: is_checked.then_some(Duration::from_secs(1)),
                };
                let acquiring = manager.lease(wanted, keeping);
                Box::pin(async move { Ok(vec![Held::lease(acquiring.await.map_err(ended)?)]) })
            }
            (_, last) => Box::pin(async move {
                wanted.extend(last);
                let keeping = Keeping {
                    loss_check: Some(Duration::from_secs(1)),
                    ..Keeping::default()
                };
                let offer = manager.lease_many(wanted, keeping).await.map_err(ended)?;
                let leases = offer.pick_up().map_err(ended)?;
                Ok(leases.into_iter().map(Held::lease).collect())
            }),
        }
    }

    /// Releases what a holder of this name has.
    pub(super) fn release_by_name(&self, key: &Arc<str>, holder: &Arc<str>) -> Later<Result<bool, Ended>> {
        let name = LockName { key: Arc::clone(key) };
        let releasing = self.0.release(&name, Arc::clone(holder));
        Box::pin(async move { releasing.await.map_err(|error| Ended::Backend(error.to_string())) })
    }

    /// What the engine has not finished: nothing once all is quiet.
    pub(super) fn unfinished(&self) -> Option<String> {
        let engine = self.0.engine();
        let (held, waiting) = engine.held_and_waiting();
        let rows = engine.abandoned_rows();
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
    fn grant(grant: Grant) -> Self {
        Self {
            belief: Belief(Arc::clone(&grant.hold)),
            token: grant.won.token,
            having: Having::Grant(Some(grant)),
        }
    }

    fn lease(lease: Lease) -> Self {
        Self {
            belief: Belief(Arc::clone(lease.hold())),
            token: lease.fencing_token(),
            having: Having::Lease(lease),
        }
    }

    pub(super) fn key(&self) -> &Arc<str> {
        &self.belief.0.key
    }

    /// Whether it was still there; an error when the database did not say.
    pub(super) fn release(&mut self) -> Later<Result<bool, Ended>> {
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
    pub(super) fn lost(&self) -> Option<Later<Option<String>>> {
        match &self.having {
            Having::Lease(lease) => Some(Box::pin(lease.lost())),
            Having::Grant(_) => None,
        }
    }

    /// Leaves the row until it expires or is released by name, if it is a grant.
    pub(super) fn keep(&mut self) {
        if let Having::Grant(grant) = &mut self.having
            && let Some(grant) = grant.take()
        {
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

    /// Whose row it is about, if it is about one acquisition's.
    pub(super) fn id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Acquire { id, .. } | Self::Renew { id, .. } | Self::HandOver { id, .. } => Some(id),
            Self::Release(ReleaseTarget::Row { id, .. }) => Some(id),
            Self::Release(_) | Self::Observe(_) | Self::Other => None,
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
        Operation::Observe { reply, .. } => reply.is_closed(),
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
