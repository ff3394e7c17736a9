//! The bindings of what `doctor` asks: looks that change nothing.

use std::borrow::Cow;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::process::process;
use crate::bridge::{awaitable, dict};
use crate::llm::{self, Error, TransportSettings};
use crate::lock::{self, DEFAULT_URL, Database, Inspection, Options, Tables};

/// What a look at a database found, as a dict.
struct Found(Inspection);

impl<'py> IntoPyObject<'py> for Found {
    type Target = PyDict;
    type Output = Bound<'py, PyDict>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let (missing, difference) = match self.0.tables {
            Tables::NotNeeded => (None, None),
            Tables::Usable { missing } => (Some(missing), None),
            Tables::AnotherShape(difference) => (None, Some(difference)),
        };
        Ok(dict!(py, {
            "place": self.0.place,
            "server": self.0.server,
            "missing_tables": missing,
            "difference": difference,
            "clock_ahead": self.0.clock_ahead,
            "encrypted": self.0.encrypted,
            "obstacles": self.0.obstacles,
            "cautions": self.0.cautions,
        }))
    }
}

/// Looks at the locks' database without changing anything in it.
#[pyfunction]
#[pyo3(signature = (database_url=None))]
pub fn inspect_database<'py>(py: Python<'py>, database_url: Option<&str>) -> PyResult<Bound<'py, PyAny>> {
    let options = Options {
        create_folders: database_url.is_none(),
        ..Options::default()
    };
    let database = Database::parse(database_url.unwrap_or(DEFAULT_URL), &options)?;
    awaitable(py, async move { lock::inspect(&database).await.map(Found) })
}

/// Asks a model server for its list of models: the status of its answer.
#[pyfunction]
pub fn ask_for_models<'py>(
    py: Python<'py>,
    base_url: String,
    api_key: String,
    seconds: f64,
) -> PyResult<Bound<'py, PyAny>> {
    awaitable(py, async move {
        let limit = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let transport = process().transports.get(TransportSettings::default()).await?;
        llm::ask_for_models(&transport, &base_url, &api_key, limit).await
    })
}

/// How many certificates are trusted.
#[pyfunction]
pub fn trusted_certificates(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    awaitable(py, async move {
        tokio::task::spawn_blocking(llm::trusted_certificates)
            .await
            .unwrap_or_else(|_| Err(Error::Closed("the runtime")))
    })
}

/// The libraries that are built in: (name, version).
#[pyfunction]
pub fn libraries() -> Vec<(&'static str, &'static str)> {
    crate::versions::libraries()
}

/// Returns the text with its control characters escaped. See [`crate::printable::printable`].
#[pyfunction]
pub fn printable(text: &str) -> Cow<'_, str> {
    crate::printable::printable(text)
}
