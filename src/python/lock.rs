//! The bindings of locks.
//!
//! Engines belong to the process: they come from a registry that a forked child makes anew, and a manager made before the
//! fork finds its new engine there at its next call. What was acquired stays with the process that acquired it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::bridge::{PerProcess, ProcessBound, awaitable, block_on, receive};
use crate::figures::{HistogramSnapshot, Ledger, LockFigures};
use crate::lock::{
    self, DEFAULT_URL, Database, Grant, Keeping, LockError, LockName, Manager, Offer, Options, Registry,
    Wanted,
};

static REGISTRY: PerProcess<Registry> = PerProcess::new();

/// This process's engines, and what its managers have counted.
pub(super) fn registry() -> &'static Registry {
    REGISTRY.get_or_init(Registry::default)
}

/// The managers' common settings, and this process's manager once it is needed.
struct Settings {
    database: Database,
    figures: Arc<LockFigures>,
    manager: PerProcess<Mutex<Option<Arc<Manager>>>>,
}

impl Settings {
    /// This process's manager. The first call makes it, within the runtime; nothing is opened or waited for.
    fn manager(self: &Arc<Self>, py: Python<'_>) -> PyResult<Arc<Manager>> {
        if let Some(manager) = self.made() {
            return Ok(manager);
        }
        let settings = Arc::clone(self);
        block_on(py, async move {
            let slot = settings.manager.get_or_init(Mutex::default);
            let mut manager = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let make = || {
                let engine = registry().engine(&settings.database);
                let own = Arc::clone(&settings.figures);
                let ledger = Ledger::new(own, Arc::clone(registry().totals()));
                Arc::new(Manager::new(engine, ledger))
            };
            Ok::<_, LockError>(Arc::clone(manager.get_or_insert_with(make)))
        })
    }

    /// This process's manager, if it has been made.
    fn made(&self) -> Option<Arc<Manager>> {
        self.manager
            .get()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes the manager away; the next call makes another.
    fn take(&self) -> Option<Arc<Manager>> {
        self.manager
            .get()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Counts by bucket, and the sum of all values.
type Histogram = (Vec<u64>, f64);

/// What becomes of a native call when it ends well.
type Lost = Result<Option<String>, LockError>;

/// Locks on one database.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct LockManager {
    settings: Arc<Settings>,
}

#[pymethods]
impl LockManager {
    #[new]
    #[pyo3(signature = (database_url=None, *, max_connections=5, listen_url=None, statement_cache=true))]
    fn new(
        database_url: Option<&str>,
        max_connections: usize,
        listen_url: Option<String>,
        statement_cache: bool,
    ) -> PyResult<Self> {
        let options = Options {
            max_connections,
            listen_url,
            statement_cache,
            create_folders: database_url.is_none(),
        };
        let database = Database::parse(database_url.unwrap_or(DEFAULT_URL), &options)?;
        Ok(Self::on(database))
    }

    /// On a database in memory that those share who know its number.
    #[staticmethod]
    fn private_memory(number: u64) -> Self {
        Self::on(Database::PrivateMemory(number))
    }

    /// Frees a database in memory whose number nobody knows any more.
    #[staticmethod]
    fn forget_private_memory(number: u64) {
        if let Some(registry) = REGISTRY.get() {
            registry.forget(&Database::PrivateMemory(number));
        }
    }

    /// Takes a lock without keeping it.
    #[pyo3(signature = (marketplace_id, posting_id, *, holder_id, ttl, timeout))]
    fn acquire<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &str,
        posting_id: &str,
        holder_id: &str,
        ttl: f64,
        timeout: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wanted = Wanted::new(marketplace_id, posting_id, holder_id, ttl, timeout)?;
        // Called now, so that callers are served in the order in which they called.
        let acquiring = self.settings.manager(py)?.acquire(wanted);
        receive(py, async move {
            let grant = acquiring.await?;
            Ok::<_, LockError>(LockGrant(Mutex::new(Some(ProcessBound::new(grant)))))
        })
    }

    /// Takes a lock and keeps it.
    #[pyo3(signature = (marketplace_id, posting_id, *, holder_id, ttl, timeout, auto_renew, max_hold))]
    #[allow(clippy::too_many_arguments, reason = "keywords in Python")]
    fn lease<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &str,
        posting_id: &str,
        holder_id: &str,
        ttl: f64,
        timeout: f64,
        auto_renew: bool,
        max_hold: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wanted = Wanted::new(marketplace_id, posting_id, holder_id, ttl, timeout)?;
        let leasing = self
            .settings
            .manager(py)?
            .lease(wanted, keeping(auto_renew, max_hold)?);
        receive(py, async move { leasing.await.map(Lease::new) })
    }

