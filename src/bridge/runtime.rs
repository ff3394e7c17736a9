//! The tokio runtime: one per process, started by the first call, never shut down.
//!
//! At interpreter exit its workers are simply left behind. They hold no Python object and never
//! wait for the GIL, so the interpreter can be torn down beside them, and the process ends without
//! waiting for calls in flight.

use std::num::NonZero;
use std::thread::available_parallelism;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use tokio::runtime::{Builder, EnterGuard, Runtime};

use super::state::state;

const WORKER_THREADS_VARIABLE: &str = "ARBITRAGEAI_NATIVE_WORKER_THREADS";

/// Workers only move bytes and parse them: more than this many never have work. The loop's thread
/// needs a core, too; where there are two, a second worker would only be woken to find that the
/// first has done the work.
const MOST_WORKER_THREADS: usize = 4;

/// The kernel cuts a thread's name at 15 bytes.
const THREAD_NAME: &str = "arbitrageai-io";

/// This process's runtime, started now if need be.
pub(super) fn runtime() -> PyResult<&'static Runtime> {
    let slot = &state().runtime;
    if let Some(runtime) = slot.get() {
        return Ok(runtime);
    }
    // Started outside of the slot, because a failure must leave the slot empty: the next call tries
    // again.
    let fresh = start()?;
    Ok(slot.get_or_init(|| fresh))
}

/// Makes the runtime this thread's ambient one while the guard lives, for code that spawns tasks or
/// makes timers.
///
/// # Errors
/// `RuntimeError` if the runtime can't start.
pub fn enter() -> PyResult<EnterGuard<'static>> {
    Ok(runtime()?.enter())
}

/// Starts `future` on the runtime and returns at once. The result of the future is dropped.
///
/// # Errors
/// `RuntimeError` if the runtime can't start.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> PyResult<()> {
    drop(runtime()?.spawn(future));
    Ok(())
}

fn start() -> PyResult<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(worker_threads()?)
        .thread_name(THREAD_NAME)
        .enable_all()
        .build()
        .map_err(|error| cannot_start(&error))
}

pub(super) fn cannot_start(error: &std::io::Error) -> PyErr {
    PyRuntimeError::new_err(format!(
        "arbitrageai_native: the native runtime could not start: {error}"
    ))
}

/// What Python sees when a future ended without a result: it panicked, a defect of this package.
pub(super) fn panicked() -> PyErr {
    PyRuntimeError::new_err("arbitrageai_native: an internal task panicked; please report this as a bug")
}

/// How many workers the runtime has, or will have when it is started.
///
/// # Errors
/// `ValueError` if the environment asks for a number that is none.
#[pyfunction]
pub fn worker_threads() -> PyResult<usize> {
    let Some(setting) = std::env::var_os(WORKER_THREADS_VARIABLE) else {
        // Half of the cores: the event loop's thread, and those of the application, need the
        // others.
        return Ok(available_parallelism()
            .map_or(1, |cores| cores.get() / 2)
            .clamp(1, MOST_WORKER_THREADS));
    };
    match setting
        .to_str()
        .and_then(|text| text.parse::<NonZero<usize>>().ok())
    {
        Some(count) => Ok(count.get()),
        None => Err(PyValueError::new_err(format!(
            "{WORKER_THREADS_VARIABLE} must be a whole number of at least 1, not {setting:?}"
        ))),
    }
}
