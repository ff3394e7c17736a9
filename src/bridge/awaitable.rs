//! The awaitable: one object for `await`, used once, whoever does the work behind it.
//!
//! - [`awaitable`]: a worker of the runtime runs the future, from the first await on.
//! - [`receive`]: the loop's own thread polls a future that only waits for a message, at once and
//!   again when it is woken. What has come already is taken without a wait, and what comes later
//!   costs one wake-up, the loop's own.
//! - [`turn`]: nothing works; the await ends at once, or in a later iteration of a loop that has
//!   had much to start.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyType;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::inbox;
use super::mail::Ticket;
use super::outbox::Work;
use super::process::ProcessBound;
use super::runtime::{enter, panicked};
use crate::mutex::lock;

/// A Python awaitable that runs `future` on the runtime from its first await on.
///
/// It can be made without a running loop and belongs to the loop that first awaits it. Cancelling
/// it drops `future` at its next await, or, if that has ended, its result: what must not be lost is
/// undone by the result's own `Drop`. The result is converted on the loop's thread, when the task
/// that waited resumes.
///
/// # Errors
/// Only what Python raises when an object can't be allocated.
pub fn awaitable<F, T, E>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: for<'a> IntoPyObject<'a> + Send + 'static,
    E: Into<PyErr> + Send + 'static,
{
    let (mut sender, mut receiver) = oneshot::channel();
    // Pinned on its own: inside of `work` it would take its room twice, as what was moved in and as
    // what is polled.
    let mut future = Box::pin(future);
    let work: Work = Box::pin(async move {
        tokio::select! {
            // The closed channel first: a call that was cancelled is not polled once more.
            biased;
            () = sender.closed() => {}
            result = &mut future => drop(sender.send(result)),
        }
    });
    let outcome: Outcome = Box::new(move |py| match receiver.try_recv() {
        Ok(result) => Some(converted(py, result)),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => Some(Err(panicked())),
    });
    made(py, State::Unstarted(ProcessBound::new((work, outcome))))
}

/// A Python awaitable that polls `future` on the loop's thread. It is for futures that do no work
/// of their own, such as the receiving end of a channel, and that lose nothing when they are
/// dropped.
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
        let convert: Convert = Box::new(move |py| converted(py, received));
        convert
    });
    let polled = Polled {
        message,
        waker: Arc::default(),
    };
    made(py, State::Polled(ProcessBound::new(polled)))
}

/// Awaits the caller's turn to start a call on the running loop.
///
/// An event loop runs every task that is ready before it looks at its timers and sockets again. Ten
/// thousand calls that are made together so stop it for as long as all of them take to prepare.
/// Whoever is about to make a call therefore awaits this first: it costs nothing while few calls
/// have been made in this iteration of the loop, and after that it waits for a place in the inbox's
/// queue, which wakes a bounded number of tasks in each iteration.
#[pyfunction]
pub fn turn(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    made(py, State::Turn)
}

fn made(py: Python<'_>, state: State) -> PyResult<Bound<'_, PyAny>> {
    Ok(Bound::new(py, Awaitable(Mutex::new(state)))?.into_any())
}

/// A result that is `None` in Python (Rust's `()` would be an empty tuple there).
pub const NOTHING: Option<bool> = None;

/// An object for `await`, made by native methods alone.
// A mutex, because Python's objects have to be `Sync`. It is never locked: the methods have `&mut
// self`.
#[pyclass(module = "arbitrageai_native._native")]
pub struct Awaitable(Mutex<State>);

enum State {
    /// A worker's future that has not been awaited yet.
    Unstarted(ProcessBound<(Work, Outcome)>),
    /// A worker's future. Dropping the receiving end ends it, and drops a result that was not
    /// taken.
    Started(ProcessBound<Outcome>),
    /// A future that the loop's thread polls.
    Polled(ProcessBound<Polled>),
    /// A turn that has not been asked for.
    Turn,
    /// A turn that comes with the next resumption.
    Queued,
    Finished,
}

/// The receiving end of a worker's future, whatever its type. None: it has not ended yet.
type Outcome = Box<dyn FnMut(Python<'_>) -> Option<PyResult<Py<PyAny>>> + Send>;

type Convert = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
type Message = Pin<Box<dyn Future<Output = Convert> + Send>>;

struct Polled {
    message: Message,
    waker: Arc<LoopWaker>,
}

impl Polled {
    /// The message, or what the running task yields until it has come.
    fn poll<'py>(&mut self, py: Python<'py>) -> PyResult<Result<Convert, Bound<'py, PyAny>>> {
        let _timers_and_spawns_work = enter()?;
        // First without a waker: a message that has come already costs no waiter and no wake-up.
        let mut nobody = Context::from_waker(Waker::noop());
        if let Poll::Ready(convert) = self.message.as_mut().poll(&mut nobody) {
            return Ok(Ok(convert));
        }
        let inbox::Expected { ticket, waiter, .. } = inbox::expect(py)?;
        self.waker = Arc::new(LoopWaker(Mutex::new(Some(ticket))));
        let waker = Waker::from(Arc::clone(&self.waker));
        // Again, because a message that came after the first look has woken nobody.
        match self.message.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(convert) => Ok(Ok(convert)),
            Poll::Pending => Ok(Err(waiter)),
        }
    }
}

