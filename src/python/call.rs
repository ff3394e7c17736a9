//! A call of a model, from Python's arguments to what is awaited.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::convert::{body_to_json, header_pairs, string_pairs};
use super::health::EndpointHealth;
use super::metrics::CallMetrics;
use super::options::CallOptions;
use super::process::process;
use crate::llm::{self, Call, Endpoint, Error, Extras, Members, Metrics, SharedHealth, TransportSettings};

/// What describes every call: body, options, metrics, health, `extra_headers` and `extra_query`, in the
/// tuple that Python has made of them.
// A tuple, since a derived `FromPyObject` looks each field up by a Python object, for each call.
pub(super) type Arguments<'py> = (
    Bound<'py, PyDict>,
    PyRef<'py, CallOptions>,
    PyRef<'py, CallMetrics>,
    Option<PyRef<'py, EndpointHealth>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
);

/// A call that lacks only the transport.
pub(super) struct PreparedCall {
    endpoint: Arc<Endpoint>,
    body: Members,
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
    pub(super) fn new(endpoint: Arc<Endpoint>, arguments: Arguments<'_>) -> PyResult<Self> {
        let (body, options, metrics, health, extra_headers, extra_query) = arguments;
        let body = body_to_json(&body)?;
        let mut headers = options.headers.clone();
        headers.extend(header_pairs("extra_headers", extra_headers.as_ref())?);
        let query = string_pairs("extra_query", extra_query.as_ref())?;
        let query = query
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_default()))
            .collect();
        Ok(Self {
            endpoint,
            body,
            extras: Extras { headers, query },
            options: options.options.clone(),
            transport: options.transport.clone(),
            health: health.map(|health| health.shared().clone()),
            metrics: metrics.0.clone(),
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
            request: self
                .endpoint
                .request(self.body.text("model"), &self.body, &self.extras)?,
            options: self.options,
            health: self.health,
            metrics: self.metrics,
            totals: Arc::clone(&process.calls),
            delay: self.delay,
        })
    }
}
