//! The keywords by which leases are asked for.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::lock::{self, Keeping, LockError, Wanted};

/// The keywords of `lease`, `lease_blocking` and `lease_many`.
pub(super) struct Terms {
    holder_id: String,
    ttl: f64,
    timeout: f64,
    auto_renew: bool,
    max_hold: Option<f64>,
}

impl Terms {
    /// # Errors
    /// `TypeError` naming the keyword that is missing or of the wrong type, or those that are too many.
    pub(super) fn of(py: Python<'_>, keywords: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let keywords = keywords.cloned().unwrap_or_else(|| PyDict::new(py));
        let terms = Self {
            holder_id: keyword(&keywords, "holder_id")?,
            ttl: keyword(&keywords, "ttl")?,
            timeout: keyword(&keywords, "timeout")?,
            auto_renew: keyword(&keywords, "auto_renew")?,
            max_hold: keyword(&keywords, "max_hold")?,
        };
        if keywords.len() > 5 {
            return Err(PyTypeError::new_err(format!(
                "unexpected keywords among {}",
                keywords.keys()
            )));
        }
        Ok(terms)
    }

    pub(super) fn wanted(&self, marketplace_id: &str, posting_id: &str) -> Result<Wanted, LockError> {
        Wanted::new(
            marketplace_id,
            posting_id,
            &self.holder_id,
            self.ttl,
            self.timeout,
        )
    }

    pub(super) fn keeping(&self) -> Result<Keeping, LockError> {
        let max_hold = self
            .max_hold
            .map(|seconds| lock::lasting_time("max_hold", seconds))
            .transpose()?;
        Ok(Keeping {
            auto_renew: self.auto_renew,
            max_hold,
            ..Keeping::default()
        })
    }
}

/// Reports a wrong type in the words that PyO3 has for a parameter.
fn keyword<T>(keywords: &Bound<'_, PyDict>, name: &str) -> PyResult<T>
where
    T: for<'a, 'py> FromPyObject<'a, 'py, Error = PyErr>,
{
    let Some(value) = keywords.get_item(name)? else {
        return Err(PyTypeError::new_err(format!(
            "missing required keyword-only argument: '{name}'"
        )));
    };
    value.extract().map_err(|error: PyErr| {
        if !error.is_instance_of::<PyTypeError>(keywords.py()) {
            return error;
        }
        let cause = error.value(keywords.py());
        PyTypeError::new_err(format!("argument '{name}': {cause}"))
    })
}
