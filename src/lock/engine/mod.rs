//! One database's locks as this process sees them: who waits, who holds, and how a request becomes a lease.
//!
//! All managers of one database in one process share an engine. Callers for the same key queue here in the order they came
//! ([`queue`]), and only the first of them talks to the database. While it waits for someone else's lock its request is sent
//! again by the store's news (another process's release), at the expiry it has seen, or by the poller ([`poller`]), which looks
//! at all awaited keys with one statement at least every 0.3 s. A release in this process hands the lock over to it.
//!
//! What is won is a [`Grant`]: a value that releases its row in the background when it is dropped. So whoever is cancelled,
//! wherever that happens, leaves nothing behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::boot_time::BootTime;
use super::error::{LockError, StoreError};
use super::operation::{Abandoned, Acquire, Attempt, Claim, LockRow, Operation, Reply, Won};
use super::reporter::Reporter;
use super::store::{Listener, Store, key_hash};
use super::surroundings::{self, planted};
use crate::notices::Trouble;

mod arrivals;
mod database_clock;
mod grant;
mod holds;
mod poller;
mod queue;
mod release;
mod retry;

use crate::mutex::lock;
pub use grant::Grant;
pub(crate) use holds::{Hold, Status};
pub use queue::Waiting;
use queue::{Overdue, Place, Queues};
use retry::Backoff;

/// How long a caller waits after its deadline for a request that is still under way. No caller may
/// wait longer than one second after its deadline.
const GRACE: Duration = Duration::from_millis(900);
/// How long after its deadline a waiter is removed that has not left by itself. It is longer than
/// [`GRACE`], because a request that was sent in time may still be answered.
pub(crate) const OVERDUE: Duration = Duration::from_secs(1);
/// How long a release is tried for before its caller is told; it goes on in the background.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
/// When a row that may yet come is looked for again, at first and at last.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const SELDOM_LOOK: Duration = Duration::from_secs(30);

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
    /// Whether the holder will learn of a loss, as a lease's does: then the lock may be handed to it before the database has answered.
    pub is_told_of_losses: bool,
}

