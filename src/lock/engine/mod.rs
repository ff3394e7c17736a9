//! One database's locks as this process sees them: who waits, who holds, and how a request becomes a
//! lease.
//!
//! All managers of one database in one process share an engine. Each key has a pure state machine
//! ([`key`]), which decides when the database is asked for it: the waiters queue there in the order
//! they came, and only the first of them asks. The rest of the engine carries out what the machines
//! say. The table ([`table`]) holds them; a caller's future ([`place`]) waits at its own place; the
//! poller ([`poller`]) looks at all awaited keys with one statement at least every 0.3 s. A release in
//! this process hands the lock off to the first waiter ([`release`]); what nobody owns any more is
//! deleted ([`cleanup`]).
//!
//! What is won is a [`Grant`]: a value that releases its row in the background when it is dropped. So
//! whoever is cancelled, wherever that happens, leaves nothing behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::boot_time::BootTime;
use super::error::{LockError, StoreError};
use super::operation::{Claim, LockRow, Operation, Reply};
use super::reporter::Reporter;
use super::store::{Listener, Store, key_hash};
use crate::lock::surroundings::planted;
use crate::mutex::lock;
use crate::notices::Trouble;

mod cleanup;
mod database_clock;
mod ending;
mod grant;
mod holds;
pub(crate) mod key;
mod overdue;
mod place;
mod poller;
mod release;
mod retry;
mod seat;
mod table;
mod watcher;

pub use grant::Grant;
pub(crate) use holds::{Hold, Known, Renewal};
pub(crate) use key::OVERDUE;
use key::{Event, Now};
use overdue::Overdue;
use place::Place;
use retry::Backoff;
use table::Table;
pub use table::Waiting;

/// How long a release is tried for before its caller is told; it goes on in the background.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// What a caller wants of [`Engine::acquire`].
#[derive(Debug, Clone)]
pub struct Request {
    /// The lock's key.
    pub key: Arc<str>,
    /// The holder's name.
    pub holder: Arc<str>,
    /// How long the lock lasts without renewal.
    pub ttl: Duration,
    /// How long to wait for it.
    pub timeout: Duration,
    /// The name for messages.
    pub name: String,
    /// The time limit for messages: what the caller gave for several locks together.
    pub said_timeout: Duration,
    /// The manager that asks: its locks can be released together.
    pub manager: u64,
    /// Whether the lock may be handed off to it in memory, before the database has answered. Its holder must learn of a loss then,
    /// as a lease's does.
    pub allows_optimistic_handoff: bool,
}

/// A caller's counters.
pub trait Progress: Send + Sync {
    /// The lock was found held, or others wait for it already; at most once a request.
    fn conflict(&self);
    /// The lock was won after a conflict.
    fn hand_off(&self);
    /// The database failed or did not answer.
    fn backend_error(&self);
}

/// The answer of a store to one operation.
struct Answered<T> {
    value: T,
    /// Whether an earlier try, whose answer was lost, may have been carried out.
    carried_out_before: bool,
}

/// One database's locks as this process sees them.
pub struct Engine {
    store: Box<dyn Store>,
    reporter: Arc<Reporter>,
    table: Mutex<Table>,
    clock: database_clock::DatabaseClock,
    poller: poller::Poller,
    overdue: Overdue,
    watcher: watcher::Watcher,
    runtime: Handle,
    weak: Weak<Engine>,
    abandoned: AtomicU64,
    /// Acquisitions whose outcome is open: each may have a row.
    unsettled: Arc<AtomicU64>,
    managers: AtomicU64,
}

