//! A lock as its holder has it: what it may believe, how it is kept, how it learns of a loss.
//!
//! What a holder believes is measured on a clock that nobody sets, from before the statement was sent:
//! the database's row never expires before that. A pure state machine ([`life`]) decides everything. A
//! lease that is to be renewed has a task, which sends what the machine asks for and tells it the time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::boot_time::BootTime;
use super::engine::{Engine, Grant, Hold, Renewal};
use super::error::{LockError, StoreError};
use super::names;
use super::operation::{Operation, Renew, Won};
use super::surroundings;
use crate::figures::Ledger;
use crate::mutex::lock;
use life::{Answer, Event, Expiry, Status};

pub(crate) mod life;
pub(crate) mod time;

/// How a lease is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    /// Whether it is renewed without being asked.
    pub auto_renew: bool,
    /// For how long at most; None for no limit.
    pub max_hold: Option<Duration>,
    /// How long before the row's expiry its holder stops believing in it. The row keeps its expiry.
    pub margin: Duration,
    /// How often its row is looked for, about; None if only a renewal or the release finds that it has
    /// gone.
    pub loss_check: Option<Duration>,
}

impl Keeping {
    const LONGEST_DEFAULT_MARGIN: Duration = Duration::from_secs(1);
    const SHORTEST_LOSS_CHECK: f64 = 0.1;

    /// Checks what a caller gives, in seconds. A margin that is not given is a tenth of the time to
    /// live, a second at most, and nothing without renewal: the whole time is for the holder then.
    ///
    /// # Errors
    /// [`LockError::InvalidArgument`], naming the argument and the value.
    pub fn new(
        ttl: Duration,
        auto_renew: bool,
        max_hold: Option<f64>,
        margin: Option<f64>,
        loss_check: Option<f64>,
    ) -> Result<Self, LockError> {
        Ok(Self {
            auto_renew,
            max_hold: max_hold.map(names::longest_hold).transpose()?,
            margin: match margin {
                Some(seconds) => Self::given_margin(seconds, ttl)?,
                None if auto_renew => (ttl / 10).min(Self::LONGEST_DEFAULT_MARGIN),
                None => Duration::ZERO,
            },
            loss_check: loss_check.map(Self::given_loss_check).transpose()?,
        })
    }

    fn given_margin(seconds: f64, ttl: Duration) -> Result<Duration, LockError> {
        let half = ttl.as_secs_f64() / 2.0;
        if (0.0..half).contains(&seconds) {
            return Ok(Duration::from_secs_f64(seconds));
        }
        Err(LockError::invalid(
            "margin",
            format!(
                "margin must be a number of seconds >= 0 and less than half of ttl ({half:?}), not {seconds:?}"
            ),
        ))
    }

    fn given_loss_check(seconds: f64) -> Result<Duration, LockError> {
        if seconds >= Self::SHORTEST_LOSS_CHECK {
            return names::lasting_time("loss_check", seconds);
        }
        Err(LockError::invalid(
            "loss_check",
            format!(
                "loss_check must be a number of seconds >= {:?}, or None for no check, not {seconds:?}",
                Self::SHORTEST_LOSS_CHECK
            ),
        ))
    }
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            auto_renew: true,
            max_hold: None,
            margin: Duration::ZERO,
            loss_check: None,
        }
    }
}

/// A lock that its holder holds until it releases it, drops it or loses it.
pub struct Lease {
    shared: Arc<Shared>,
    grant: Mutex<Option<Grant>>,
}

