//! What a caller asks for: locks by marketplace and posting, on one database.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::boot_time::BootTime;
use super::engine::{Engine, Grant, Hold, Known, OVERDUE, Progress, Request};
use super::error::LockError;
use super::lease::{Keeping, Lease};
use super::names::{self, LockName};
use super::offer::Offer;
use super::operation::{LockRow, ReleaseTarget};
use super::registry::EngineHandle;
use super::surroundings::planted;
use crate::figures::{Ledger, LockCounter};

/// One caller's view of a database's locks: its counters, and what it acquired.
pub struct Manager {
    engine: EngineHandle,
    id: u64,
    ledger: Arc<Ledger>,
}

/// What a caller wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub name: LockName,
    /// The name to hold it under.
    pub holder: Arc<str>,
    /// How long it lasts without renewal.
    pub ttl: Duration,
    /// How long to wait for it.
    pub timeout: Duration,
}

impl Wanted {
    /// Checks everything a caller gives.
    ///
    /// # Errors
    /// [`LockError::InvalidArgument`], naming the argument and the value.
    pub fn new(
        marketplace_id: &str,
        posting_id: &str,
        holder_id: &str,
        ttl: f64,
        timeout: f64,
    ) -> Result<Self, LockError> {
        Ok(Self {
            name: LockName::new(marketplace_id, posting_id)?,
            holder: names::holder(holder_id)?,
            ttl: names::lasting_time("ttl", ttl)?,
            timeout: names::waiting_time("timeout", timeout)?,
        })
    }
}

impl Manager {
    #[must_use]
    pub fn new(engine: EngineHandle, ledger: Ledger) -> Self {
        let id = engine.engine().number_manager();
        Self {
            engine,
            id,
            ledger: Arc::new(ledger),
        }
    }

