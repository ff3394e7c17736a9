//! What has been counted: by each service, and by the process, whose figures outlive its services, managers and monitors.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use super::process::process;
use crate::bridge::{self, dict};
use crate::figures::{CallCounter, CountedCall, Counter, HistogramSnapshot, Metrics};
use crate::monitor::Lags;
use crate::mutex::lock;

/// The counters of one service's calls.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct CallMetrics(pub(super) Arc<Metrics>);

#[pymethods]
impl CallMetrics {
    #[new]
    fn new() -> Self {
        Self(Arc::default())
    }

    /// A call of a model through a foreign client begins.
    fn begin(&self, model: &str) -> CallCount {
        let count = CountedCall::begin(Arc::clone(&self.0), process().calls.model(model));
        CallCount(Mutex::new(Some(count)))
    }

    /// A blocking method was called from a running event loop.
    fn blocked_a_loop(&self) {
        self.0.counters.add(CallCounter::BlockingCallsInLoop, 1);
        process().calls.blocked_a_loop();
    }

    /// The figures now.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counted = |counter| self.0.counters.get(counter);
        let response = self.0.latency.snapshot();
        let bounds = response.bounds.iter().copied().chain([f64::INFINITY]);
        let latency = bounds.zip(response.counts).into_py_dict(py)?;
        Ok(dict!(py, {
            "calls": counted(CallCounter::Started),
            "successes": counted(CallCounter::Succeeded),
            "failures": self.0.failures.named().into_py_dict(py)?,
            "cancelled": counted(CallCounter::Cancelled),
            "retries": counted(CallCounter::Retries),
            "tokens": tokens(py, &self.0)?,
            "blocking_calls_in_loop": counted(CallCounter::BlockingCallsInLoop),
            "latency_seconds": latency,
            "latency_seconds_total": response.sum.as_secs_f64(),
        }))
    }
}

/// A call through a foreign client. Forgotten before it was told how the call ended, it counts as cancelled.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct CallCount(Mutex<Option<CountedCall>>);

#[pymethods]
impl CallCount {
    /// It brought an answer after so many seconds.
    fn succeeded(&self, seconds: f64, prompt_tokens: u64, completion_tokens: u64) {
        if let Some(count) = self.take() {
            let response_time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            count.succeeded(response_time, prompt_tokens, completion_tokens);
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
    fn take(&self) -> Option<CountedCall> {
        lock(&self.0).take()
    }
}

/// All that this process has counted: `llm`, `locks`, `loop`, `bridge`.
#[pyfunction]
pub fn process_metrics(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let figures = dict!(py, {
        "llm": of_calls(py)?,
        "locks": of_locks(py)?,
        "loop": of_loops(py, &bridge::watch::lags())?,
        "bridge": dict!(py, {"calls_under_way": bridge::calls_under_way()}),
    });
    // After the counters were read: what they count has been logged when the caller sees it.
    super::notices::deliver(py);
    Ok(figures)
}

fn of_calls(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let models = PyDict::new(py);
    for (model, counted) in process().calls.by_model() {
        models.set_item(&*model, of_model(py, &counted)?)?;
    }
    Ok(dict!(py, {
        "models": models,
        "requests_in_flight": process().transports.requests_under_way(),
        "blocking_calls_in_loop": process().calls.blocking_calls_in_loop(),
    }))
}

fn of_model<'py>(py: Python<'py>, counted: &Metrics) -> PyResult<Bound<'py, PyDict>> {
    let outcome = |counter: CallCounter| (counter.name(), counted.counters.get(counter));
    let outcomes = [outcome(CallCounter::Succeeded)]
        .into_iter()
        .chain(counted.failures.named())
        .chain([outcome(CallCounter::Cancelled)]);
    Ok(dict!(py, {
        "calls": outcomes.into_py_dict(py)?,
        "in_flight": counted.in_flight(),
        "retries": counted.counters.get(CallCounter::Retries),
        "tokens": tokens(py, counted)?,
        "response_seconds": histogram(py, &counted.latency.snapshot())?,
    }))
}

fn tokens<'py>(py: Python<'py>, counted: &Metrics) -> PyResult<Bound<'py, PyDict>> {
    [CallCounter::PromptTokens, CallCounter::CompletionTokens]
        .map(|counter| (counter.name(), counted.counters.get(counter)))
        .into_py_dict(py)
}

fn of_locks(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let registry = &process().locks;
    let totals = registry.totals();
    let (held, waiting) = registry.held_and_waiting();
    let figures = totals.counters.named().into_py_dict(py)?;
    figures.set_item("held", held)?;
    figures.set_item("waiting", waiting)?;
    figures.set_item("wait_seconds", histogram(py, &totals.wait.snapshot())?)?;
    figures.set_item("hold_seconds", histogram(py, &totals.hold.snapshot())?)?;
    Ok(figures)
}

fn of_loops<'py>(py: Python<'py>, lags: &Lags) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "monitors": lags.monitors,
        "current_seconds": lags.current.as_secs_f64(),
        "worst_seconds": lags.worst.as_secs_f64(),
        "stalls": lags.stalls,
        "lag_seconds": histogram(py, &lags.histogram)?,
    }))
}

/// Upper bounds, the counts up to each of them and beyond the last (each value in one count), and the sum of all values.
fn histogram<'py>(py: Python<'py>, counted: &HistogramSnapshot) -> PyResult<Bound<'py, PyDict>> {
    Ok(dict!(py, {
        "bounds": counted.bounds,
        "counts": &counted.counts,
        "sum": counted.sum.as_secs_f64(),
    }))
}