impl Engine {
    /// An engine over the store that `make` builds; the store tells the listener what it notices.
    ///
    /// Needs an ambient tokio runtime, and goes on using it.
    pub fn new(reporter: Arc<Reporter>, make: impl FnOnce(Arc<dyn Listener>) -> Box<dyn Store>) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Engine>| Self {
            store: make(Arc::new(FromStore {
                engine: weak.clone(),
                reporter: Arc::clone(&reporter),
            })),
            reporter,
            table: Mutex::default(),
            clock: database_clock::DatabaseClock::default(),
            poller: poller::Poller::default(),
            overdue: Overdue::default(),
            watcher: watcher::Watcher::default(),
            runtime: Handle::current(),
            weak: weak.clone(),
            abandoned: AtomicU64::new(0),
            unsettled: Arc::default(),
            managers: AtomicU64::new(0),
        })
    }

    /// Takes a lock, waiting its turn. The turn is settled by this call, not by the future's first poll.
    ///
    /// Cancel-safe: dropping the future leaves no row behind. It fails with [`LockError::Timeout`] when the lock was still
    /// held after `request.timeout`, never earlier; with [`LockError::Backend`] when the database could not be asked in that
    /// time (transient failures are retried), or refused.
    ///
    /// A future that is not polled loses its place, and what was won for it, a second after the
    /// deadline: it fails when it is polled again.
    pub fn acquire(
        self: &Arc<Self>,
        request: Request,
        progress: Arc<dyn Progress>,
    ) -> impl Future<Output = Result<Grant, LockError>> + Send + 'static + use<> {
        let late = Duration::from_secs(if planted!(LateTimeout) { 2 } else { 0 });
        let deadline = Instant::now() + request.timeout + late;
        let mut claim = Claim::new(
            Arc::clone(&request.key),
            Arc::clone(&request.holder),
            request.ttl,
            Arc::clone(self) as _,
        );
        claim.count_in(&self.unsettled);
        let place = Place::join(self, claim, &request, deadline, progress);
        async move { place.wait(&request).await }
    }

    /// Sends an operation and waits for its answer, for `patience` at most; transient failures are retried.
    pub(crate) async fn ask<T>(
        &self,
        patience: Duration,
        operation: impl FnMut(Reply<T>, Instant) -> Operation,
    ) -> Result<T, StoreError> {
        let answered = self.ask_again(patience, None, operation).await?;
        Ok(answered.value)
    }

    /// As [`Self::ask`], when a first request has been sent already.
    async fn ask_again<T>(
        &self,
        patience: Duration,
        mut sent: Option<oneshot::Receiver<Result<T, StoreError>>>,
        mut operation: impl FnMut(Reply<T>, Instant) -> Operation,
    ) -> Result<Answered<T>, StoreError> {
        let late = Duration::from_secs(if planted!(LateRelease) { 20 } else { 0 });
        let deadline = Instant::now() + patience + late;
        let mut backoff = Backoff::default();
        let mut failed_before = None;
        let mut carried_out_before = false;
        loop {
            let answer = sent.take().unwrap_or_else(|| {
                let (reply, answer) = oneshot::channel();
                self.store.submit(operation(reply, deadline));
                answer
            });
            let failure = match timeout_at(deadline, answer).await {
                Ok(Ok(Ok(value))) => {
                    return Ok(Answered {
                        value,
                        carried_out_before,
                    });
                }
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => return Err(StoreError::closed()),
                Err(_) => return Err(self.no_answer(failed_before)),
            };
            if !failure.transient || Instant::now() >= deadline {
                return Err(failure);
            }
            carried_out_before |= failure.outcome_unknown && !planted!(ForgottenEarlierTry);
            failed_before = Some(failure);
            tokio::time::sleep_until(backoff.next().min(deadline)).await;
        }
    }

    /// The time is up and the database has said nothing: what it said the last time may tell why.
    fn no_answer(&self, failed_before: Option<StoreError>) -> StoreError {
        StoreError::unknown_outcome(match failed_before {
            Some(failure) => format!("no answer in time; the last error was: {failure}"),
            None => format!("{}: no answer in time", self.store.describe()),
        })
    }

    /// A number for one more manager.
    pub(crate) fn number_manager(&self) -> u64 {
        self.managers.fetch_add(1, Ordering::Relaxed)
    }

    /// The database's clock showed `time`, in Unix seconds, some time since `asked`.
    pub(crate) fn heard(&self, time: f64, asked: BootTime) {
        self.clock.heard(time, asked);
    }

    pub(crate) fn submit(&self, operation: Operation) {
        self.store.submit(operation);
    }

    /// Deletes every row.
    ///
    /// # Errors
    /// The store's.
    pub async fn clear(&self) -> Result<u64, LockError> {
        let cleared = self
            .ask(RELEASE_PATIENCE, |reply, until| Operation::Clear { until, reply })
            .await;
        self.may_be_free(|_| true);
        cleared.map_err(LockError::backend)
    }

    /// Deletes the expired rows and returns their number. An expired row has no holder, so no
    /// waiter has to be woken.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep(&self) -> Result<u64, LockError> {
        self.ask(RELEASE_PATIENCE, |reply, until| Operation::Sweep { until, reply })
            .await
            .map_err(LockError::backend)
    }

    /// Returns the row of a key, unless the row has expired or does not exist.
    ///
    /// # Errors
    /// The store's.
    pub async fn row(&self, key: &Arc<str>) -> Result<Option<LockRow>, LockError> {
        let keys = || vec![Arc::clone(key)];
        self.ask(RELEASE_PATIENCE, |reply, until| Operation::Observe {
            keys: keys(),
            until,
            reply,
        })
        .await
        .map(|rows| rows.into_iter().next())
        .map_err(LockError::backend)
    }

    /// Every row of the table.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self) -> Result<Vec<LockRow>, LockError> {
        self.ask(RELEASE_PATIENCE, |reply, until| Operation::List { until, reply })
            .await
            .map_err(LockError::backend)
    }

    /// How many rows are not expired.
    ///
    /// # Errors
    /// The store's, or that it took longer than `patience`.
    pub async fn count(&self, patience: Duration) -> Result<u64, LockError> {
        self.ask(patience, |reply, until| Operation::Count { until, reply })
            .await
            .map_err(LockError::backend)
    }

    /// Asks the database for nothing but an answer, now: a failure is tried again only if it may be a connection's that broke
    /// long ago.
    ///
    /// # Errors
    /// The store's, or that it took longer than `patience`.
    pub async fn hear_from(&self, patience: Duration) -> Result<(), LockError> {
        let deadline = Instant::now() + patience;
        let mut first = true;
        loop {
            let (reply, answer) = oneshot::channel();
            self.submit(Operation::Observe {
                keys: Vec::new(),
                until: deadline,
                reply,
            });
            let failure = match timeout_at(deadline, answer).await {
                Ok(Ok(Ok(_))) => return Ok(()),
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => StoreError::closed(),
                Err(_) => StoreError::transient("the database did not answer in time"),
            };
            if !(failure.outcome_unknown && std::mem::take(&mut first)) {
                return Err(LockError::backend(failure));
            }
        }
    }

    /// Who waits in this process.
    #[must_use]
    pub fn waiting(&self) -> Vec<Waiting> {
        self.table().waiting()
    }

    /// How many locks this process holds, and how many callers wait for one.
    #[must_use]
    pub fn held_and_waiting(&self) -> (usize, usize) {
        self.table().held_and_waiting()
    }

    /// Rows of abandoned claims that are still to be deleted.
    #[must_use]
    pub fn abandoned_rows(&self) -> u64 {
        self.abandoned.load(Ordering::Acquire)
    }

    /// The latest acquisition of (key, holder) by this process.
    pub(crate) fn hold_of(&self, key: &Arc<str>, holder: &str) -> Known {
        let table = self.table();
        match table.hold(key) {
            Some(hold) if *hold.holder == *holder => Known::Held(Arc::clone(hold)),
            _ if table.has_held(key, holder) => Known::Past,
            _ => Known::Never,
        }
    }

    /// One manager's latest acquisition of the key, if it has not ended.
    pub(crate) fn hold_by(&self, key: &Arc<str>, manager: u64) -> Option<Arc<Hold>> {
        let table = self.table();
        table.hold(key).filter(|hold| hold.manager == manager).cloned()
    }

    /// Whether anything of this process still depends on the engine.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.table().in_use() || self.abandoned_rows() > 0
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Tells a key's state machine what happened.
    fn on(&self, key: &Arc<str>, event: Event) {
        let todo = self.table().on(key, Now::read(), event);
        todo.carry_out(self);
    }

    /// Some keys may be free now.
    fn may_be_free(&self, wanted: impl Fn(&str) -> bool) {
        let mut table = self.table();
        let keys = table.keys_where(wanted);
        let todo = table.on_each(&keys, |_| Event::MayBeFree);
        drop(table);
        todo.carry_out(self);
    }

    /// A lock that this process holds expires at another time than before.
    pub(crate) fn extended(&self, hold: &Hold) {
        let (id, until) = (Arc::clone(&hold.id), hold.valid_until());
        self.on(&hold.key, Event::Extended { id, until });
    }

    /// A lock that this process held was lost.
    pub(crate) fn lost(&self, hold: &Hold) {
        self.on(&hold.key, Event::Ended(Arc::clone(&hold.id)));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.overdue.stop();
        self.store.close();
    }
}

/// Passes on what the store notices, without keeping the engine alive.
struct FromStore {
    engine: Weak<Engine>,
    reporter: Arc<Reporter>,
}

impl Listener for FromStore {
    fn changed(&self, hash: u64) {
        if let Some(engine) = self.engine.upgrade() {
            engine.may_be_free(|key| key_hash(key) == hash);
            engine.may_be_lost(|key| key_hash(key) == hash);
        }
    }

    fn anything_changed(&self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.poller.look_soon();
            engine.may_be_lost(|_| true);
        }
    }

    fn connected_anew(&self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.watcher.look_soon();
        }
    }

    fn failed(&self, trouble: Trouble, cause: &str) {
        self.reporter.failed(trouble, None, cause);
    }

    fn works(&self, trouble: Trouble) {
        self.reporter.works(trouble);
    }
}

#[cfg(test)]
mod tests;
