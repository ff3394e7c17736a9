//! Awaitables of messages.
//!
//! A future that only waits for a message needs no worker: the loop's own thread polls it, at once and again when it is woken.
//! What has come already is taken without a wait, and what comes later costs one wake-up, the loop's own.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;

use super::ProcessBound;
use super::awaitable::thrown;
use super::inbox::{self, Ticket};
use super::runtime::runtime;

/// A Python awaitable that polls `future` on the loop's thread. It is for futures that do no work of their own, such as the
/// receiving end of a channel, and that lose nothing when they are dropped.
///
/// # Errors
/// Only what Python raises when an object can't be allocated.
pub fn receive<F, T, E>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: for<'a> IntoPyObject<'a> + Send + 'static,
    E: Into<PyErr> + Send + 'static,
{
    let message: Message = Box::pin(async move {
        let received = future.await;
        let convert: Convert = Box::new(move |py| match received {
            Ok(value) => value.into_py_any(py),
            Err(error) => Err(error.into()),
        });
        convert
    });
    let state = Mutex::new(Some(ProcessBound::new(Pending {
        message,
        waker: Arc::default(),
    })));
    Ok(Bound::new(py, Receive { state })?.into_any())
}

type Convert = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
type Message = Pin<Box<dyn Future<Output = Convert> + Send>>;

/// What [`receive`] returns: an object for `await`, made by native methods alone.
#[pyclass(module = "arbitrageai_native._native")]
pub struct Receive {
    state: Mutex<Option<ProcessBound<Pending>>>,
}

struct Pending {
    message: Message,
    waker: Arc<LoopWaker>,
}

/// Wakes the task that awaits, through its loop's inbox.
#[derive(Default)]
struct LoopWaker(Mutex<Option<Ticket>>);

impl LoopWaker {
    fn holding(ticket: Ticket) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(ticket))))
    }

    /// Tells the inbox, if that has not been done.
    fn tell(&self) {
        let ticket = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(ticket);
    }
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        self.tell();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.tell();
    }
}

impl Drop for Pending {
    /// Whoever was to wake us may keep the waker for long: the inbox must not wait for it.
    fn drop(&mut self) {
        self.waker.tell();
    }
}

impl Receive {
    fn state(&mut self) -> &mut Option<ProcessBound<Pending>> {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Receive {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Some(mut bound) = self.state().take() else {
            return Err(PyRuntimeError::new_err(
                "cannot reuse an awaitable that was awaited already",
            ));
        };
        let Some(pending) = bound.get_mut() else {
            return Err(PyRuntimeError::new_err(
                "this call is the parent process's; a forked child can't await it",
            ));
        };
        let _timers_and_spawns_work = runtime()?.enter();
        if let Poll::Ready(convert) = pending
            .message
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            return Err(returned(py, convert));
        }
        let (ticket, waiter) = inbox::expect_message(py)?;
        pending.waker = LoopWaker::holding(ticket);
        let waker = Waker::from(Arc::clone(&pending.waker));
        if let Poll::Ready(convert) = pending.message.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Err(returned(py, convert));
        }
        *self.state() = Some(bound);
        Ok(waiter)
    }

    /// An exception enters at the await, most often a cancellation.
    #[pyo3(signature = (kind, value = None, _traceback = None))]
    fn throw(
        &mut self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        *self.state() = None;
        Err(thrown(kind, value)?)
    }

    /// The coroutine around the await is being destroyed.
    fn close(&mut self) {
        *self.state() = None;
    }
}

/// How an awaitable returns: by an exception.
fn returned(py: Python<'_>, convert: Convert) -> PyErr {
    match convert(py) {
        Ok(value) => PyStopIteration::new_err((value,)),
        Err(error) => error,
    }
}
