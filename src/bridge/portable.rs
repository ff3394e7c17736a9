//! The portable wake-up, for event loops that poll no descriptors (Windows' proactor).
//!
//! `pyo3-async-runtimes` makes an `asyncio.Future` that a thread of its own resolves with
//! `call_soon_threadsafe`. An inbox uses one such future per batch of completions, not one per
//! call, so that even here no worker waits for the GIL: the threads of this module alone attach to
//! the interpreter. They start with the first such loop and are stopped at exit.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::{self, ContextExt};
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle};

use super::runtime::cannot_start;
use super::state::{Portable, state};
use crate::mutex::lock;

const THREAD_NAME: &str = "arbitrageai-py";

/// How long the interpreter's exit waits for a thread that is just telling a loop something.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// A future of `event_loop` that is done once `notify` has been notified.
pub(super) fn wakeup<'py>(
    event_loop: &Bound<'py, PyAny>,
    notify: Arc<Notify>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let quiet_loop = QuietLoop {
        event_loop: event_loop.clone().unbind(),
    };
    let locals = TaskLocals::new(Bound::new(py, quiet_loop)?.into_any());
    // `Ambient` spawns on the runtime that is entered here; what it spawns runs there and spawns
    // there.
    let _entered = threads(py)?.enter();
    generic::future_into_py_with_locals::<Ambient, _, ()>(py, locals, async move {
        notify.notified().await;
        Ok(())
    })
}

/// The part of a loop that `pyo3-async-runtimes` uses. A loop that was closed in the meantime can't
/// be told anything; the attempt, which would be reported on stderr, ends here in silence.
#[pyclass(frozen)]
struct QuietLoop {
    event_loop: Py<PyAny>,
}

#[pymethods]
impl QuietLoop {
    fn create_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.event_loop.bind(py).call_method0("create_future")
    }

    #[pyo3(signature = (*arguments, **keywords))]
    fn call_soon_threadsafe(
        &self,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let event_loop = self.event_loop.bind(arguments.py());
        match event_loop.call_method("call_soon_threadsafe", arguments, keywords) {
            Err(error) if !event_loop.call_method0("is_closed")?.is_truthy()? => Err(error),
            _ => Ok(()),
        }
    }
}

/// The threads that attach to the interpreter, started now if need be.
///
/// They are not the workers of the other runtime, because a thread that waits for the GIL works for
/// nobody meanwhile.
fn threads(py: Python<'_>) -> PyResult<&'static Handle> {
    let slot = &state().portable;
    if let Some(portable) = slot.get() {
        return Ok(&portable.handle);
    }
    stop_at_exit(py)?;
    // One thread waits for notifications, and one attaches: while that waits for the GIL, the first
    // still sees other loops' notifications.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .thread_name(THREAD_NAME)
        .build()
        .map_err(|error| cannot_start(&error))?;
    let fresh = Portable {
        handle: runtime.handle().clone(),
        runtime: Mutex::new(Some(runtime)),
    };
    Ok(&slot.get_or_init(|| fresh).handle)
}

fn stop_at_exit(py: Python<'_>) -> PyResult<()> {
    static REGISTERED: PyOnceLock<()> = PyOnceLock::new();
    REGISTERED.get_or_try_init(py, || {
        let stop = pyo3::wrap_pyfunction!(stop, py)?;
        py.import("atexit")?.call_method1("register", (stop,)).map(drop)
    })?;
    Ok(())
}

/// A thread that attaches to an interpreter which is being torn down would be ended inside of Rust
/// code, or hang.
#[pyfunction]
fn stop(py: Python<'_>) {
    // Detached, because the thread that is waited for may itself wait for the GIL.
    py.detach(|| {
        let runtime = state().portable.get();
        let runtime = runtime.and_then(|portable| lock(&portable.runtime).take());
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(STOP_WITHIN);
        }
    });
}

/// Tells `pyo3-async-runtimes` to run its futures on the ambient runtime, which [`wakeup`] has
/// entered. Its own is made once for all processes, and a forked child would wait for threads that
/// it does not have.
struct Ambient;

impl generic::Runtime for Ambient {
    type JoinError = JoinError;
    type JoinHandle = JoinHandle<()>;

    // Both lose the future when the runtime has been shut down: the interpreter is exiting.
    fn spawn<F>(future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(future)
    }

    fn spawn_blocking<F>(work: F) -> JoinHandle<()>
    where
        F: FnOnce() + Send + 'static,
    {
        tokio::task::spawn_blocking(work)
    }
}

/// A wake-up awaits nothing of Python's, so it needs no task-local loop.
impl ContextExt for Ambient {
    fn scope<F, R>(_locals: TaskLocals, future: F) -> Pin<Box<dyn Future<Output = R> + Send>>
    where
        F: Future<Output = R> + Send + 'static,
    {
        Box::pin(future)
    }

    fn get_task_locals() -> Option<TaskLocals> {
        None
    }
}
