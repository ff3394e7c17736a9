//! The bindings of locks.
//!
//! Engines belong to the process: they come from a registry that a forked child makes anew, and a
//! manager made before the fork finds its new engine there at its next call. What was acquired
//! stays with the process that acquired it.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::lease::{Lease, Leases, LockGrant};
use super::lock_terms::{LeaseTerms, Terms, holder_name, identifier, lock_name, optional_text, options};
use super::process::process;
use crate::bridge::{self, PerProcess, Wait, awaitable, block_on, receive};
use crate::figures::{HistogramSnapshot, LockFigures};
use crate::lock::{self, DEFAULT_URL, Database, LockError, LockName, Manager, ManagerSlot, Options};

/// Counts by bucket, and the sum of all values.
type Histogram = (Vec<u64>, f64);

/// Locks on one database.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct LockManager {
    database: Database,
    figures: Arc<LockFigures>,
    slot: PerProcess<Arc<ManagerSlot>>,
    /// After the slot, since fields are dropped in their order.
    _last: LetGoOfUnused,
}

/// Closes the databases that nobody uses any more, when it is dropped.
struct LetGoOfUnused;

impl Drop for LetGoOfUnused {
    fn drop(&mut self) {
        process().locks.let_go_of_unused();
    }
}

#[pymethods]
impl LockManager {
    #[new]
    #[pyo3(
        signature = (database_url=None, **settings),
        text_signature = "(database_url=None, *, max_connections=5, listen_url=None, statement_cache=True)"
    )]
    fn new(
        py: Python<'_>,
        database_url: Option<&Bound<'_, PyAny>>,
        settings: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let settings = settings.cloned().unwrap_or_else(|| PyDict::new(py));
        let options = Options {
            create_folders: database_url.is_none(),
            ..options(&settings)?
        };
        let url = optional_text(database_url, "database_url")?;
        let database = Database::parse(url.as_deref().unwrap_or(DEFAULT_URL), &options)?;
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
        process().locks.forget(&Database::PrivateMemory(number));
    }

    /// Takes a lock without keeping it.
    #[pyo3(
        signature = (marketplace_id, posting_id, holder_id, ttl, timeout, names_holder=None),
        text_signature = "($self, marketplace_id, posting_id, holder_id, ttl, timeout, names_holder=False)"
    )]
    #[allow(
        clippy::too_many_arguments,
        reason = "a dictionary of them costs too much at each call"
    )]
    fn acquire<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &Bound<'py, PyAny>,
        posting_id: &Bound<'py, PyAny>,
        holder_id: &Bound<'py, PyAny>,
        ttl: &Bound<'py, PyAny>,
        timeout: &Bound<'py, PyAny>,
        names_holder: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let terms = Terms::new(holder_id, ttl, timeout, names_holder)?;
        let wanted = terms.wanted(marketplace_id, posting_id)?;
        // Called now, so that callers are served in the order in which they called.
        let manager = self.manager()?;
        let acquiring = manager.acquire(wanted);
        receive(py, async move {
            let acquired = acquiring.await;
            explained(acquired.map(LockGrant::new), terms.names_holder, &manager).await
        })
    }

    /// Takes a lock and keeps it.
    #[pyo3(
        signature = (marketplace_id, posting_id, **terms),
        text_signature = "($self, marketplace_id, posting_id, *, holder_id, ttl, timeout, names_holder=False, auto_renew, max_hold, margin, loss_check)"
    )]
    fn lease<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &Bound<'py, PyAny>,
        posting_id: &Bound<'py, PyAny>,
        terms: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.lease_in(py, Wait::Message, marketplace_id, posting_id, terms)
    }

    /// As `lease`, waiting in the calling thread.
    #[pyo3(
        signature = (marketplace_id, posting_id, **terms),
        text_signature = "($self, marketplace_id, posting_id, *, holder_id, ttl, timeout, names_holder=False, auto_renew, max_hold, margin, loss_check)"
    )]
    fn lease_blocking<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &Bound<'py, PyAny>,
        posting_id: &Bound<'py, PyAny>,
        terms: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.lease_in(py, Wait::Thread, marketplace_id, posting_id, terms)
    }

    /// Takes all of several locks, or none.
    #[pyo3(
        signature = (names, **terms),
        text_signature = "($self, names, *, holder_id, ttl, timeout, names_holder=False, auto_renew, max_hold, margin, loss_check)"
    )]
    fn lease_many<'py>(
        &self,
        py: Python<'py>,
        names: Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>,
        terms: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let terms = LeaseTerms::of(py, terms)?;
        let wanted = names
            .iter()
            .map(|(marketplace_id, posting_id)| terms.terms.wanted(marketplace_id, posting_id))
            .collect::<Result<Vec<_>, _>>()?;
        let keeping = terms.keeping()?;
        let manager = self.manager()?;
        awaitable(py, async move {
            let leases = manager.lease_many(wanted, keeping).await.map(Leases);
            explained(leases, terms.terms.names_holder, &manager).await
        })
    }

    /// Releases by name; whether there was such a lock.
    fn release<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &Bound<'py, PyAny>,
        posting_id: &Bound<'py, PyAny>,
        holder_id: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let name = lock_name(marketplace_id, posting_id)?;
        let holder = lock::holder(&holder_name(holder_id)?)?;
        // Begun now, so that it is carried through whatever becomes of the awaitable.
        receive(py, self.manager()?.release(&name, holder))
    }

    /// Releases what this very manager acquired, whatever the holder's name; whether it still had
    /// it.
    fn release_own<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &Bound<'py, PyAny>,
        posting_id: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let name = lock_name(marketplace_id, posting_id)?;
        // Begun now, as in `release`.
        awaitable(py, self.manager()?.release_own(&name))
    }

    /// Whether the database answers within so many seconds: True, or an error that says why not.
    fn hear_from_database<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.manager()?;
        let patience = lock::waiting_time("seconds", seconds)?;
        awaitable(py, async move {
            manager.hear_from_database(patience).await.map(|()| true)
        })
    }

    /// Deletes the row of a key, whoever holds it.
    fn break_lock<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let name = LockName::from_key(&identifier(key, "key")?)?;
        let manager = self.manager()?;
        awaitable(py, async move { manager.break_lock(&name.key).await })
    }

    /// Who holds a lock by its row, expired or not; None without a row.
    fn holder_of<'py>(
        &self,
        py: Python<'py>,
        marketplace_id: &Bound<'py, PyAny>,
        posting_id: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let name = lock_name(marketplace_id, posting_id)?;
        let manager = self.manager()?;
        awaitable(py, async move {
            let row = manager.row(&name.key).await?;
            Ok::<_, LockError>(row.map(|row| row.holder))
        })
    }

    /// Deletes every row and returns the number of rows.
    fn clear<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.manager()?;
        awaitable(py, async move { manager.clear().await })
    }

    /// Deletes the expired rows and returns their number.
    fn sweep<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.manager()?;
        awaitable(py, async move { manager.sweep().await })
    }

    /// The name of the database, without secrets.
    #[getter]
    fn place(&self) -> String {
        self.database.to_string()
    }

    /// Returns every row, or the row of one key, in the form of `rows`. Creates and changes
    /// nothing.
    #[pyo3(signature = (key = None))]
    fn look<'py>(&self, py: Python<'py>, key: Option<String>) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.manager()?;
        let database = self.database.clone();
        awaitable(py, async move {
            let rows = lock::look(&database, &manager, key.as_deref()).await?;
            Ok::<_, LockError>(rows.into_iter().map(as_tuple).collect::<Vec<_>>())
        })
    }

    /// Every row, or the first so many: (key, holder, acquired at, expires at, seconds left).
    #[pyo3(signature = (most = None))]
    fn rows<'py>(&self, py: Python<'py>, most: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.manager()?;
        awaitable(py, async move {
            let rows = manager.rows().await?;
            let rows = rows.into_iter().take(most.unwrap_or(usize::MAX));
            Ok::<_, LockError>(rows.map(as_tuple).collect::<Vec<_>>())
        })
    }

    /// Who waits in this process, all or the first so many: (key, holder, seconds).
    #[pyo3(signature = (most = None))]
    fn waiting(&self, most: Option<usize>) -> Vec<(String, String, f64)> {
        let manager = self.slot.get().and_then(|slot| slot.get());
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
        self.active_locks_in(py, Wait::Loop, seconds)
    }

    /// As `active_locks`, waiting in the calling thread.
    fn active_locks_blocking<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
        self.active_locks_in(py, Wait::Thread, seconds)
    }

    /// The counters, by name.
    fn counters(&self) -> HashMap<&'static str, u64> {
        self.figures.counters.named().collect()
    }

    /// Times: the buckets' upper bounds, then counts and sums of waiting and of holding.
    fn histograms(&self) -> (Vec<f64>, Histogram, Histogram) {
        let pair = |snapshot: HistogramSnapshot| (snapshot.counts, snapshot.sum.as_secs_f64());
        let (wait, hold) = (&self.figures.wait, &self.figures.hold);
        let wait = wait.snapshot();
        (wait.bounds.to_vec(), pair(wait), pair(hold.snapshot()))
    }

    /// Releases what this manager holds, and lets go of the database if it was the last to use it.
    fn close<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
        self.close_in(py, Wait::Loop, seconds)
    }

    /// As `close`, waiting in the calling thread.
    fn close_blocking(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.close_in(py, Wait::Thread, seconds).map(drop)
    }
}

