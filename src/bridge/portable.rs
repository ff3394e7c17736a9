//! The portable wake-up, for event loops that poll no descriptors (Windows' proactor).
//!
//! `pyo3-async-runtimes` makes an `asyncio.Future` that a thread of its own resolves with `call_soon_threadsafe`. An inbox
//! uses one such future per batch of completions, not one per call, so that even here no worker waits for the GIL: the
//! threads of this module alone attach to the interpreter. They start with the first such loop and are stopped at exit.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::{self, ContextExt};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle};

use super::PerProcess;
use super::runtime::cannot_start;

const THREAD_NAME: &str = "arbitrageai-py";

/// How long the interpreter's exit waits for a thread that is just telling a loop something.
const STOP_WITHIN: Duration = Duration::from_secs(1);

static RUNTIME: PerProcess<PortableRuntime> = PerProcess::new();

struct PortableRuntime {
    handle: Handle,
    runtime: Mutex<Option<Runtime>>,
}

/// A future of `event_loop` that is done once `notify` has been notified.
pub(super) fn wakeup<'py>(
    event_loop: &Bound<'py, PyAny>,
    notify: Arc<Notify>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    stop_at_exit(py)?;
    RUNTIME.get_or_try_init(start)?;
    let quiet_loop = Bound::new(
        py,
        QuietLoop {
            event_loop: event_loop.clone().unbind(),
        },
    )?;
    let locals = TaskLocals::new(quiet_loop.into_any());
    generic::future_into_py_with_locals::<Portable, _, ()>(py, locals, async move {
        notify.notified().await;
        Ok(())
    })
}

/// The part of a loop that `pyo3-async-runtimes` uses. A loop that was closed in the meantime can't be told anything; the
/// attempt, which would be reported on stderr, ends here in silence.
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

fn start() -> PyResult<PortableRuntime> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .thread_name(THREAD_NAME)
        .build()
        .map_err(|error| cannot_start(&error))?;
    Ok(PortableRuntime {
        handle: runtime.handle().clone(),
        runtime: Mutex::new(Some(runtime)),
    })
}

fn stop_at_exit(py: Python<'_>) -> PyResult<()> {
    static REGISTERED: PyOnceLock<()> = PyOnceLock::new();
    REGISTERED.get_or_try_init(py, || {
        let stop = pyo3::wrap_pyfunction!(stop, py)?;
        py.import("atexit")?.call_method1("register", (stop,)).map(drop)
    })?;
    Ok(())
}

#[pyfunction]
fn stop(py: Python<'_>) {
    py.detach(|| {
        let runtime = RUNTIME.get().and_then(|portable| {
            portable
                .runtime
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        });
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(STOP_WITHIN);
        }
    });
}

/// Where `pyo3-async-runtimes` runs its futures: the threads of this module.
struct Portable;

impl Portable {
    fn handle() -> Option<&'static Handle> {
        RUNTIME.get().map(|portable| &portable.handle)
    }
}

/// A spawned future that is lost if the runtime has gone: the interpreter is exiting.
struct Spawned(Option<JoinHandle<()>>);

struct SpawnError(JoinError);

impl generic::JoinError for SpawnError {
    fn is_panic(&self) -> bool {
        self.0.is_panic()
    }

    fn into_panic(self) -> Box<dyn std::any::Any + Send + 'static> {
        self.0.into_panic()
    }
}

impl Future for Spawned {
    type Output = Result<(), SpawnError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        match &mut self.0 {
            Some(handle) => Pin::new(handle).poll(context).map_err(SpawnError),
            None => std::task::Poll::Ready(Ok(())),
        }
    }
}

impl generic::Runtime for Portable {
    type JoinError = SpawnError;
    type JoinHandle = Spawned;

    fn spawn<F>(future: F) -> Spawned
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Spawned(Self::handle().map(|handle| handle.spawn(future)))
    }

    fn spawn_blocking<F>(work: F) -> Spawned
    where
        F: FnOnce() + Send + 'static,
    {
        Spawned(Self::handle().map(|handle| handle.spawn_blocking(work)))
    }
}

/// A wake-up awaits nothing of Python's, so it needs no task-local loop.
impl ContextExt for Portable {
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
