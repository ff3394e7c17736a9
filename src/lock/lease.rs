//! A lock as its holder has it: what it may believe, how it is kept, how its loss is told.
//!
//! What a holder believes is measured on a clock that nobody sets, from before the statement was sent: the database's row
//! never expires before that. A lease with renewal has a task that moves the row's expiry at a third of its time to live,
//! until the lease ends or `max_hold` has passed. Renewal never writes a row anew, so it can't revive a lock that another
//! has taken, nor one that has been released meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::boot_time::BootTime;
use super::engine::{Engine, Grant, Hold, Status};
use super::error::{LockError, StoreError};
use super::operation::{Operation, Renew, Won};
use super::surroundings::{self, planted};
use crate::figures::{Ledger, LockCounter};
use crate::mutex::lock;

/// A renewal that failed is tried again after this, until the lease's time is up.
const RENEWAL_RETRY: Duration = Duration::from_millis(200);

/// How a lease is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    /// Whether it is renewed without being asked.
    pub auto_renew: bool,
    /// For how long at most; None for no limit.
    pub max_hold: Option<Duration>,
}

/// A lock that its holder holds until it releases it, drops it or loses it.
pub struct Lease {
    shared: Arc<Shared>,
    grant: Mutex<Option<Grant>>,
}

/// What the lease and its renewal share.
struct Shared {
    engine: Arc<Engine>,
    hold: Arc<Hold>,
    won: Won,
    ttl: Duration,
    at_max_hold: AtomicBool,
    lost_because: Mutex<Option<String>>,
    /// One renewal at a time: what is believed must be what was written last. The shortest time of those that may yet be carried out, as
    /// nobody knows what became of them.
    renewing: tokio::sync::Mutex<Duration>,
    /// Locked while the release is under way, since the answer to it decides whether the lock had
    /// been lost.
    releasing: Arc<tokio::sync::Mutex<()>>,
    ledger: Arc<Ledger>,
}

impl Lease {
    /// Takes over a grant, and begins to renew it if it is to be kept. Needs an ambient tokio runtime.
    #[must_use]
    pub fn new(grant: Grant, keeping: Keeping, ledger: Arc<Ledger>) -> Self {
        let shared = Arc::new(Shared {
            engine: Arc::clone(&grant.engine),
            hold: Arc::clone(&grant.hold),
            won: grant.won,
            ttl: grant.ttl,
            at_max_hold: AtomicBool::new(false),
            lost_because: Mutex::new(None),
            renewing: tokio::sync::Mutex::new(Duration::MAX),
            releasing: Arc::default(),
            ledger,
        });
        if keeping.auto_renew {
            surroundings::spawn(&Handle::current(), keep(Arc::clone(&shared), keeping.max_hold));
        }
        Self {
            shared,
            grant: Mutex::new(Some(grant)),
        }
    }

    #[must_use]
    pub fn key(&self) -> &str {
        &self.shared.hold.key
    }

    /// The name it is held under.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.shared.hold.holder
    }

    /// Grows with every acquisition of the key, across holders, processes and restarts.
    #[must_use]
    pub fn fencing_token(&self) -> i64 {
        self.shared.won.token
    }

    /// When it was acquired, in Unix seconds by the database's clock.
    #[must_use]
    pub fn acquired_at(&self) -> f64 {
        self.shared.won.acquired_at
    }

    /// When it expires without renewal, in Unix seconds by the database's clock.
    #[must_use]
    pub fn expires_at(&self) -> f64 {
        self.shared.hold.expires_at()
    }

    /// How long the holder may still believe in it without renewal.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        if self.shared.hold.status() == Status::Held {
            self.shared.hold.remaining()
        } else {
            Duration::ZERO
        }
    }

    /// Whether the holder may believe in it now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.shared.hold.is_held()
    }

    /// Why it was lost, if it was.
    #[must_use]
    pub fn loss(&self) -> Option<String> {
        self.shared.loss()
    }

    /// Moves the expiry to `ttl` from now (the lease's own when None). Carried through even if the future is dropped.
    ///
    /// # Errors
    /// [`LockError::Lost`] when the lock is not held any more; [`LockError::Backend`] when the database did not answer in time.
    pub fn renew(
        &self,
        ttl: Option<Duration>,
    ) -> impl Future<Output = Result<f64, LockError>> + Send + 'static + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            let (answer, renewed) = oneshot::channel();
            surroundings::spawn(&Handle::current(), async move {
                let ttl = ttl.unwrap_or(shared.ttl);
                drop(answer.send(shared.renew(ttl).await));
            });
            renewed
                .await
                .unwrap_or_else(|_| Err(LockError::backend(StoreError::closed())))
        }
    }

    /// Deletes the row, and resolves to whether this lease still held the lock. The call itself
    /// begins the release, which continues even if the future is dropped. When the database does
    /// not answer ([`LockError::Backend`]), the release continues in the background. If the lock is
    /// known to be lost, the future resolves at once and does not wait for the database.
    pub fn release(&self) -> impl Future<Output = Result<bool, LockError>> + Send + 'static + use<> {
        let grant = lock(&self.grant).take();
        let releasing = grant.and_then(|grant| {
            let under_way = Arc::clone(&self.shared.releasing).try_lock_owned();
            let is_lost = self.shared.loss().is_some();
            if self.shared.hold.status() != Status::Released {
                self.shared
                    .ledger
                    .held(self.shared.hold.since.until(BootTime::now()));
            }
            let releasing = grant.release();
            (!is_lost).then(|| (Arc::clone(&self.shared), releasing, under_way))
        });
        async move {
            let Some((shared, releasing, _under_way)) = releasing else {
                return Ok(false);
            };
            let released = releasing.await;
            if shared.hold.status() == Status::Lost {
                shared.lose("the release found no row: another holder has the lock, or the row was deleted");
            }
            released
        }
    }

    /// Waits until the lease ends: why it was lost, or None when it was released.
    pub fn lost(&self) -> impl Future<Output = Option<String>> + Send + 'static + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            loop {
                match shared.hold.status() {
                    Status::Released => {
                        drop(shared.releasing.lock().await);
                        return shared.loss();
                    }
                    Status::Lost => return shared.loss(),
                    Status::Held => {}
                }
                if let Some(loss) = shared.loss() {
                    return Some(loss);
                }
                let _ = timeout(shared.hold.remaining(), shared.hold.ended()).await;
            }
        }
    }
}

