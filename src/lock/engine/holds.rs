//! What this process holds, so that a release by name deletes exactly what was acquired here and nothing else.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::Engine;
use super::release::Released;
use crate::figures::{Ledger, LockCounter};
use crate::lock::boot_time::BootTime;
use crate::lock::error::{LockError, StoreError};
use crate::lock::lease::life::{Arrival, Counted, Effect, Event, Life, Status, Told};
use crate::lock::operation::{AcquisitionId, Claim, ReleaseTarget};
use crate::lock::store::key_hash;
use crate::lock::surroundings::Map;
use crate::lock::surroundings::planted;
use crate::mutex::lock;

/// How many past acquisitions are remembered; beyond it, a release by name goes by the holder's name alone.
pub(super) const REMEMBERED: usize = 65_536;

/// What this process knows of an acquisition by a holder's name.
pub(crate) enum Known {
    /// It is the latest of its key, and has not ended as far as is known.
    Held(Arc<Hold>),
    /// There was one, and it has ended.
    Past,
    Never,
}

type Renewer = oneshot::Sender<Result<f64, LockError>>;

/// One acquisition of this process. Its [`Life`] decides what becomes of it.
pub(crate) struct Hold {
    pub(crate) key: Arc<str>,
    pub(crate) holder: Arc<str>,
    pub(crate) id: AcquisitionId,
    pub(crate) manager: u64,
    pub(crate) since: BootTime,
    /// The fencing token.
    pub(crate) token: i64,
    /// A statement that is still under way may write the row once more, for so long.
    pub(super) in_doubt: Option<Duration>,
    is_given_away: AtomicBool,
    life: Mutex<Life>,
    changed: Notify,
    ledger: OnceLock<Arc<Ledger>>,
    loss_check: OnceLock<Option<Duration>>,
    renewers: Mutex<Map<u64, Renewer>>,
    numbers: AtomicU64,
}

/// A renewal that is to be sent.
pub(crate) struct Renewal {
    pub(crate) ttl: Duration,
    /// When the lease ends unless it is renewed.
    pub(crate) until: BootTime,
}

impl Hold {
    pub(super) fn new(claim: &Claim, manager: u64, token: i64, life: Life) -> Self {
        Self {
            key: Arc::clone(&claim.key),
            holder: Arc::clone(&claim.holder),
            id: Arc::clone(&claim.id),
            manager,
            since: BootTime::now(),
            token,
            in_doubt: claim.in_doubt(),
            is_given_away: AtomicBool::new(false),
            life: Mutex::new(life),
            changed: Notify::new(),
            ledger: OnceLock::new(),
            loss_check: OnceLock::new(),
            renewers: Mutex::default(),
            numbers: AtomicU64::new(0),
        }
    }