    /// As `lease`, waiting in the calling thread.
    #[pyo3(signature = (marketplace_id, posting_id, *, holder_id, ttl, timeout, auto_renew, max_hold))]
    #[allow(clippy::too_many_arguments, reason = "keywords in Python")]
    fn lease_blocking(
        &self,
        py: Python<'_>,
        marketplace_id: &str,
        posting_id: &str,
        holder_id: &str,
        ttl: f64,
        timeout: f64,
        auto_renew: bool,
        max_hold: Option<f64>,
    ) -> PyResult<Lease> {
        let wanted = Wanted::new(marketplace_id, posting_id, holder_id, ttl, timeout)?;
        let leasing = self
            .settings
            .manager(py)?
            .lease(wanted, keeping(auto_renew, max_hold)?);
        block_on(py, async move { leasing.await.map(Lease::new) })
    }

    /// Takes all of several locks, or none.
    #[pyo3(signature = (names, *, holder_id, ttl, timeout, auto_renew, max_hold))]
    #[allow(clippy::too_many_arguments, reason = "keywords in Python")]
    fn lease_many<'py>(
        &self,
        py: Python<'py>,
        names: Vec<(String, String)>,
        holder_id: &str,
        ttl: f64,
        timeout: f64,
        auto_renew: bool,
        max_hold: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wanted = names
            .iter()
            .map(|(marketplace_id, posting_id)| {
                Wanted::new(marketplace_id, posting_id, holder_id, ttl, timeout)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let keeping = keeping(auto_renew, max_hold)?;
        let manager = self.settings.manager(py)?;
        awaitable(py, async move {
            manager.lease_many(wanted, keeping).await.map(Leases)
        })
    }

    /// Releases by name; whether there was such a lock.
    fn release<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &str,
        posting_id: &str,
        holder_id: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let name = LockName::new(marketplace_id, posting_id)?;
        let holder = lock::holder(holder_id)?;
        // Begun now, so that it is carried through whatever becomes of the awaitable.
        receive(py, self.settings.manager(py)?.release(&name, holder))
    }