impl Drop for Polled {
    /// Whoever was to wake us may keep the waker for long: the inbox must not wait for it.
    fn drop(&mut self) {
        self.waker.wake_by_ref();
    }
}

/// Wakes the task that awaits, through its loop's inbox, by dropping the ticket.
#[derive(Default)]
struct LoopWaker(Mutex<Option<Ticket>>);

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Dropped outside of the lock: the drop writes to the loop's descriptor.
        let ticket = lock(&self.0).take();
        drop(ticket);
    }
}

impl Awaitable {
    fn state(&mut self) -> &mut State {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what is awaited, whatever its state.
    fn discard(&mut self) {
        *self.state() = State::Finished;
    }
}

#[pymethods]
impl Awaitable {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    /// Returns what the task yields to be resumed later, or raises: `StopIteration` with the
    /// result, or the error.
    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // Taken out first: whatever fails below leaves the awaitable finished, and what was awaited
        // dropped.
        let (waiter, next) = match std::mem::replace(self.state(), State::Finished) {
            State::Unstarted(call) => {
                let (work, outcome) = call.into_inner().ok_or_else(made_before_a_fork)?;
                let waiter = inbox::start(py, work)?;
                (waiter, State::Started(ProcessBound::new(outcome)))
            }
            State::Started(mut outcome) => match outcome.get_mut().ok_or_else(the_parents)?(py) {
                Some(result) => return Err(returned(result)),
                None => {
                    // Resumed without its result: `send` was called by something that is no asyncio
                    // task.
                    *self.state() = State::Started(outcome);
                    return Err(PyRuntimeError::new_err("await wasn't used with an asyncio task"));
                }
            },
            State::Polled(mut bound) => match bound.get_mut().ok_or_else(the_parents)?.poll(py)? {
                Ok(convert) => return Err(returned(convert(py))),
                Err(waiter) => (waiter, State::Polled(bound)),
            },
            // The ticket is dropped at once: the waiter is on the inbox's queue then.
            State::Turn if inbox::is_crowded(py)? => (inbox::expect(py)?.waiter, State::Queued),
            State::Turn | State::Queued => return Err(returned(Ok(py.None()))),
            State::Finished => {
                return Err(PyRuntimeError::new_err(
                    "cannot reuse an awaitable that was awaited already",
                ));
            }
        };
        *self.state() = next;
        Ok(waiter)
    }

    /// An exception enters at the await, most often a cancellation: the result is not wanted any
    /// more.
    #[pyo3(signature = (kind, value = None, _traceback = None))]
    fn throw(
        &mut self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        // Before the exception is made, which runs Python code: the work ends even if that fails.
        self.discard();
        Err(thrown(kind, value)?)
    }

    /// The coroutine around the await is being destroyed.
    fn close(&mut self) {
        self.discard();
    }
}

/// On the loop's thread, where Python objects may be made.
fn converted<T, E>(py: Python<'_>, result: Result<T, E>) -> PyResult<Py<PyAny>>
where
    T: for<'a> IntoPyObject<'a>,
    E: Into<PyErr>,
{
    match result {
        Ok(value) => value.into_py_any(py),
        Err(error) => Err(error.into()),
    }
}

/// How an awaitable returns: by an exception.
fn returned(result: PyResult<Py<PyAny>>) -> PyErr {
    match result {
        Ok(value) => PyStopIteration::new_err((value,)),
        Err(error) => error,
    }
}

fn made_before_a_fork() -> PyErr {
    PyRuntimeError::new_err("this call was prepared before a fork; make it anew in the child")
}

fn the_parents() -> PyErr {
    PyRuntimeError::new_err("this call is the parent process's; a forked child can't await it")
}

/// The exception that `throw(instance)` or the older `throw(type, value, traceback)` means.
fn thrown(kind: &Bound<'_, PyAny>, value: Option<&Bound<'_, PyAny>>) -> PyResult<PyErr> {
    let Ok(class) = kind.cast::<PyType>() else {
        return Ok(PyErr::from_value(kind.clone()));
    };
    let instance = match value {
        None => class.call0()?,
        Some(value) if value.is_instance(class)? => value.clone(),
        Some(value) => class.call1((value,))?,
    };
    Ok(PyErr::from_value(instance))
}
