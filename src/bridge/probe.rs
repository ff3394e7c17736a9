//! Futures of known behaviour, by which tests and benchmarks look into the bridge.
//!
//! Only the feature `probe` builds it, which published wheels do without. No real operation can
//! take its place: none panics, none ends exactly when a test says, and none gives a result whose
//! drop can be counted at once.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::awaitable::{NOTHING, awaitable};
use super::blocking::block_on;
use super::mail::calls_under_way;
use super::process::ProcessBound;

/// Guards that were made and not dropped yet.
static LIVE_GUARDS: AtomicUsize = AtomicUsize::new(0);

/// Stands for a thing that must not leak: a lock row, a connection. It is one while the future
/// runs, and then its result.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct Guard(#[expect(dead_code, reason = "held for its Drop")] ProcessBound<CountedGuard>);

struct CountedGuard;

impl CountedGuard {
    fn new() -> Self {
        LIVE_GUARDS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for CountedGuard {
    fn drop(&mut self) {
        LIVE_GUARDS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The bridge, looked at from inside.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct Probe;

#[pymethods]
impl Probe {
    /// An awaitable that has nothing to do.
    #[staticmethod]
    fn noop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        awaitable(py, async { Ok::<_, Infallible>(NOTHING) })
    }

    /// The same through the stock bridge, for comparison.
    #[staticmethod]
    fn stock_noop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        pyo3_async_runtimes::tokio::future_into_py(py, async { Ok(()) })
    }

    /// An awaitable that holds a guard for `seconds` and then gives it away.
    #[staticmethod]
    fn guarded(py: Python<'_>, seconds: f64) -> PyResult<Bound<'_, PyAny>> {
        awaitable(py, hold(duration(seconds)?))
    }

    /// The same, waited for in this thread.
    #[staticmethod]
    fn guarded_blocking(py: Python<'_>, seconds: f64) -> PyResult<Guard> {
        block_on(py, hold(duration(seconds)?))
    }

    /// An awaitable whose future panics.
    #[staticmethod]
    #[expect(clippy::panic, reason = "that is what it is for")]
    fn panicking(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        awaitable(py, async {
            if LIVE_GUARDS.load(Ordering::SeqCst) < usize::MAX {
                panic!("asked for by a test");
            }
            Ok::<_, Infallible>(NOTHING)
        })
    }

    /// How many guards are held, by futures under way or by results not yet dropped.
    #[staticmethod]
    fn live_guards() -> usize {
        LIVE_GUARDS.load(Ordering::SeqCst)
    }

    /// How many calls are under way: awaitables that were started and whose futures have neither
    /// ended nor been dropped.
    #[staticmethod]
    fn live_calls() -> usize {
        calls_under_way()
    }
}

fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| PyValueError::new_err(format!("seconds={seconds}: {error}")))
}

async fn hold(duration: Duration) -> Result<Guard, Infallible> {
    let guard = CountedGuard::new();
    tokio::time::sleep(duration).await;
    Ok(Guard(ProcessBound::new(guard)))
}
