//! One database's locks as this process sees them: who waits, who holds, and how a request becomes a lease.
//!
//! All managers of one database in one process share an engine. Callers for the same key queue here in the order they came
//! ([`queue`]), and only the first of them talks to the database. While it waits for someone else's lock it is woken by a
//! release in this process, by the store (another process's release), by the expiry it has seen, or by the poller
//! ([`poller`]), which looks at all awaited keys with one statement at least every 0.3 s.
//!
//! What is won is a [`Grant`]: a value that releases its row in the background when it is dropped. So whoever is cancelled,
//! wherever that happens, leaves nothing behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::boot_time::BootTime;
use super::error::{LockError, StoreError};
use super::operation::{
    Abandoned, Acquire, Attempt, Claim, LockRow, Operation, Release, ReleaseTarget, Reply,
};
use super::store::{Listener, Store, key_hash};

mod grant;
mod holds;
mod poller;
mod queue;
mod retry;

pub use grant::Grant;
pub(crate) use holds::{Hold, Status};
pub use queue::{Holding, Waiting};
use queue::{Place, Queues};
use retry::Backoff;

/// How long a request may take that was sent when its caller's time was nearly up.
const GRACE: Duration = Duration::from_secs(1);
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
}

/// How an acquisition begins.
enum Start {
    /// With a request under way.
    Sent(Sent),
    /// Behind others.
    Waiting(Claim),
}

/// A request under way.
struct Sent {
    sent_at: BootTime,
    answer: oneshot::Receiver<(Claim, Result<Attempt, StoreError>)>,
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

/// One database's locks as this process sees them.
pub struct Engine {
    store: Box<dyn Store>,
    queues: Mutex<Queues>,
    poller: poller::Poller,
    runtime: Handle,
    weak: Weak<Engine>,
    abandoned: AtomicU64,
    managers: AtomicU64,
}

impl Engine {
    /// An engine over the store that `make` builds; the store tells the listener what it notices.
    ///
    /// Needs an ambient tokio runtime, and goes on using it.
    pub fn new(make: impl FnOnce(Arc<dyn Listener>) -> Box<dyn Store>) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Engine>| Self {
            store: make(Arc::new(WakeUps(weak.clone()))),
            queues: Mutex::default(),
            poller: poller::Poller::default(),
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
    pub fn acquire(
        self: &Arc<Self>,
        request: Request,
        progress: Arc<dyn Progress>,
    ) -> impl Future<Output = Result<Grant, LockError>> + Send + 'static + use<> {
        let deadline = Instant::now() + request.timeout;
        let place = Place::join(self, &request.key, &request.holder);
        let owner = Arc::clone(self) as Arc<dyn Abandoned>;
        let claim = Claim::new(
            Arc::clone(&request.key),
            Arc::clone(&request.holder),
            request.ttl,
            owner,
        );
        // Who comes first need not wait for the future's first poll either.
        let start = if place.came_first() {
            Start::Sent(self.send(claim))
        } else {
            Start::Waiting(claim)
        };
        let engine = Arc::clone(self);
        async move {
            engine
                .acquire_at(place, start, deadline, &request, &*progress)
                .await
        }
    }

