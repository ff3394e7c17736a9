//! The awaitable: one Rust future, awaited once.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::{PyNone, PyType};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::outbox::Work;
use super::{ProcessBound, inbox, no_result};

/// A Python awaitable that runs `future` on the runtime from its first await on.
///
/// It can be made without a running loop and belongs to the loop that first awaits it. Cancelling it drops `future` at its
/// next await, or, if that has ended, its result: what must not be lost is undone by the result's own `Drop`. The result is
/// converted on the loop's thread, when the task that waited resumes.
///
/// # Errors
/// Only what Python raises when an object can't be allocated.
pub fn awaitable<F, T, E>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: for<'a> IntoPyObject<'a> + Send + 'static,
    E: Into<PyErr> + Send + 'static,
{
    let (mut sender, receiver) = oneshot::channel();
    // By itself: within the work it would take its room twice, as what was moved in and as what is polled.
    let mut future = Box::pin(future);
    let work = Box::pin(async move {
        tokio::select! {
            biased;
            () = sender.closed() => {}
            result = &mut future => drop(sender.send(result)),
        }
    });
    let call = Unstarted {
        work,
        outcome: Box::new(receiver),
    };
    let state = Mutex::new(State::Unstarted(ProcessBound::new(call)));
    Ok(Bound::new(py, Awaitable { state })?.into_any())
}

/// A result that is `None` in Python (Rust's `()` would be an empty tuple there).
pub struct Nothing;

impl<'py> IntoPyObject<'py> for Nothing {
    type Target = PyNone;
    type Output = Borrowed<'py, 'py, PyNone>;
    type Error = Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(PyNone::get(py))
    }
}

/// What [`awaitable`] returns: an object for `await`, made by native methods alone.
#[pyclass(module = "arbitrageai_native._native")]
pub struct Awaitable {
    state: Mutex<State>,
}

enum State {
    Unstarted(ProcessBound<Unstarted>),
    Waiting(ProcessBound<Box<dyn Outcome>>),
    Finished,
}

/// A call that has not been awaited yet.
struct Unstarted {
    work: Work,
    outcome: Box<dyn Outcome>,
}

/// The receiving end of a call, whatever its type. Dropping it ends the call, and drops a result that was not taken.
trait Outcome: Send {
    fn take(&mut self, py: Python<'_>) -> Taken;
}

enum Taken {
    Result(PyResult<Py<PyAny>>),
    NotYet,
    /// The future panicked.
    Nothing,
}

impl<T, E> Outcome for oneshot::Receiver<Result<T, E>>
where
    T: for<'a> IntoPyObject<'a> + Send,
    E: Into<PyErr> + Send,
{
    fn take(&mut self, py: Python<'_>) -> Taken {
        match self.try_recv() {
            Ok(Ok(value)) => Taken::Result(value.into_py_any(py)),
            Ok(Err(error)) => Taken::Result(Err(error.into())),
            Err(TryRecvError::Empty) => Taken::NotYet,
            Err(TryRecvError::Closed) => Taken::Nothing,
        }
    }
}

impl Awaitable {
    fn state(&mut self) -> &mut State {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the call, whatever its state.
    fn discard(&mut self) {
        *self.state() = State::Finished;
    }

    fn start<'py>(&mut self, py: Python<'py>, call: ProcessBound<Unstarted>) -> PyResult<Bound<'py, PyAny>> {
        let Some(Unstarted { work, outcome }) = call.into_inner() else {
            return Err(PyRuntimeError::new_err(
                "this call was prepared before a fork; make it anew in the child",
            ));
        };
        let waiter = inbox::start(py, work)?;
        *self.state() = State::Waiting(ProcessBound::new(outcome));
        Ok(waiter)
    }

    fn resume(&mut self, py: Python<'_>, mut outcome: ProcessBound<Box<dyn Outcome>>) -> PyErr {
        let Some(taken) = outcome.get_mut().map(|outcome| outcome.take(py)) else {
            return PyRuntimeError::new_err(
                "this call is the parent process's; a forked child can't await it",
            );
        };
        match taken {
            Taken::Result(Ok(value)) => PyStopIteration::new_err((value,)),
            Taken::Result(Err(error)) => error,
            Taken::Nothing => no_result(),
            Taken::NotYet => {
                *self.state() = State::Waiting(outcome);
                PyRuntimeError::new_err("await wasn't used with an asyncio task")
            }
        }
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

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match std::mem::replace(self.state(), State::Finished) {
            State::Unstarted(call) => self.start(py, call),
            State::Waiting(outcome) => Err(self.resume(py, outcome)),
            State::Finished => Err(PyRuntimeError::new_err(
                "cannot reuse an awaitable that was awaited already",
            )),
        }
    }

    /// An exception enters at the await, most often a cancellation: the result is not wanted any more.
    #[pyo3(signature = (kind, value = None, _traceback = None))]
    fn throw(
        &mut self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.discard();
        Err(thrown(kind, value)?)
    }

    /// The coroutine around the await is being destroyed.
    fn close(&mut self) {
        self.discard();
    }
}

/// The exception that `throw(instance)` or the older `throw(type, value, traceback)` means.
pub(super) fn thrown(kind: &Bound<'_, PyAny>, value: Option<&Bound<'_, PyAny>>) -> PyResult<PyErr> {
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
