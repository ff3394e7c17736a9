//! Where a call is waited for: one preparation serves a method and its blocking twin.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use super::awaitable::{awaitable, receive};
use super::blocking::block_on;

/// Who waits for a future, and who works for it.
#[derive(Clone, Copy)]
pub enum Wait {
    /// An event loop waits, a worker works: [`awaitable`].
    Loop,
    /// An event loop waits for a message: [`receive`].
    Message,
    /// The calling thread waits, a worker works: [`block_on`].
    Thread,
}

impl Wait {
    /// Returns an awaitable, or the result of the future.
    ///
    /// # Errors
    /// Those of the three functions.
    pub fn run<F, T, E>(self, py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: for<'a> IntoPyObject<'a> + Send + 'static,
        E: Into<PyErr> + Send + 'static,
    {
        match self {
            Self::Loop => awaitable(py, future),
            Self::Message => receive(py, future),
            Self::Thread => block_on(py, future)?.into_bound_py_any(py),
        }
    }
}