    /// Releases what this very manager acquired, whatever the holder's name; whether it still had it.
    fn release_own<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &str,
        posting_id: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let name = LockName::new(marketplace_id, posting_id)?;
        // Begun now, as in `release`.
        awaitable(py, self.settings.manager(py)?.release_own(&name))
    }

    /// Whether the database answers within so many seconds: True, or an error that says why not.
    fn hear_from_database<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
        let (manager, patience) = (
            self.settings.manager(py)?,
            lock::waiting_time("seconds", seconds)?,
        );
        awaitable(py, async move {
            manager.hear_from_database(patience).await.map(|()| true)
        })
    }

    /// Deletes the row of a key, whoever holds it.
    fn break_lock<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Bound<'py, PyAny>> {
        let name = LockName::from_key(key)?;
        let manager = self.settings.manager(py)?;
        awaitable(py, async move { manager.break_lock(&name.key).await })
    }

    /// Deletes every row and returns the number of rows.
    fn clear<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.settings.manager(py)?;
        awaitable(py, async move { manager.clear().await })
    }

    /// Deletes the expired rows and returns their number.
    fn sweep<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.settings.manager(py)?;
        awaitable(py, async move { manager.sweep().await })
    }

    /// The name of the database, without secrets.
    #[getter]
    fn place(&self) -> String {
        self.settings.database.to_string()
    }

    /// Returns every row, or the row of one key, in the form of `rows`. Creates and changes
    /// nothing.
    #[pyo3(signature = (key = None))]
    fn look<'py>(&self, py: Python<'py>, key: Option<String>) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.settings.manager(py)?;
        let settings = Arc::clone(&self.settings);
        awaitable(py, async move {
            let rows = lock::look(&settings.database, &manager, key.as_deref()).await?;
            Ok::<_, LockError>(rows.into_iter().map(as_tuple).collect::<Vec<_>>())
        })
    }

    /// Every row, or the first so many: (key, holder, acquired at, expires at, seconds left).
    #[pyo3(signature = (most = None))]
    fn rows<'py>(&self, py: Python<'py>, most: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.settings.manager(py)?;
        awaitable(py, async move {
            let rows = manager.rows().await?;
            let rows = rows.into_iter().take(most.unwrap_or(usize::MAX));
            Ok::<_, LockError>(rows.map(as_tuple).collect::<Vec<_>>())
        })
    }

    /// Who waits in this process, all or the first so many: (key, holder, seconds).
    #[pyo3(signature = (most = None))]
    fn waiting(&self, most: Option<usize>) -> Vec<(String, String, f64)> {
        let Some(slot) = self.settings.manager.get() else {
            return Vec::new();
        };
        let manager = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let waiting = manager
            .map(|manager| manager.engine().waiting())
            .unwrap_or_default();
        waiting
            .into_iter()
            .take(most.unwrap_or(usize::MAX))
            .map(|waiter| {
                (
                    waiter.key.to_string(),
                    waiter.holder.to_string(),
                    waiter.since.as_secs_f64(),
                )
            })
            .collect()
    }

    /// Counts the rows not expired; the last known count when that takes longer.
    fn active_locks<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
        let (manager, patience) = (
            self.settings.manager(py)?,
            lock::waiting_time("seconds", seconds)?,
        );
        awaitable(py, async move {
            Ok::<_, LockError>(manager.active_locks(patience).await)
        })
    }

    /// As `active_locks`, waiting in the calling thread.
    fn active_locks_blocking(&self, py: Python<'_>, seconds: f64) -> PyResult<u64> {
        let (manager, patience) = (
            self.settings.manager(py)?,
            lock::waiting_time("seconds", seconds)?,
        );
        block_on(py, async move {
            Ok::<_, LockError>(manager.active_locks(patience).await)
        })
    }

    /// The counters, by name.
    fn counters(&self) -> HashMap<&'static str, u64> {
        self.settings.figures.counters.named().collect()
    }

    /// Times: the buckets' upper bounds, then counts and sums of waiting and of holding.
    fn histograms(&self) -> (Vec<f64>, Histogram, Histogram) {
        let pair = |snapshot: HistogramSnapshot| (snapshot.counts, snapshot.sum.as_secs_f64());
        let (wait, hold) = (&self.settings.figures.wait, &self.settings.figures.hold);
        let wait = wait.snapshot();
        (wait.bounds.to_vec(), pair(wait), pair(hold.snapshot()))
    }

    /// Releases what this manager holds, and lets go of the database if it was the last to use it.
    fn close<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
        awaitable(py, close(&self.settings, lock::waiting_time("seconds", seconds)?))
    }

    /// As `close`, waiting in the calling thread.
    fn close_blocking(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        block_on(py, close(&self.settings, lock::waiting_time("seconds", seconds)?)).map(drop)
    }
}

impl LockManager {
    fn on(database: Database) -> Self {
        let settings = Settings {
            database,
            figures: Arc::default(),
            manager: PerProcess::new(),
        };
        Self {
            settings: Arc::new(settings),
        }
    }
}

/// Converts a row to the tuple that Python receives.
fn as_tuple(row: lock::LockRow) -> (String, String, f64, f64, f64) {
    (
        row.key.to_string(),
        row.holder,
        row.acquired_at,
        row.expires_at,
        row.expires_in,
    )
}

fn keeping(auto_renew: bool, max_hold: Option<f64>) -> Result<Keeping, LockError> {
    let max_hold = max_hold
        .map(|seconds| lock::lasting_time("max_hold", seconds))
        .transpose()?;
    Ok(Keeping { auto_renew, max_hold })
}

fn close(
    settings: &Arc<Settings>,
    patience: Duration,
) -> impl Future<Output = Result<bool, LockError>> + Send + 'static {
    let settings = Arc::clone(settings);
    async move {
        let Some(manager) = settings.take() else {
            return Ok(false);
        };
        manager.release_all(patience).await;
        drop(manager);
        if let Some(registry) = REGISTRY.get() {
            registry.let_go_of_unused();
        }
        Ok(true)
    }
}

/// A lock that was won: released when dropped, unless it is kept.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct LockGrant(Mutex<Option<ProcessBound<Grant>>>);

#[pymethods]
impl LockGrant {
    /// Keeps the lock until it expires or is released by name.
    fn keep(&self) {
        let grant = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(grant) = grant.and_then(ProcessBound::into_inner) {
            grant.keep();
        }
    }
}

/// A lock that is kept while this lives.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct Lease {
    lease: ProcessBound<Arc<lock::Lease>>,
    key: String,
    holder_id: String,
    fencing_token: i64,
    acquired_at: f64,
}