/// What the engine tells a caller's counters while it works.
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
    queues: Mutex<Queues>,
    arrivals: arrivals::Arrivals,
    clock: database_clock::DatabaseClock,
    poller: poller::Poller,
    overdue: Overdue,
    runtime: Handle,
    weak: Weak<Engine>,
    abandoned: AtomicU64,
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
            queues: Mutex::default(),
            arrivals: arrivals::Arrivals::default(),
            clock: database_clock::DatabaseClock::default(),
            poller: poller::Poller::default(),
            overdue: Overdue::default(),
            runtime: Handle::current(),
            weak: weak.clone(),
            abandoned: AtomicU64::new(0),
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
        let deadline = Instant::now() + request.timeout;
        let owner = Arc::clone(self) as Arc<dyn Abandoned>;
        let claim = Claim::new(
            Arc::clone(&request.key),
            Arc::clone(&request.holder),
            request.ttl,
            owner,
        );
        let place = Place::join(self, claim, &request, deadline);
        let engine = Arc::clone(self);
        async move { engine.acquire_at(place, deadline, &request, &*progress).await }
    }

    async fn acquire_at(
        self: &Arc<Self>,
        place: Place,
        deadline: Instant,
        request: &Request,
        progress: &dyn Progress,
    ) -> Result<Grant, LockError> {
        let timed_out = || LockError::Timeout {
            name: request.name.clone(),
            timeout: request.said_timeout,
        };
        let mut conflict_noted = false;
        let note_conflict = |noted: &mut bool| {
            if !std::mem::replace(noted, true) {
                progress.conflict();
            }
        };
        if place.had_to_wait() {
            note_conflict(&mut conflict_noted);
        }
        let mut backoff = Backoff::default();
        // When to send the request if nobody else has by then: at the known end of what is in the way, or when the time is up.
        let mut ask_at = place.ask_at(deadline);
        loop {
            let under_way = place.under_way_since();
            let until = match under_way {
                Some(since) => deadline.max(since + GRACE),
                None => ask_at.min(deadline),
            };
            if under_way.is_none() && place.is_first() {
                self.poller.start(self);
            }
            tokio::select! {
                biased;
                answered = place.answered() => match answered {
                    Ok((claim, Ok(Attempt::Won(won)))) => {
                        place.note_failure(None);
                        if conflict_noted {
                            progress.hand_off();
                        }
                        let hold = place.received().unwrap_or_else(|| self.hold(&claim, request.manager, won));
                        return Ok(Grant::new(self, claim, won, hold));
                    }
                    Ok((claim, Ok(Attempt::Held(by)))) => {
                        if let Some(time) = by.as_ref().and_then(LockRow::read_at) {
                            self.clock.heard(time, claim.sent_at);
                        }
                        note_conflict(&mut conflict_noted);
                        place.note_failure(None);
                        backoff = Backoff::default();
                        if Instant::now() >= deadline {
                            return Err(timed_out());
                        }
                        ask_at = place.saw(by.as_ref());
                        place.ask_again(claim);
                    }
                    Ok((claim, Err(error))) => {
                        progress.backend_error();
                        place.note_failure(Some(error.clone()));
                        if !error.transient || Instant::now() >= deadline {
                            return Err(LockError::backend(error));
                        }
                        ask_at = backoff.next();
                        place.ask_again(claim);
                    }
                    Err(failure) => return Err(failure.map_or_else(timed_out, |error| {
                        progress.backend_error();
                        LockError::backend(error)
                    })),
                },
                () = place.changed() => ask_at = place.ask_at(deadline),
                () = sleep_until(until) => {
                    let is_over = Instant::now() >= deadline || planted!(EarlyTimeout);
                    match (place.under_way_since(), place.held_here()) {
                        (Some(_), _) if under_way.is_none() => {} // another task has just sent the request
                        (Some(_), _) => {
                            progress.backend_error();
                            return Err(LockError::backend(self.no_answer(place.failure())));
                        }
                        (None, _) if is_over && !place.is_first() => {
                            return Err(match place.failure() {
                                Some(error) => LockError::backend(error),
                                None => timed_out(),
                            });
                        }
                        (None, Some(_)) if is_over => return Err(timed_out()),
                        (None, None) if place.is_first() => place.send(),
                        // This waiter has become the first, or the lock in its way was renewed.
                        _ => ask_at = place.ask_at(deadline),
                    }
                }
            }
        }
    }

    /// Notes a lock that the database has just given.
    fn hold(&self, claim: &Claim, manager: u64, won: Won) -> Arc<Hold> {
        self.clock.heard(won.acquired_at, claim.sent_at);
        let sent = if planted!(BeliefFromTheAnswer) {
            BootTime::now()
        } else {
            claim.sent_at
        };
        let hold = Arc::new(Hold::new(claim, manager, won, sent + claim.ttl));
        self.queues().hold(Arc::clone(&hold));
        hold
    }

    /// Sends requests whose time has come.
    fn send(&self, requests: impl IntoIterator<Item = Acquire>) {
        for request in requests {
            self.store.submit(Operation::Acquire(request));
        }
    }

    /// Sends an operation and waits for its answer, for `patience` at most; transient failures are retried.
    pub(crate) async fn ask<T>(
        &self,
        patience: Duration,
        operation: impl FnMut(Reply<T>) -> Operation,
    ) -> Result<T, StoreError> {
        let answered = self.ask_again(patience, None, operation).await?;
        Ok(answered.value)
    }

    /// As [`Self::ask`], when a first request has been sent already.
    async fn ask_again<T>(
        &self,
        patience: Duration,
        mut sent: Option<oneshot::Receiver<Result<T, StoreError>>>,
        mut operation: impl FnMut(Reply<T>) -> Operation,
    ) -> Result<Answered<T>, StoreError> {
        let deadline = Instant::now() + patience;
        let mut backoff = Backoff::default();
        let mut failed_before = None;
        let mut carried_out_before = false;
        loop {
            let answer = sent.take().unwrap_or_else(|| {
                let (reply, answer) = oneshot::channel();
                self.store.submit(operation(reply));
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
            .ask(RELEASE_PATIENCE, |reply| Operation::Clear { reply })
            .await;
        let requests = self.queues().wake_all();
        self.send(requests);
        cleared.map_err(LockError::backend)
    }

    /// Deletes the expired rows and returns their number. An expired row has no holder, so no
    /// waiter has to be woken.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep(&self) -> Result<u64, LockError> {
        self.ask(RELEASE_PATIENCE, |reply| Operation::Sweep { reply })
            .await
            .map_err(LockError::backend)
    }

    /// Returns the row of a key, unless the row has expired or does not exist.
    ///
    /// # Errors
    /// The store's.
    pub async fn row(&self, key: &Arc<str>) -> Result<Option<LockRow>, LockError> {
        let keys = || vec![Arc::clone(key)];
        self.ask(RELEASE_PATIENCE, |reply| Operation::Observe {
            keys: keys(),
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
        self.ask(RELEASE_PATIENCE, |reply| Operation::List { reply })
            .await
            .map_err(LockError::backend)
    }

    /// How many rows are not expired.
    ///
    /// # Errors
    /// The store's, or that it took longer than `patience`.
    pub async fn count(&self, patience: Duration) -> Result<u64, LockError> {
        self.ask(patience, |reply| Operation::Count { reply })
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
        self.queues().waiting()
    }

    /// How many locks this process holds, and how many callers wait for one.
    #[must_use]
    pub fn held_and_waiting(&self) -> (usize, usize) {
        self.queues().held_and_waiting()
    }

    /// Rows of abandoned claims that are still to be deleted.
    #[must_use]
    pub fn abandoned_rows(&self) -> u64 {
        self.abandoned.load(Ordering::Acquire)
    }

    /// The latest acquisition of (key, holder) by this process: `Err(true)` when there was one once, and it is over.
    pub(crate) fn hold_of(&self, key: &Arc<str>, holder: &str) -> Result<Arc<Hold>, bool> {
        self.queues().hold_of(key, holder)
    }

    /// One manager's latest acquisition of the key, if it has not ended.
    pub(crate) fn hold_by(&self, key: &Arc<str>, manager: u64) -> Option<Arc<Hold>> {
        self.queues().hold_by(key, manager)
    }

    /// Releases all that this process holds (or one manager's part of it), for `patience` at most.
    pub async fn release_held(self: &Arc<Self>, manager: Option<u64>, patience: Duration) {
        let holds = self.queues().holds_of(manager);
        let releases = holds.into_iter().map(|hold| hold.release(self));
        let _ = tokio::time::timeout(patience, async {
            futures_util::future::join_all(releases).await;
            while self.abandoned_rows() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Whether anything of this process still depends on the engine.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.queues().in_use() || self.abandoned_rows() > 0 || self.arrivals.any()
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        lock(&self.queues)
    }

    /// Lets the first waiter for `key` try again.
    pub(crate) fn wake(&self, key: &Arc<str>) {
        let request = self.queues().wake(key);
        self.send(request);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.overdue.stop();
        self.store.close();
    }
}

impl Abandoned for Engine {
    fn abandoned(&self, id: &Arc<str>, key: &Arc<str>, in_doubt: Option<Duration>) {
        let Some(engine) = self.weak.upgrade() else { return };
        let (id, key) = (Arc::clone(id), Arc::clone(key));
        engine.abandoned.fetch_add(1, Ordering::AcqRel);
        // Dropped on any thread, perhaps one outside the runtime.
        surroundings::spawn(&self.runtime, async move {
            // Handed over in memory, and never received.
            let unreceived = engine.queues().hold_with(&key, &id);
            if let Some(hold) = unreceived {
                let _ = hold.release(&engine).await;
            } else {
                engine.delete_in_background(&id, &key, in_doubt);
            }
            engine.abandoned.fetch_sub(1, Ordering::AcqRel);
        });
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
            let requests = engine.queues().wake_where(|key| key_hash(key) == hash);
            engine.send(requests);
        }
    }

    fn anything_changed(&self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.poller.look_soon();
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
