//! Taking turns: how a burst of calls is kept from stopping the loop.
//!
//! An event loop runs every task that is ready before it looks at its timers and sockets again. Ten thousand calls that are
//! made together so stop it for as long as all of them take to prepare. Whoever is about to make a call therefore awaits
//! [`Turn`] first: it costs nothing while few calls have been made in this iteration of the loop, and after that it waits for
//! a place in the inbox's queue, which wakes a bounded number of tasks in each iteration.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;

use super::awaitable::thrown;
use super::inbox;

/// An awaitable that ends at once, or, when the loop has had much to start, in a later iteration.
#[pyclass(module = "arbitrageai_native._native")]
pub struct Turn {
    asked: bool,
}

/// Awaits the caller's turn to start a call on the running loop.
#[pyfunction]
pub fn turn() -> Turn {
    Turn { asked: false }
}

#[pymethods]
impl Turn {
    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if std::mem::replace(&mut self.asked, true) || !inbox::is_crowded(py)? {
            return Err(PyStopIteration::new_err(()));
        }
        inbox::queue_up(py).map(Some)
    }

    /// A cancellation: the turn is given up.
    #[pyo3(signature = (kind, value = None, _traceback = None))]
    #[expect(clippy::unused_self, reason = "Python calls it as a method")]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Err(thrown(kind, value)?)
    }

    /// The coroutine around the await is being destroyed.
    #[expect(clippy::unused_self, reason = "Python calls it as a method")]
    fn close(&self) {}
}
