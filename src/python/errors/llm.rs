//! The errors of model calls.

use std::fmt::Display;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};

use crate::llm::{Error, StatusError};
use crate::python::convert::from_json;

/// `arbitrageai_native.exceptions`, whose functions make the exceptions: they are imported when the first thing goes wrong.
fn exceptions(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Ok(MODULE
        .get_or_try_init(py, || {
            PyModule::import(py, "arbitrageai_native.exceptions").map(Bound::unbind)
        })?
        .bind(py))
}

/// An argument of the wrong type: an `OpenAIError` that is a `TypeError` too.
pub fn invalid_type(argument: &dyn Display, message: &str) -> PyErr {
    named("InvalidArgumentTypeError", &format!("{argument} {message}"))
}

/// An argument of the right type whose value won't do: an `OpenAIError` that is a `ValueError` too.
pub fn invalid_value(argument: &dyn Display, message: &str) -> PyErr {
    named("InvalidArgumentError", &format!("{argument} {message}"))
}

fn named(class: &str, message: &str) -> PyErr {
    Python::attach(|py| made(exceptions(py).and_then(|module| module.call_method1(class, (message,)))))
}

fn made(exception: PyResult<Bound<'_, PyAny>>) -> PyErr {
    exception.map_or_else(|error| error, PyErr::from_value)
}

impl From<Error> for PyErr {
    /// Called on a thread that is attached already: where results are converted.
    fn from(error: Error) -> Self {
        Python::attach(|py| {
            made(exceptions(py).and_then(|module| {
                let message = error.to_string();
                match &error {
                    Error::InvalidArgument { .. } => module.call_method1("InvalidArgumentError", (message,)),
                    Error::Timeout { .. } => module.call_method1("_timeout_error", (message,)),
                    Error::Connection { os_error, .. } => {
                        module.call_method1("_connection_error", (message, *os_error))
                    }
                    Error::Status(status) => status_error(module, status),
                    Error::InvalidResponse { status, body, .. } => {
                        module.call_method1("_validation_error", (message, *status, body))
                    }
                    Error::Reported { body, .. } => {
                        module.call_method1("_reported_error", (message, from_json(py, body)?))
                    }
                    Error::CircuitOpen { .. } => module.call_method1("CircuitBreakerError", (message,)),
                    Error::Abandoned(_) | Error::Closed(_) => {
                        module.call_method1("ClientClosedError", (message,))
                    }
                }
            }))
        })
    }
}

fn status_error<'py>(module: &Bound<'py, PyModule>, error: &StatusError) -> PyResult<Bound<'py, PyAny>> {
    let py = module.py();
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
    module.call_method1("_status_error", (&error.message, error.status, headers, body))
}
