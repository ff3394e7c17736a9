//! The errors of locks.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;

use crate::lock::LockError;

/// `arbitrageai_native.exceptions`, imported when the first thing goes wrong.
fn exceptions(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module = MODULE.get_or_try_init(py, || {
        PyModule::import(py, "arbitrageai_native.exceptions").map(Bound::unbind)
    })?;
    Ok(module.bind(py))
}

impl From<LockError> for PyErr {
    /// Called on a thread that is attached already: where results are converted.
    fn from(error: LockError) -> Self {
        let message = error.to_string();
        Python::attach(|py| {
            let exception = |class: &str| match exceptions(py)
                .and_then(|module| module.call_method1(class, (&message,)))
            {
                Ok(exception) => PyErr::from_value(exception),
                Err(error) => error,
            };
            match &error {
                LockError::InvalidArgument { .. } => PyValueError::new_err(message.clone()),
                LockError::Timeout { .. } => exception("LockTimeoutError"),
                LockError::Lost { .. } => exception("LockLostError"),
                LockError::Backend { source, .. } => {
                    let failure = exception("LockBackendError");
                    if source.is_some() {
                        failure.set_cause(py, Some(exception("LockStoreError")));
                    }
                    failure
                }
            }
        })
    }
}