/// Several leases, on their way to who asked for them.
struct Leases(Offer<Vec<lock::Lease>>);

impl<'py> IntoPyObject<'py> for Leases {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let leases: Vec<_> = self.0.pick_up()?.into_iter().map(Lease::new).collect();
        leases.into_pyobject(py)
    }
}

impl Lease {
    fn new(lease: lock::Lease) -> Self {
        Self {
            key: lease.key().to_owned(),
            holder_id: lease.holder().to_owned(),
            fencing_token: lease.fencing_token(),
            acquired_at: lease.acquired_at(),
            lease: ProcessBound::new(Arc::new(lease)),
        }
    }

    fn foreign(&self) -> LockError {
        LockError::Lost {
            key: self.key.clone(),
            reason: "it stays with the process that forked this one".into(),
        }
    }
}

#[pymethods]
impl Lease {
    #[getter]
    fn key(&self) -> &str {
        &self.key
    }

    #[getter]
    fn holder_id(&self) -> &str {
        &self.holder_id
    }

    #[getter]
    fn fencing_token(&self) -> i64 {
        self.fencing_token
    }

    #[getter]
    fn acquired_at(&self) -> f64 {
        self.acquired_at
    }

    #[getter]
    fn expires_at(&self) -> f64 {
        self.lease
            .get()
            .map_or(self.acquired_at, |lease| lease.expires_at())
    }

    #[getter]
    fn remaining(&self) -> f64 {
        self.lease
            .get()
            .map_or(0.0, |lease| lease.remaining().as_secs_f64())
    }

    #[getter]
    fn is_held(&self) -> bool {
        self.lease.get().is_some_and(|lease| lease.is_held())
    }

    /// Why it was lost; None if it was not.
    #[getter]
    fn loss(&self) -> Option<String> {
        match self.lease.get() {
            Some(lease) => lease.loss(),
            None => Some("it stays with the process that forked this one".into()),
        }
    }

    /// Moves the expiry; the new one.
    #[pyo3(signature = (ttl=None))]
    fn renew<'py>(&self, py: Python<'py>, ttl: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let ttl = ttl
            .map(|seconds| lock::lasting_time("ttl", seconds))
            .transpose()?;
        let lease = self.lease.get().cloned().ok_or_else(|| self.foreign())?;
        awaitable(py, async move { lease.renew(ttl).await })
    }

    /// As `renew`, waiting in the calling thread.
    #[pyo3(signature = (ttl=None))]
    fn renew_blocking(&self, py: Python<'_>, ttl: Option<f64>) -> PyResult<f64> {
        let ttl = ttl
            .map(|seconds| lock::lasting_time("ttl", seconds))
            .transpose()?;
        let lease = self.lease.get().cloned().ok_or_else(|| self.foreign())?;
        block_on(py, async move { lease.renew(ttl).await })
    }

    /// Deletes the row; whether the lock was still ours.
    fn release<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // Begun now, so that it is carried through whatever becomes of the awaitable.
        let releasing = self.lease.get().map(|lease| lease.release());
        receive(py, async move {
            match releasing {
                Some(releasing) => releasing.await,
                None => Ok(false),
            }
        })
    }

    /// As `release`, waiting in the calling thread.
    fn release_blocking(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(lease) = self.lease.get().cloned() else {
            return Ok(false);
        };
        block_on(py, async move { lease.release().await })
    }

    /// Waits until the lease ends: why it was lost, or None when it was released.
    fn lost<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // Without a share in the lease: waiting must not keep it.
        let lost = self.lease.get().map(|lease| lease.lost());
        let foreign = self.loss();
        awaitable(py, async move {
            match lost {
                Some(lost) => Lost::Ok(lost.await),
                None => Ok(foreign),
            }
        })
    }
}

/// Releases all that this process holds, for so many seconds at most.
#[pyfunction]
pub fn release_all_locks(py: Python<'_>, seconds: f64) -> PyResult<()> {
    let patience = lock::waiting_time("seconds", seconds)?;
    let Some(registry) = REGISTRY.get().filter(|registry| registry.in_use()) else {
        return Ok(());
    };
    let release = registry.release_everything(patience);
    block_on(py, async move {
        release.await;
        Ok::<_, LockError>(())
    })
}

/// Checks a time to live given ahead of its use.
#[pyfunction]
pub fn check_lock_ttl(ttl: f64) -> PyResult<()> {
    lock::lasting_time("ttl", ttl)?;
    Ok(())
}
