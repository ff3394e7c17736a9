//! What has been counted: by each service, and by the process, whose figures outlive its services, managers and monitors.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::process::process;
use crate::bridge;
use crate::llm::{self, Count, LATENCY_BOUNDS, Usage};
use crate::{lock, monitor};

/// The counters of one service's calls.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct CallMetrics(pub(super) Arc<llm::Metrics>);

#[pymethods]
impl CallMetrics {
    #[new]
    fn new() -> Self {
        Self(Arc::default())
    }

    /// A call of a model through a foreign client begins.
    fn begin(&self, model: &str) -> CallCount {
        let count = Count::begin(Arc::clone(&self.0), process().calls.model(model));
        CallCount(Mutex::new(Some(count)))
    }

    /// A blocking method was called from a running event loop.
    fn blocked_a_loop(&self) {
        self.0.blocked_a_loop();
        process().calls.blocked_a_loop();
    }

    /// The figures now.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let snapshot = self.0.snapshot();
        let failures = PyDict::new(py);
        for (kind, count) in &snapshot.failures {
            failures.set_item(kind, count)?;
        }
        let latency = PyDict::new(py);
        let bounds = LATENCY_BOUNDS.iter().copied().chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(&snapshot.latency_buckets) {
            latency.set_item(bound, count)?;
        }
        let figures = PyDict::new(py);
        figures.set_item("calls", snapshot.started)?;
        figures.set_item("successes", snapshot.succeeded)?;
        figures.set_item("failures", failures)?;
        figures.set_item("cancelled", snapshot.cancelled)?;
        figures.set_item("retries", snapshot.retries)?;
        figures.set_item("tokens", tokens(py, &snapshot)?)?;
        figures.set_item("blocking_calls_in_loop", snapshot.blocking_calls_in_loop)?;
        figures.set_item("latency_seconds", latency)?;
        figures.set_item("latency_seconds_total", snapshot.latency_total.as_secs_f64())?;
        Ok(figures)
    }
}

/// A call through a foreign client. Forgotten before it was told how the call ended, it counts as cancelled.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct CallCount(Mutex<Option<Count>>);

#[pymethods]
impl CallCount {
    /// It brought an answer after so many seconds.
    fn succeeded(&self, seconds: f64, prompt_tokens: u64, completion_tokens: u64) {
        if let Some(count) = self.take() {
            let response_time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            count.succeeded(
                response_time,
                Usage {
                    prompt_tokens,
                    completion_tokens,
                    total_tokens: prompt_tokens.saturating_add(completion_tokens),
                },
            );
        }
    }

    /// It failed.
    fn failed(&self, kind: &str) {
        if let Some(count) = self.take() {
            count.failed(kind);
        }
    }

    /// It was given up.
    fn cancelled(&self) {
        drop(self.take());
    }
}

impl CallCount {
    fn take(&self) -> Option<Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// All that this process has counted: `llm`, `locks`, `loop`, `bridge`.
#[pyfunction]
pub fn process_metrics(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let figures = PyDict::new(py);
    figures.set_item("llm", of_calls(py)?)?;
    figures.set_item("locks", of_locks(py)?)?;
    figures.set_item("loop", of_loops(py, &bridge::watch::lags())?)?;
    let of_bridge = PyDict::new(py);
    of_bridge.set_item("calls_under_way", bridge::calls_under_way())?;
    figures.set_item("bridge", of_bridge)?;
    Ok(figures)
}

fn of_calls(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let models = PyDict::new(py);
    for (model, snapshot) in process().calls.snapshot() {
        models.set_item(&*model, of_model(py, &snapshot)?)?;
    }
    let figures = PyDict::new(py);
    figures.set_item("models", models)?;
    figures.set_item("requests_in_flight", process().transports.requests_under_way())?;
    figures.set_item("blocking_calls_in_loop", process().calls.blocking_calls_in_loop())?;
    Ok(figures)
}

fn of_model<'py>(py: Python<'py>, snapshot: &llm::Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let outcomes = PyDict::new(py);
    outcomes.set_item("success", snapshot.succeeded)?;
    for (kind, count) in &snapshot.failures {
        outcomes.set_item(kind, count)?;
    }
    outcomes.set_item("cancelled", snapshot.cancelled)?;
    let response = histogram(
        py,
        &LATENCY_BOUNDS,
        &snapshot.latency_buckets,
        snapshot.latency_total.as_secs_f64(),
    )?;
    let figures = PyDict::new(py);
    figures.set_item("calls", outcomes)?;
    figures.set_item("in_flight", snapshot.in_flight)?;
    figures.set_item("retries", snapshot.retries)?;
    figures.set_item("tokens", tokens(py, snapshot)?)?;
    figures.set_item("response_seconds", response)?;
    Ok(figures)
}

fn tokens<'py>(py: Python<'py>, snapshot: &llm::Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let tokens = PyDict::new(py);
    tokens.set_item("prompt", snapshot.prompt_tokens)?;
    tokens.set_item("completion", snapshot.completion_tokens)?;
    Ok(tokens)
}

fn of_locks(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let registry = &process().locks;
    let totals = registry.totals();
    let counted = totals.snapshot();
    let (held, waiting) = registry.held_and_waiting();
    let (wait, hold) = (totals.wait.snapshot(), totals.hold.snapshot());
    let figures = PyDict::new(py);
    figures.set_item("attempts", counted.attempts)?;
    figures.set_item("successes", counted.successes)?;
    figures.set_item("conflicts", counted.conflicts)?;
    figures.set_item("timeouts", counted.timeouts)?;
    figures.set_item("hand_offs", counted.hand_offs)?;
    figures.set_item("renewals", counted.renewals)?;
    figures.set_item("losses", counted.losses)?;
    figures.set_item("backend_errors", counted.backend_errors)?;
    figures.set_item("held", held)?;
    figures.set_item("waiting", waiting)?;
    figures.set_item(
        "wait_seconds",
        histogram(py, &lock::BOUNDS, &wait.buckets, wait.sum)?,
    )?;
    figures.set_item(
        "hold_seconds",
        histogram(py, &lock::BOUNDS, &hold.buckets, hold.sum)?,
    )?;
    Ok(figures)
}

fn of_loops<'py>(py: Python<'py>, lags: &monitor::Lags) -> PyResult<Bound<'py, PyDict>> {
    let bounds = monitor::BUCKETS.map(|bound| bound.as_secs_f64());
    let sum = lags.histogram.sum().as_secs_f64();
    let figures = PyDict::new(py);
    figures.set_item("monitors", lags.monitors)?;
    figures.set_item("current_seconds", lags.current.as_secs_f64())?;
    figures.set_item("worst_seconds", lags.worst.as_secs_f64())?;
    figures.set_item("stalls", lags.stalls)?;
    figures.set_item(
        "lag_seconds",
        histogram(py, &bounds, lags.histogram.counts(), sum)?,
    )?;
    Ok(figures)
}

/// Upper bounds, the counts up to each of them and beyond the last (each value in one count), and the sum of all values.
fn histogram<'py>(py: Python<'py>, bounds: &[f64], counts: &[u64], sum: f64) -> PyResult<Bound<'py, PyDict>> {
    let figures = PyDict::new(py);
    figures.set_item("bounds", bounds)?;
    figures.set_item("counts", counts)?;
    figures.set_item("sum", sum)?;
    Ok(figures)
}
