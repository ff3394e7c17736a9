//! The one place where the core's errors become Python exceptions.
//!
//! The exception classes are Python's (`arbitrageai_native.exceptions`): multiple inheritance works
//! there, so that a timeout can be a `TimeoutError` as well.

use std::fmt::Display;
use std::time::Duration;

use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};

use super::json::from_json;
use crate::llm::{Error, StatusError, TimeoutKind};
use crate::lock::LockError;
use crate::printable::printable;

/// Calls a class or function of `arbitrageai_native.exceptions` for an exception. The module is
/// imported when the first thing goes wrong. If that fails, its own exception is the result.
fn exception<'py>(py: Python<'py>, name: &str, arguments: impl PyCallArgs<'py>) -> PyErr {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    MODULE
        .get_or_try_init(py, || {
            PyModule::import(py, "arbitrageai_native.exceptions").map(Bound::unbind)
        })
        .and_then(|module| module.bind(py).call_method1(name, arguments))
        .map_or_else(|failure| failure, PyErr::from_value)
}

/// An argument of the wrong type: an `OpenAIError` that is a `TypeError` too.
pub(super) fn invalid_type(argument: &dyn Display, message: &str) -> PyErr {
    let message = format!("{argument} {message}");
    Python::attach(|py| exception(py, "InvalidArgumentTypeError", (message,)))
}

/// An argument of the right type whose value won't do: an `OpenAIError` that is a `ValueError` too.
pub(super) fn invalid_value(argument: &dyn Display, message: &str) -> PyErr {
    let message = format!("{argument} {message}");
    Python::attach(|py| exception(py, "InvalidArgumentError", (message,)))
}

impl From<Error> for PyErr {
    /// Called on a thread that is attached already: where results are converted.
    fn from(error: Error) -> Self {
        Python::attach(|py| of_call(py, &error).unwrap_or_else(|failure| failure))
    }
}

/// The error of a call that an open circuit refuses, for circuits that Python code asks.
#[pyfunction]
pub fn circuit_open(endpoint: &str) -> PyErr {
    Error::circuit_open(endpoint).into()
}

/// The error of a call whose deadline of so many seconds has passed, for calls that Python code makes.
#[pyfunction]
pub fn deadline_passed(seconds: f64) -> PyErr {
    let limit = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let kind = TimeoutKind::Deadline;
    let amid_keep_alives = false;
    Error::Timeout {
        kind,
        limit,
        amid_keep_alives,
    }
    .into()
}

fn of_call(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let message = error.to_string();
    Ok(match error {
        Error::InvalidArgument { .. } => exception(py, "InvalidArgumentError", (message,)),
        Error::Timeout { .. } => exception(py, "_timeout_error", (message,)),
        Error::Connection { os_error, .. } => exception(py, "_connection_error", (message, *os_error)),
        Error::Status(status) => of_status(py, status)?,
        Error::InvalidResponse { status, body, .. } => {
            exception(py, "_validation_error", (message, *status, body))
        }
        Error::Reported { body, .. } => exception(py, "_reported_error", (message, from_json(py, body)?)),
        Error::CircuitOpen { .. } => exception(py, "CircuitBreakerError", (message,)),
        Error::Abandoned(_) | Error::Closed(_) => exception(py, "ClientClosedError", (message,)),
    })
}

fn of_status(py: Python<'_>, error: &StatusError) -> PyResult<PyErr> {
    let headers = PyDict::new(py);
    for name in error.headers.keys() {
        let values: Vec<_> = error
            .headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        headers.set_item(name.as_str(), values.join(", "))?;
    }
    let body = from_json(py, &error.body)?;
    let arguments = (&error.message, error.status, headers, body, &error.text);
    Ok(exception(py, "_status_error", arguments))
}

impl From<LockError> for PyErr {
    /// As for calls.
    fn from(error: LockError) -> Self {
        let message = error.to_string();
        Python::attach(|py| match &error {
            LockError::InvalidArgument { .. } => PyValueError::new_err(message),
            LockError::Timeout { .. } => exception(py, "LockTimeoutError", (message,)),
            LockError::HeldBy { holder, since, .. } => {
                let shown = printable(holder);
                exception(py, "lock_timeout_error", (message, holder, *since, shown))
            }
            LockError::Lost { .. } => exception(py, "LockLostError", (message,)),
            LockError::Backend { source, .. } => {
                let failure = exception(py, "LockBackendError", (&message,));
                if source.is_some() {
                    failure.set_cause(py, Some(exception(py, "LockStoreError", (&message,))));
                }
                failure
            }
        })
    }
}