    async fn acquire_at(
        self: &Arc<Self>,
        place: Place,
        start: Start,
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
        if !place.came_first() {
            note_conflict(&mut conflict_noted);
            if timeout_at(deadline, place.first()).await.is_err() {
                return Err(match place.failure() {
                    Some(error) => LockError::backend(error),
                    None => timed_out(),
                });
            }
        }
        let mut backoff = Backoff::default();
        let (mut sent, mut idle) = match start {
            Start::Sent(sent) => (Some(sent), None),
            Start::Waiting(claim) => (None, Some(claim)),
        };
        let mut woken = false;
        loop {
            if sent.is_none()
                && !woken
                && let Some(expiry) = place.held_here()
            {
                // Held in this very process: unless something was heard, the database has nothing new to say.
                note_conflict(&mut conflict_noted);
                if Instant::now() >= deadline {
                    return Err(timed_out());
                }
                woken = place.wake_up(expiry.min(deadline)).await;
                continue;
            }
            let Some(attempt) = sent.take().or_else(|| idle.take().map(|claim| self.send(claim))) else {
                return Err(LockError::backend(StoreError::closed()));
            };
            let answered = timeout_at(deadline.max(Instant::now() + GRACE), attempt.answer).await;
            let (claim, outcome) = match answered {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => return Err(LockError::backend(StoreError::closed())),
                Err(_) => {
                    progress.backend_error();
                    return Err(LockError::backend(self.no_answer(place.failure())));
                }
            };
            match outcome {
                Ok(Attempt::Won(won)) => {
                    place.note_failure(None);
                    if conflict_noted {
                        progress.hand_off();
                    }
                    return Ok(Grant::new(self, claim, won, attempt.sent_at, request.manager));
                }
                Ok(Attempt::Held(by)) => {
                    note_conflict(&mut conflict_noted);
                    place.note_failure(None);
                    backoff = Backoff::default();
                    if Instant::now() >= deadline {
                        return Err(timed_out());
                    }
                    idle = Some(claim);
                    let expiry = place.saw(by.as_ref());
                    place.wake_up(expiry.min(deadline)).await;
                    woken = true;
                }
                Err(error) => {
                    progress.backend_error();
                    place.note_failure(Some(error.clone()));
                    if !error.transient || Instant::now() >= deadline {
                        return Err(LockError::backend(error));
                    }
                    idle = Some(claim);
                    tokio::time::sleep_until(backoff.next().min(deadline)).await;
                }
            }
        }
    }

    /// One try at the database.
    fn send(&self, claim: Claim) -> Sent {
        let sent_at = BootTime::now();
        let (reply, answer) = oneshot::channel();
        self.store.submit(Operation::Acquire(Acquire { claim, reply }));
        Sent { sent_at, answer }
    }

    /// Sends an operation and waits for its answer, for `patience` at most; transient failures are retried.
    pub(crate) async fn ask<T>(
        &self,
        patience: Duration,
        operation: impl FnMut(Reply<T>) -> Operation,
    ) -> Result<T, StoreError> {
        self.ask_again(patience, None, operation).await
    }

    /// As [`Self::ask`], when a first request has been sent already.
    async fn ask_again<T>(
        &self,
        patience: Duration,
        mut sent: Option<oneshot::Receiver<Result<T, StoreError>>>,
        mut operation: impl FnMut(Reply<T>) -> Operation,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + patience;
        let mut backoff = Backoff::default();
        let mut failed_before = None;
        loop {
            let answer = sent.take().unwrap_or_else(|| {
                let (reply, answer) = oneshot::channel();
                self.store.submit(operation(reply));
                answer
            });
            let failure = match timeout_at(deadline, answer).await {
                Ok(Ok(Ok(value))) => return Ok(value),
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => return Err(StoreError::closed()),
                Err(_) => return Err(self.no_answer(failed_before)),
            };
            if !failure.transient || Instant::now() >= deadline {
                return Err(failure);
            }
            failed_before = Some(failure);
            tokio::time::sleep_until(backoff.next().min(deadline)).await;
        }
    }

    /// The time is up and the database has said nothing: what it said the last time may tell why.
    fn no_answer(&self, failed_before: Option<StoreError>) -> StoreError {
        StoreError::unknown_outcome(match failed_before {
            Some(failure) => format!("{failure}; and then no answer in time"),
            None => format!("{}: no answer in time", self.store.describe()),
        })
    }

