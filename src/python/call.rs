//! A call of a model, from Python's arguments to what is awaited.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use serde_json::{Map, Value};

use super::convert::{body_to_json, string_pairs};
use super::health::EndpointHealth;
use super::metrics::CallMetrics;
use super::options::CallOptions;
use super::process::process;
use crate::llm::{self, Call, Endpoint, Error, Extras, Metrics, SharedHealth, TransportSettings};

/// What every call begins with: the tuple that Python's `native_arguments` returns.
pub(super) struct Arguments<'py> {
    pub(super) body: Bound<'py, PyDict>,
    pub(super) options: PyRef<'py, CallOptions>,
    pub(super) metrics: PyRef<'py, CallMetrics>,
    pub(super) health: Option<PyRef<'py, EndpointHealth>>,
    pub(super) extra_headers: Option<Bound<'py, PyAny>>,
    pub(super) extra_query: Option<Bound<'py, PyAny>>,
}

impl<'py> Arguments<'py> {
    /// The first six; some methods have more behind them.
    // Items are borrowed: a derived `FromPyObject` looks each of them up by a Python integer.
    pub(super) fn of(all: &Bound<'py, PyTuple>) -> PyResult<Self> {
        Ok(Self {
            body: all.get_borrowed_item(0)?.extract()?,
            options: all.get_borrowed_item(1)?.extract()?,
            metrics: all.get_borrowed_item(2)?.extract()?,
            health: all.get_borrowed_item(3)?.extract()?,
            extra_headers: all.get_borrowed_item(4)?.extract()?,
            extra_query: all.get_borrowed_item(5)?.extract()?,
        })
    }
}

/// A call that lacks only the transport.
pub(super) struct PreparedCall {
    endpoint: Arc<Endpoint>,
    body: Map<String, Value>,
    extras: Extras,
    options: llm::CallOptions,
    transport: TransportSettings,
    health: Option<SharedHealth>,
    metrics: Arc<Metrics>,
    delay: Duration,
}

impl PreparedCall {
    /// Copies everything that Python may change.
    ///
    /// # Errors
    /// `TypeError` or `ValueError` naming the argument that can't be sent.
    pub(super) fn new(endpoint: Arc<Endpoint>, arguments: &Arguments<'_>) -> PyResult<Self> {
        let options = &arguments.options;
        let body = body_to_json(&arguments.body)?;
        let mut headers = options.headers.clone();
        headers.extend(string_pairs("extra_headers", arguments.extra_headers.as_ref())?);
        let query = string_pairs("extra_query", arguments.extra_query.as_ref())?;
        let query = query
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_default()))
            .collect();
        Ok(Self {
            endpoint,
            body,
            extras: Extras { headers, query },
            options: options.options.clone(),
            transport: options.transport,
            health: arguments.health.as_ref().map(|health| health.shared().clone()),
            metrics: arguments.metrics.0.clone(),
            delay: Duration::ZERO,
        })
    }

    /// Made so much later, in stealth mode.
    pub(super) fn delayed(self, seconds: Option<f64>) -> Self {
        let delay = Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or_default();
        Self { delay, ..self }
    }

    /// Builds the request: for a worker, not for an event loop's thread.
    pub(super) async fn into_call(self) -> Result<Call, Error> {
        let process = process();
        Ok(Call {
            transport: process.transports.get(self.transport).await?,
            request: self.endpoint.request(&self.body, &self.extras)?,
            options: self.options,
            health: self.health,
            metrics: self.metrics,
            totals: Arc::clone(&process.calls),
            delay: self.delay,
        })
    }
}