impl LockManager {
    fn on(database: Database) -> Self {
        Self {
            database,
            figures: Arc::default(),
            slot: PerProcess::new(),
            _last: LetGoOfUnused,
        }
    }

    /// This process's manager. The first call makes it.
    fn manager(&self) -> PyResult<Arc<Manager>> {
        let slot = self.slot.get_or_init(Arc::default);
        // An engine spawns its tasks on the runtime in which it is made.
        let _runtime = bridge::enter()?;
        Ok(slot.get_or_make(&process().locks, &self.database, &self.figures))
    }

    fn lease_in<'py>(
        &self,
        py: Python<'py>,
        wait: Wait,
        marketplace_id: &Bound<'py, PyAny>,
        posting_id: &Bound<'py, PyAny>,
        terms: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let terms = LeaseTerms::of(py, terms)?;
        let wanted = terms.terms.wanted(marketplace_id, posting_id)?;
        // Called now, as in `acquire`.
        let manager = self.manager()?;
        let leasing = manager.lease(wanted, terms.keeping()?);
        wait.run(py, async move {
            let lease = leasing.await.map(Lease::new);
            explained(lease, terms.terms.names_holder, &manager).await
        })
    }

    fn active_locks_in<'py>(&self, py: Python<'py>, wait: Wait, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
        let manager = self.manager()?;
        let patience = lock::waiting_time("seconds", seconds)?;
        wait.run(py, async move {
            Ok::<_, LockError>(manager.active_locks(patience).await)
        })
    }

    fn close_in<'py>(&self, py: Python<'py>, wait: Wait, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
        let patience = lock::waiting_time("seconds", seconds)?;
        let slot = self.slot.get_or_init(Arc::default).clone();
        wait.run(py, async move {
            let closed = slot.close(&process().locks, patience).await;
            lock::unused_files_are_closed(patience).await;
            Ok::<_, LockError>(closed)
        })
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

/// Releases all that this process holds, grants nothing more, and closes its files: at the exit of
/// the process. The release and the closing last for so many seconds at most each.
#[pyfunction]
pub fn release_all_locks(py: Python<'_>, seconds: f64) -> PyResult<()> {
    let patience = lock::waiting_time("seconds", seconds)?;
    // The runtime is not started at exit only to find that there is nothing to release.
    if let Some(release) = process().locks.end(patience) {
        block_on(py, async move {
            release.await;
            Ok::<_, LockError>(())
        })?;
    }
    py.detach(|| lock::close_files(patience));
    Ok(())
}

/// Adds to a timeout who holds the lock, if that is wanted.
async fn explained<T>(
    outcome: Result<T, LockError>,
    names_holder: bool,
    manager: &Manager,
) -> Result<T, LockError> {
    match outcome {
        Err(error) if names_holder => Err(Box::pin(lock::name_holder(manager, error)).await),
        outcome => outcome,
    }
}