    pub(crate) fn life(&self) -> MutexGuard<'_, Life> {
        lock(&self.life)
    }

    /// Tells the acquisition's state machine what happened, and carries out what it answers; a
    /// renewal is for the caller to send. Never called with the engine's table locked.
    pub(crate) fn on(&self, engine: &Engine, event: Event) -> Option<Renewal> {
        let effects = self.life().on(BootTime::now(), event);
        let mut renewal = None;
        for effect in effects {
            match effect {
                Effect::Send { ttl, until } => renewal = Some(Renewal { ttl, until }),
                Effect::Extended => engine.extended(self),
                Effect::Lost => engine.lost(self),
                other => self.carry_out(other),
            }
        }
        renewal
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Changed if planted!(UnreportedLoss) => {}
            Effect::Changed => self.changed.notify_waiters(),
            Effect::Count(counted) => {
                if let Some(ledger) = self.ledger.get() {
                    ledger.add(match counted {
                        Counted::Loss => LockCounter::Losses,
                        Counted::Renewal => LockCounter::Renewals,
                        Counted::BackendError => LockCounter::BackendErrors,
                    });
                }
            }
            Effect::Tell(number, told) => self.tell(number, told),
            Effect::Send { .. } | Effect::Extended | Effect::Lost => {}
        }
    }

    /// Another acquisition of this process has the key now. The engine's table is locked.
    pub(super) fn superseded(&self) {
        let lost = Event::Lost("another holder has it, or its row was deleted");
        for effect in self.life().on(BootTime::now(), lost) {
            self.carry_out(effect);
        }
    }

    fn tell(&self, number: u64, told: Told) {
        let Some(renewer) = lock(&self.renewers).remove(&number) else {
            return;
        };
        drop(renewer.send(match told {
            Told::Renewed(expiry) => Ok(expiry.unix_seconds()),
            Told::NotHeld => Err(self.lost_error()),
            Told::Closed => Err(LockError::backend(StoreError::closed())),
        }));
    }

    fn lost_error(&self) -> LockError {
        let reason = self.life().loss().cloned();
        LockError::Lost {
            key: self.key.to_string(),
            reason: reason.unwrap_or_else(|| "it has been released".into()),
        }
    }

    /// A lease is made of it, whose losses and renewals are counted there. Its row is looked for
    /// every so often.
    pub(crate) fn make_lease(&self, ledger: Arc<Ledger>, loss_check: Option<Duration>) {
        let _ = self.ledger.set(ledger);
        let _ = self.loss_check.set(loss_check);
    }

    pub(super) fn is_lease(&self) -> bool {
        self.ledger.get().is_some()
    }

    /// Whether its row is to be looked for: no renewal finds as soon as looks do, which are so far
    /// `apart` at least, that the row has gone.
    pub(super) fn is_to_be_checked(&self, apart: Duration) -> bool {
        let Some(every) = self.loss_check() else {
            return false;
        };
        self.should_stand() && !self.life().is_renewed_within(every.max(apart))
    }

    /// How often its row is to be looked for.
    pub(super) fn loss_check(&self) -> Option<Duration> {
        self.loss_check.get().copied().flatten()
    }

    /// Has who waits for its end look at the time.
    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Notes who wants it renewed; the number is for [`Event::Renew`].
    pub(crate) fn add_renewer(&self) -> (u64, oneshot::Receiver<Result<f64, LockError>>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (renewer, renewed) = oneshot::channel();
        lock(&self.renewers).insert(number, renewer);
        (number, renewed)
    }

    /// Until when its row certainly stands.
    pub(crate) fn valid_until(&self) -> BootTime {
        self.life().valid_until()
    }

    /// When the row expires by the database's clock, in Unix seconds.
    pub(crate) fn expires_at(&self) -> f64 {
        self.life().expiry().unix_seconds()
    }

    /// How long its holder may still believe in it without renewal.
    pub(crate) fn remaining(&self) -> Duration {
        self.life().trusted_for(BootTime::now())
    }

    pub(crate) fn status(&self) -> Status {
        self.life().status()
    }

    /// Ours, and not expired.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held_at(BootTime::now())
    }

    pub(super) fn is_held_at(&self, now: BootTime) -> bool {
        self.life().is_held(now)
    }

    /// Its row goes to another acquisition of this process: it is not for this one to delete.
    pub(super) fn give_away(&self) {
        self.is_given_away.store(true, Ordering::Release);
    }

    pub(super) fn is_given_away(&self) -> bool {
        self.is_given_away.load(Ordering::Acquire)
    }

    pub(super) fn is_on_its_way(&self) -> bool {
        self.life().arrival() == Some(Arrival::OnItsWay)
    }

    /// Waits until the life is as wanted; whoever changes it says so.
    async fn until(&self, is_wanted: impl Fn(&Life) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_wanted(&self.life()) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until its holder no longer believes in it, for whatever reason.
    pub(crate) async fn over(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let left = self.remaining();
            if self.status() != Status::Held || left.is_zero() {
                return;
            }
            let _ = timeout(left, changed).await;
        }
    }

    /// Waits until its release is over, if it is under way.
    pub(crate) async fn released(&self) {
        self.until(|life| life.status() != Status::Leaving).await;
    }

    /// Waits until the database has answered to the hand-off that began it in memory.
    pub(super) async fn arrived(&self) {
        self.until(|life| life.arrival() != Some(Arrival::OnItsWay)).await;
    }

    /// The next change of any kind.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Ends the hold, and hands the lock off or deletes the row. Resolves to whether the row still
    /// existed. The call itself begins the release, which continues even if the future is dropped.
    /// If the row had certainly gone before the release, the hold becomes lost.
    pub(crate) fn release(
        self: Arc<Self>,
        engine: &Arc<Engine>,
    ) -> impl Future<Output = Result<bool, LockError>> + Send + 'static + use<> {
        let mut life = self.life();
        let now = BootTime::now();
        // A row that perhaps has its predecessor's id can't be given away.
        let may_be_handed_off = life.arrival() != Some(Arrival::Unknown) && life.is_held(now);
        // A second release finds no row, because the first one has deleted it. That is no loss.
        let is_first = life.status() == Status::Held;
        let effects = life.on(now, Event::Release);
        drop(life);
        for effect in effects {
            self.carry_out(effect);
        }
        let leaving = is_first.then(|| Leaving {
            hold: Arc::clone(&self),
            engine: Arc::clone(engine),
            was_gone: false,
        });
        // In a box, because a future that is captured and then awaited takes its place twice, in each
        // of the futures around it.
        let releasing = Box::pin(engine.release_hold(Arc::clone(&self), may_be_handed_off));
        async move {
            let mut leaving = leaving;
            let released = releasing.await?;
            if let Some(leaving) = &mut leaving {
                leaving.was_gone =
                    released == Released::Gone && self.should_stand() && !planted!(IgnoredAnswerOfARelease);
            }
            Ok(released == Released::Deleted)
        }
    }

    /// Whether its row would still be there if nobody had taken it away: it has not expired, and has
    /// this acquisition's id.
    pub(super) fn should_stand(&self) -> bool {
        let life = self.life();
        let perhaps_another = matches!(life.arrival(), Some(Arrival::OnItsWay | Arrival::Unknown));
        !perhaps_another && BootTime::now() < life.valid_until()
    }

    pub(super) fn target(&self) -> ReleaseTarget {
        ReleaseTarget::Row {
            id: Arc::clone(&self.id),
            key: Arc::clone(&self.key),
        }
    }
}

/// A first release under way: over when dropped.
struct Leaving {
    hold: Arc<Hold>,
    engine: Arc<Engine>,
    was_gone: bool,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let was_gone = self.was_gone;
        let _ = self.hold.on(&self.engine, Event::Released { was_gone });
    }
}

/// (key, holder) pairs that this process acquired once: a late release by such a holder must not delete its successor's row.
#[derive(Default)]
pub(super) struct Tombstones {
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl Tombstones {
    pub(super) fn insert(&mut self, key: &str, holder: &str) {
        let mark = mark(key, holder);
        if self.known.insert(mark) {
            self.order.push_back(mark);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    pub(super) fn contains(&self, key: &str, holder: &str) -> bool {
        self.known.contains(&mark(key, holder))
    }
}

fn mark(key: &str, holder: &str) -> u64 {
    key_hash(key) ^ key_hash(holder).rotate_left(32)
}