impl Shared {
    fn loss(&self) -> Option<String> {
        match self.hold.status() {
            Status::Released => {}
            Status::Lost => self.lose("another holder has it, or its row was deleted"),
            Status::Held if !self.hold.is_held() => self.lose(self.why_expired()),
            Status::Held => {}
        }
        self.stated_loss()
    }

    fn why_expired(&self) -> &'static str {
        if self.at_max_hold.load(Ordering::Acquire) {
            "it was held for as long as max_hold allows"
        } else {
            "its time ran out"
        }
    }

    fn stated_loss(&self) -> Option<String> {
        lock(&self.lost_because).clone()
    }

    /// Notes a loss; the first reason stands.
    fn lose(&self, reason: &str) {
        let mut stated = lock(&self.lost_because);
        if stated.is_none() {
            *stated = Some(reason.to_owned());
            self.ledger.add(LockCounter::Losses);
        }
        drop(stated);
        if self.hold.end(Status::Lost) {
            self.engine.lost(&self.hold);
        }
    }

    fn lost_error(&self) -> LockError {
        let reason = self.loss().unwrap_or_else(|| "it has been released".into());
        LockError::Lost {
            key: self.hold.key.to_string(),
            reason,
        }
    }

    /// Moves the expiry, trying until the present one is reached.
    async fn renew(&self, ttl: Duration) -> Result<f64, LockError> {
        let mut in_doubt = self.renewing.lock().await;
        let _ = timeout(self.hold.remaining(), self.engine.arrival(&self.hold)).await;
        let mut failure = None;
        while self.hold.is_held() {
            let before = self.hold.valid_until();
            let sent = BootTime::now();
            // If the answer is lost, the shorter of the two times must be believed.
            if !planted!(RenewalThatUndoesALongerOne) {
                self.hold
                    .set_valid_until(before.min(time::trusted_until(sent, ttl)));
            }
            let (reply, answer) = oneshot::channel();
            self.engine.submit(Operation::Renew(Renew {
                id: Arc::clone(&self.hold.id),
                key: Arc::clone(&self.hold.key),
                ttl,
                until: Instant::now() + self.hold.remaining(),
                reply,
            }));
            match timeout(self.hold.remaining(), answer).await {
                Ok(Ok(Ok(Some(expires_at)))) => {
                    let valid_until = time::trusted_until(sent, ttl.min(*in_doubt));
                    self.hold.set_validity(valid_until, expires_at);
                    self.engine.heard(time::written_at(expires_at, ttl), sent);
                    self.engine.extended(&self.hold);
                    self.ledger.add(LockCounter::Renewals);
                    return Ok(expires_at);
                }
                Ok(Ok(Ok(None))) if planted!(RenewalThatRevives) => self.hold.set_valid_until(sent + ttl),
                Ok(Ok(Ok(None))) => {
                    if self.hold.status() == Status::Held {
                        self.lose("another holder has it, or its row was deleted or expired");
                    }
                    return Err(self.lost_error());
                }
                Ok(Ok(Err(error))) if planted!(OneFailedRenewalIsALoss) => self.lose(&error.message),
                Ok(Ok(Err(error))) => {
                    if error.outcome_unknown {
                        *in_doubt = ttl.min(*in_doubt);
                    }
                    self.ledger.add(LockCounter::BackendErrors);
                    failure = Some(error);
                }
                Ok(Err(_)) => return Err(LockError::backend(StoreError::closed())),
                Err(_) => break,
            }
            let _ = timeout(RENEWAL_RETRY.min(self.hold.remaining()), self.hold.ended()).await;
        }
        if self.hold.status() == Status::Held {
            let cause = failure.map_or_else(|| "the database did not answer".into(), |error| error.message);
            self.lose(&format!("its time ran out before it could be renewed: {cause}"));
        }
        Err(self.lost_error())
    }
}

/// Renews at a third of the time to live until the lease ends, or `max_hold` has passed.
async fn keep(shared: Arc<Shared>, max_hold: Option<Duration>) {
    let end = max_hold.map(|most| Instant::now() + most);
    loop {
        let pause = sleep(shared.ttl / 3);
        tokio::select! {
            biased;
            () = shared.hold.ended() => return,
            () = pause => {}
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let Some(left) = left.filter(|left| *left < shared.ttl) else {
            if shared.renew(shared.ttl).await.is_err() {
                return;
            }
            continue;
        };
        // The last renewal reaches just as far as the lock may be held.
        shared.at_max_hold.store(true, Ordering::Release);
        if left > shared.hold.remaining() && shared.renew(left).await.is_err() {
            return;
        }
        let _ = timeout(shared.hold.remaining(), shared.hold.ended()).await;
        shared.loss();
        return;
    }
}

pub(in crate::lock) mod time;

#[cfg(test)]
mod tests;
