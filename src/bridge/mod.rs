//! Rust futures as Python awaitables.
//!
//! Everything in the package that crosses from tokio to Python does so through the two calls of this module:
//! [`awaitable`] for asyncio and [`block_on`] for a thread that may wait. Nothing else touches an event loop.
//!
//! An [`awaitable`] starts its future on the tokio [`runtime`] when it is first awaited. When the future ends, the worker
//! that ran it pushes a number on the loop's [`inbox`] and, unless a wake-up is already on its way, writes the inbox's
//! descriptor. No worker ever waits for the GIL or touches a Python object: the loop's own thread drains the inbox in one
//! callback, wakes the tasks that wait, and each task turns its own result into Python objects when it resumes.
//!
//! ```text
//!  loop's thread                                         tokio worker
//!  await ──> Awaitable ── spawn ───────────────────────> future … ends
//!             │ yields a waiter (asyncio.Future)            │ result -> one-shot channel
//!             ▼                                             ▼ number -> Inbox queue
//!            suspended <── set_result ── Inbox.drain <── descriptor (once per batch)
//!             │
//!             ▼ resumes: takes the result, converts it, returns it
//! ```
//!
//! Cancelling is dropping. An exception thrown into the awaitable, its `close()` and its deallocation all abort the tokio
//! task and drop a result that was delivered but never received. A result that must not be lost therefore owns a guard
//! whose `Drop` undoes the work.
//!
//! Forking is starting afresh. See [`process`].

mod awaitable;
mod blocking;
mod inbox;
mod outbox;
mod portable;
mod process;
mod receive;
mod runtime;
mod wakeup;

pub mod probe;
pub mod turn;
pub mod watch;

pub use awaitable::{Awaitable, Nothing, awaitable};
pub use blocking::block_on;
pub use inbox::{Inbox, calls_under_way};
pub use process::{PerProcess, ProcessBound};
pub use receive::{Receive, receive};
pub use runtime::{spawn, worker_threads};

use std::sync::OnceLock;

use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::{PyErr, PyResult, Python, ffi};

/// What the bindings want called wherever a thread has the GIL anyway: when a loop has drained its inbox, and when a blocking
/// call returns.
static AFTERWARDS: OnceLock<fn(Python<'_>)> = OnceLock::new();

fn afterwards(py: Python<'_>) {
    if let Some(call) = AFTERWARDS.get() {
        call(py);
    }
}

/// Prepares the process for forking, and sets what is called `afterwards`. Called when the Python module is imported; starts nothing.
///
/// # Errors
/// `ImportError` in a sub-interpreter: runtime and inboxes are the process's, and must not mix two interpreters' objects.
pub fn install(_py: Python<'_>, afterwards: fn(Python<'_>)) -> PyResult<()> {
    // SAFETY: the caller is attached to an interpreter, which is all that both calls ask for.
    let interpreter = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if interpreter != 0 {
        return Err(PyImportError::new_err(
            "arbitrageai_native works in the main interpreter only",
        ));
    }
    process::install_fork_handler();
    AFTERWARDS.get_or_init(|| afterwards);
    Ok(())
}

/// What Python sees when a future ended without a result: it panicked, a defect of this package.
fn no_result() -> PyErr {
    PyRuntimeError::new_err("arbitrageai_native: an internal task panicked; please report this as a bug")
}