    /// A number for one more manager.
    pub(crate) fn number_manager(&self) -> u64 {
        self.managers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn submit(&self, operation: Operation) {
        self.store.submit(operation);
    }

    /// Deletes a row and wakes who waits for it here. The request is sent by this call, not by the future's first poll.
    pub fn release_row(
        self: &Arc<Self>,
        target: ReleaseTarget,
    ) -> impl Future<Output = Result<bool, LockError>> + Send + 'static + use<> {
        let (reply, first_answer) = oneshot::channel();
        self.submit(Operation::Release(Release {
            target: target.clone(),
            reply,
        }));
        let engine = Arc::clone(self);
        async move {
            let again = |reply| {
                Operation::Release(Release {
                    target: target.clone(),
                    reply,
                })
            };
            let released = engine
                .ask_again(RELEASE_PATIENCE, Some(first_answer), again)
                .await;
            engine.wake(target.key());
            released.map_err(LockError::backend)
        }
    }

    /// Deletes every row.
    ///
    /// # Errors
    /// The store's.
    pub async fn clear(&self) -> Result<u64, LockError> {
        let cleared = self
            .ask(RELEASE_PATIENCE, |reply| Operation::Clear { reply })
            .await;
        self.queues().wake_all();
        cleared.map_err(LockError::backend)
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

    /// What this process holds.
    #[must_use]
    pub fn holding(&self) -> Vec<Holding> {
        self.queues().holding()
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
        self.queues().in_use() || self.abandoned_rows() > 0
    }

    /// Lets go of the database's connections.
    pub fn close(&self) {
        self.store.close();
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the first waiter for `key` try again.
    fn wake(&self, key: &Arc<str>) {
        self.queues().wake(key);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.store.close();
    }
}

impl Abandoned for Engine {
    fn abandoned(&self, id: &Arc<str>, key: &Arc<str>, in_doubt: Option<Duration>) {
        let Some(engine) = self.weak.upgrade() else { return };
        let target = ReleaseTarget::Row {
            id: Arc::clone(id),
            key: Arc::clone(key),
        };
        engine.abandoned.fetch_add(1, Ordering::AcqRel);
        // Dropped on any thread, perhaps one outside the runtime.
        self.runtime.spawn(async move {
            let deleted = engine.delete_for_sure(target.clone()).await;
            engine.abandoned.fetch_sub(1, Ordering::AcqRel);
            if let Some(lasting) = in_doubt
                && !deleted
            {
                let weak = Weak::clone(&engine.weak);
                drop(engine);
                delete_if_it_comes(weak, target, lasting).await;
            }
        });
    }
}

/// A statement whose connection was given up may still be on its way, and write its row after we have looked for it: looks
/// again, ever more seldom, until the row would have expired, or the engine has gone.
async fn delete_if_it_comes(engine: Weak<Engine>, target: ReleaseTarget, lasting: Duration) {
    let end = Instant::now() + lasting;
    let mut pause = FIRST_LOOK;
    while Instant::now() < end {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SELDOM_LOOK);
        let Some(engine) = engine.upgrade() else { return };
        if engine.delete_for_sure(target.clone()).await {
            return;
        }
    }
}

impl Engine {
    /// Deletes a row that nobody owns any more, however long the database is away, within reason; whether there was one.
    async fn delete_for_sure(&self, target: ReleaseTarget) -> bool {
        let deleted = self
            .ask(retry::LONGEST, |reply| {
                Operation::Release(Release {
                    target: target.clone(),
                    reply,
                })
            })
            .await;
        self.wake(target.key());
        deleted.unwrap_or(false)
    }
}

/// Passes on what the store notices, without keeping the engine alive.
struct WakeUps(Weak<Engine>);

impl Listener for WakeUps {
    fn changed(&self, hash: u64) {
        if let Some(engine) = self.0.upgrade() {
            engine.queues().wake_where(|key| key_hash(key) == hash);
        }
    }

    fn anything_changed(&self) {
        if let Some(engine) = self.0.upgrade() {
            engine.poller.look_soon();
        }
    }
}