/// What the lease and its task share.
struct Shared {
    engine: Arc<Engine>,
    hold: Arc<Hold>,
    won: Won,
    ttl: Duration,
    ledger: Arc<Ledger>,
    /// Whether a task sends its renewals.
    is_kept: Mutex<bool>,
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
            ledger: Arc::clone(&ledger),
            is_kept: Mutex::new(false),
        });
        shared.hold.make_lease(ledger, keeping.loss_check);
        shared.on(Event::Keep {
            auto_renew: keeping.auto_renew,
            end: keeping.max_hold.map(|most| BootTime::now() + most),
            margin: keeping.margin,
        });
        shared.engine.watch_leases();
        if keeping.auto_renew {
            shared.keep();
        }
        Self {
            shared,
            grant: Mutex::new(Some(grant)),
        }
    }

    #[cfg(test)]
    pub(super) fn hold(&self) -> &Arc<Hold> {
        &self.shared.hold
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

    /// How long its row certainly stands without renewal; zero when the holder may not believe in it
    /// any more, a margin before that.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        if self.is_held() {
            BootTime::now().until(self.shared.hold.valid_until())
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
    /// [`LockError::Lost`] when the lock is not held any more; [`LockError::Backend`] when the store has been closed.
    pub fn renew(
        &self,
        ttl: Option<Duration>,
    ) -> impl Future<Output = Result<f64, LockError>> + Send + 'static + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            let (number, renewed) = shared.hold.add_renewer();
            let ttl = ttl.unwrap_or(shared.ttl);
            shared.on(Event::Renew { number, ttl });
            shared.keep();
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
            let is_lost = self.shared.loss().is_some();
            let hold = &self.shared.hold;
            if is_lost || hold.status() == Status::Held {
                self.shared.ledger.held(hold.since.until(BootTime::now()));
            }
            let releasing = grant.release();
            (!is_lost).then_some(releasing)
        });
        async move {
            match releasing {
                Some(releasing) => releasing.await,
                None => Ok(false),
            }
        }
    }

    /// Waits until the lease ends: why it was lost, or None when it was released.
    pub fn lost(&self) -> impl Future<Output = Option<String>> + Send + 'static + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            loop {
                let loss = shared.loss();
                match shared.hold.status() {
                    Status::Lost | Status::Released => return loss,
                    Status::Leaving => shared.hold.released().await,
                    Status::Held => shared.hold.over().await,
                }
            }
        }
    }
}

impl Shared {
    fn on(&self, event: Event) {
        let _ = self.hold.on(&self.engine, event);
    }

    fn loss(&self) -> Option<String> {
        self.on(Event::Check);
        self.hold.life().loss().cloned()
    }

    /// Has a task send the renewals, if none does so. Needs an ambient tokio runtime.
    fn keep(self: &Arc<Self>) {
        if !std::mem::replace(&mut *lock(&self.is_kept), true) {
            let shared = Arc::clone(self);
            surroundings::spawn(
                &tokio::runtime::Handle::current(),
                async move { shared.renew().await },
            );
        }
    }

    /// Sends renewals for as long as any are wanted.
    async fn renew(&self) {
        let mut under_way: Option<UnderWay> = None;
        loop {
            let changed = self.hold.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = BootTime::now();
            let wake_at = {
                let life = self.hold.life();
                if !life.is_kept() {
                    // Whoever wants a renewal from here on has another task begin.
                    *lock(&self.is_kept) = false;
                    return;
                }
                life.wake_at(now)
            };
            let event = tokio::select! {
                biased;
                answer = answer_to(&mut under_way) => match under_way.take() {
                    Some(renewal) => Event::Answered(self.read(&renewal, answer)),
                    None => continue,
                },
                () = changed => continue,
                () = pause(wake_at.map(|time| now.until(time))) => Event::Time,
            };
            if let Some(renewal) = self.hold.on(&self.engine, event) {
                under_way = Some(self.send(&renewal));
            }
        }
    }

    fn send(&self, renewal: &Renewal) -> UnderWay {
        let (reply, answer) = oneshot::channel();
        let (sent, ttl) = (BootTime::now(), renewal.ttl);
        self.engine.submit(Operation::Renew(Renew {
            id: Arc::clone(&self.hold.id),
            key: Arc::clone(&self.hold.key),
            ttl,
            until: Instant::now() + sent.until(renewal.until),
            reply,
        }));
        UnderWay { sent, ttl, answer }
    }

    fn read(&self, renewal: &UnderWay, answer: Renewed) -> Answer {
        match answer {
            Ok(Ok(Some(expires_at))) => {
                let written_at = time::written_at(expires_at, renewal.ttl);
                self.engine.heard(written_at, renewal.sent);
                Answer::Renewed(Expiry::at(expires_at))
            }
            Ok(Ok(None)) => Answer::Gone,
            Ok(Err(error)) => Answer::Failed {
                cause: error.message,
                is_in_doubt: error.outcome_unknown,
            },
            Err(_) => Answer::Closed,
        }
    }
}

/// A renewal that the database has not answered yet.
struct UnderWay {
    sent: BootTime,
    ttl: Duration,
    answer: oneshot::Receiver<Result<Option<f64>, StoreError>>,
}

type Renewed = Result<Result<Option<f64>, StoreError>, oneshot::error::RecvError>;

async fn answer_to(under_way: &mut Option<UnderWay>) -> Renewed {
    match under_way {
        Some(renewal) => (&mut renewal.answer).await,
        None => std::future::pending().await,
    }
}

async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