    /// The engine that managers of the same database share.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        self.engine.engine()
    }

    /// Takes a lock. See [`Engine::acquire`]: the turn is settled by this call.
    pub fn acquire(
        &self,
        wanted: Wanted,
    ) -> impl Future<Output = Result<Grant, LockError>> + Send + 'static + use<> {
        let deadline = Instant::now() + wanted.timeout;
        self.acquire_until(wanted, deadline, false)
    }

    fn acquire_until(
        &self,
        wanted: Wanted,
        deadline: Instant,
        allows_optimistic_handoff: bool,
    ) -> impl Future<Output = Result<Grant, LockError>> + Send + 'static + use<> {
        let started = Instant::now();
        let request = Request {
            name: wanted.name.display().to_owned(),
            key: wanted.name.key,
            holder: wanted.holder,
            ttl: wanted.ttl,
            timeout: deadline.saturating_duration_since(started),
            said_timeout: wanted.timeout,
            manager: self.id,
            allows_optimistic_handoff,
        };
        let ledger = Arc::clone(&self.ledger);
        ledger.add(LockCounter::Attempts);
        // In a box, because a future that is captured and then awaited takes its place twice, in each
        // of the futures around it.
        let acquiring = Box::pin(
            self.engine()
                .acquire(request, Arc::clone(&ledger) as Arc<dyn Progress>),
        );
        async move {
            let outcome = acquiring.await;
            ledger.waited(started.elapsed());
            match &outcome {
                Ok(_) => ledger.add(LockCounter::Successes),
                Err(LockError::Timeout { .. }) => ledger.add(LockCounter::Timeouts),
                Err(_) => {}
            }
            outcome
        }
    }

    /// Takes a lock and keeps it. As [`Manager::acquire`].
    pub fn lease(
        &self,
        wanted: Wanted,
        keeping: Keeping,
    ) -> impl Future<Output = Result<Lease, LockError>> + Send + 'static + use<> {
        let deadline = Instant::now() + wanted.timeout;
        let acquiring = self.acquire_until(wanted, deadline, true);
        let ledger = Arc::clone(&self.ledger);
        async move { Ok(Lease::new(acquiring.await?, keeping, ledger)) }
    }

    /// Takes several locks, all or none, one after another in the order of their keys, so that two callers can't wait for
    /// each other. The result is in the order asked for. It is given back if nobody picks it up
    /// within a second after the time limit.
    ///
    /// # Errors
    /// As [`Manager::acquire`]; the time limit is for all of them together.
    pub async fn lease_many(
        &self,
        wanted: Vec<Wanted>,
        keeping: Keeping,
    ) -> Result<Offer<Vec<Lease>>, LockError> {
        let started = Instant::now();
        let timeout = wanted.iter().map(|one| one.timeout).max().unwrap_or_default();
        let names: Vec<_> = wanted.iter().map(|one| one.name.display()).collect();
        let too_late = LockError::Timeout {
            name: names.join(", "),
            timeout,
        };
        let mut ordered: Vec<(usize, Wanted)> = wanted.into_iter().enumerate().collect();
        if !planted!(UnorderedLocks) {
            ordered.sort_by(|(_, one), (_, other)| one.name.key.cmp(&other.name.key));
        }
        let mut neighbours = ordered.iter().zip(ordered.iter().skip(1));
        if let Some(((_, twice), _)) = neighbours.find(|((_, one), (_, next))| one.name == next.name) {
            let message = format!("the same lock is asked for twice: {}", twice.name.display());
            return Err(LockError::invalid("locks", message));
        }
        let mut leases = Vec::with_capacity(ordered.len());
        for (position, wanted) in ordered {
            let deadline = started + wanted.timeout;
            let grant = self.acquire_until(wanted, deadline, true).await?;
            leases.push((position, Lease::new(grant, keeping, Arc::clone(&self.ledger))));
        }
        leases.sort_by_key(|(position, _)| *position);
        let leases = leases.into_iter().map(|(_, lease)| lease).collect();
        Ok(Offer::until(started + timeout + OVERDUE, leases, too_late))
    }

    /// Releases a lock by its holder's name: exactly what this process acquired, if it did, and else whatever that holder
    /// has. Begun by this call, and carried through even if the future is dropped.
    pub fn release(
        &self,
        name: &LockName,
        holder: Arc<str>,
    ) -> impl Future<Output = Result<bool, LockError>> + Send + 'static + use<> {
        let (ours, theirs) = match self.engine().hold_of(&name.key, &holder) {
            Known::Held(hold) => (Some(self.release_hold(hold)), None),
            Known::Past => (None, None),
            Known::Never => {
                let target = ReleaseTarget::Holder {
                    key: Arc::clone(&name.key),
                    holder,
                };
                (None, Some(Box::pin(self.engine().release_row(target))))
            }
        };
        async move {
            match (ours, theirs) {
                (Some(releasing), _) => releasing.await,
                (None, Some(releasing)) => releasing.await,
                (None, None) => Ok(false),
            }
        }
    }

    /// Releases what this very manager acquired last, whatever the holder's name. As [`Manager::release`] otherwise.
    pub fn release_own(
        &self,
        name: &LockName,
    ) -> impl Future<Output = Result<bool, LockError>> + Send + 'static + use<> {
        let hold = self.engine().hold_by(&name.key, self.id);
        let releasing = hold.map(|hold| self.release_hold(hold));
        async move {
            match releasing {
                Some(releasing) => releasing.await,
                None => Ok(false),
            }
        }
    }

    fn release_hold(
        &self,
        hold: Arc<Hold>,
    ) -> impl Future<Output = Result<bool, LockError>> + Send + 'static + use<> {
        if hold.is_held() {
            self.ledger.held(hold.since.until(BootTime::now()));
        }
        hold.release(self.engine())
    }

    /// Asks the database for nothing but an answer, now. See [`Engine::hear_from`].
    ///
    /// # Errors
    /// [`LockError::Backend`] when there is none, or none within `patience`.
    pub async fn hear_from_database(&self, patience: Duration) -> Result<(), LockError> {
        self.engine().hear_from(patience).await
    }

    /// Deletes a key's row, whoever has it.
    ///
    /// # Errors
    /// [`LockError::Backend`].
    pub async fn break_lock(&self, key: &str) -> Result<bool, LockError> {
        self.engine()
            .release_row(ReleaseTarget::Key { key: key.into() })
            .await
    }

    /// Deletes every lock; how many there were.
    ///
    /// # Errors
    /// [`LockError::Backend`].
    pub async fn clear(&self) -> Result<u64, LockError> {
        self.engine().clear().await
    }

    /// Deletes the rows that have expired by the clock of the database, and returns their number.
    /// Rows whose key is not that of a [`LockName`] do not belong to this package and stay.
    ///
    /// # Errors
    /// [`LockError::Backend`].
    pub async fn sweep(&self) -> Result<u64, LockError> {
        self.engine().sweep().await
    }

    /// Every row of the table.
    ///
    /// # Errors
    /// [`LockError::Backend`].
    pub async fn rows(&self) -> Result<Vec<LockRow>, LockError> {
        self.engine().list().await
    }

    /// Returns the row of a key, unless the row has expired or does not exist.
    ///
    /// # Errors
    /// [`LockError::Backend`].
    pub async fn row(&self, key: &str) -> Result<Option<LockRow>, LockError> {
        self.engine().row(&key.into()).await
    }

    /// Counts the rows that are not expired; the last known count if that takes longer than `patience`.
    pub async fn active_locks(&self, patience: Duration) -> u64 {
        match self.engine().count(patience).await {
            Ok(count) => {
                self.ledger.note_active_locks(count);
                count
            }
            Err(_) => self.ledger.active_locks(),
        }
    }

    /// Releases what this manager acquired and still holds.
    pub async fn release_all(&self, patience: Duration) {
        self.engine().release_held(Some(self.id), patience).await;
    }
}

impl Progress for Ledger {
    fn conflict(&self) {
        self.add(LockCounter::Conflicts);
    }

    fn hand_off(&self) {
        self.add(LockCounter::HandOffs);
    }

    fn backend_error(&self) {
        self.add(LockCounter::BackendErrors);
    }
}
