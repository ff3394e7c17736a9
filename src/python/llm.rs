//! The client of one endpoint, as Python's classes use it.
//!
//! A [`ChatClient`] is plain configuration: it may be made before a fork and used after it. What
//! belongs to a process (the connections) is found at each call.

use std::sync::Arc;
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use serde_json::Value;

use super::call::{Arguments, PreparedCall};
use super::convert::seconds;
use super::json::from_json;
use super::process::process;
use super::stream::ChatStream;
use crate::bridge::{Nothing, Wait, awaitable};
use crate::llm::{self, Completion, Endpoint, Error, Timed, TransportSettings};

/// The dict that `LLMService.complete` returns.
struct CallResult {
    timed: Timed<Completion>,
    stealth_mode: bool,
}

impl<'py> IntoPyObject<'py> for CallResult {
    type Target = PyDict;
    type Output = Bound<'py, PyDict>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let completion = &self.timed.value;
        let usage = PyDict::new(py);
        usage.set_item(intern!(py, "prompt_tokens"), completion.usage.prompt_tokens)?;
        usage.set_item(
            intern!(py, "completion_tokens"),
            completion.usage.completion_tokens,
        )?;
        usage.set_item(intern!(py, "total_tokens"), completion.usage.total_tokens)?;
        let result = PyDict::new(py);
        result.set_item(intern!(py, "content"), &completion.content)?;
        result.set_item(intern!(py, "model"), &completion.model)?;
        result.set_item(intern!(py, "usage"), usage)?;
        result.set_item(intern!(py, "stealth_mode_used"), self.stealth_mode)?;
        let milliseconds = self.timed.response_time.as_secs_f64() * 1000.0;
        result.set_item(intern!(py, "response_time_ms"), milliseconds)?;
        if let Some(tool_calls) = &completion.tool_calls {
            result.set_item(intern!(py, "tool_calls"), from_json(py, tool_calls)?)?;
        }
        if let Some(raw) = &completion.raw {
            result.set_item(intern!(py, "raw"), from_json(py, raw)?)?;
        }
        Ok(result)
    }
}

/// An answer as it was sent.
struct JsonResult(Value);

impl<'py> IntoPyObject<'py> for JsonResult {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        from_json(py, &self.0)
    }
}

/// Calls of one endpoint.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct ChatClient {
    /// A base URL that is none is told at the call.
    endpoint: Result<Arc<Endpoint>, Error>,
}

#[pymethods]
impl ChatClient {
    #[new]
    fn new(base_url: &str, api_key: &str) -> Self {
        Self {
            endpoint: Endpoint::new(base_url, api_key, &[]).map(Arc::new),
        }
    }

    /// The key is not shown.
    #[expect(clippy::unused_self, reason = "Python calls it as a method")]
    fn __repr__(&self) -> &'static str {
        "ChatClient(…)"
    }

    /// Makes the call, in stealth mode `delay` seconds later: the dict of `LLMService.complete`.
    #[pyo3(
        signature = (*arguments),
        text_signature = "($self, body, options, metrics, health, extra_headers, extra_query, delay, raw)"
    )]
    fn complete_async<'py>(&self, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let delay = arguments.get_borrowed_item(6)?.extract::<Option<f64>>()?;
        let call = self.prepare(&Arguments::of(arguments)?)?.delayed(delay);
        let raw = arguments.get_borrowed_item(7)?.extract()?;
        Wait::Loop.run(arguments.py(), complete(call, delay.is_some(), raw))
    }

    /// Makes the call and waits for it in this thread: the dict of `LLMService.complete`.
    #[pyo3(
        signature = (*arguments),
        text_signature = "($self, body, options, metrics, health, extra_headers, extra_query, stealth_mode, raw)"
    )]
    fn complete<'py>(&self, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let call = self.prepare(&Arguments::of(arguments)?)?;
        let (stealth_mode, raw) = (
            arguments.get_borrowed_item(6)?.extract()?,
            arguments.get_borrowed_item(7)?.extract()?,
        );
        Wait::Thread.run(arguments.py(), complete(call, stealth_mode, raw))
    }

    /// Makes the call: all that the server sent.
    #[pyo3(
        signature = (*arguments),
        text_signature = "($self, body, options, metrics, extra_headers, extra_query)"
    )]
    fn create_async<'py>(&self, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.create_in(Wait::Loop, arguments)
    }

    /// Makes the call and waits for it in this thread: all that the server sent.
    #[pyo3(
        signature = (*arguments),
        text_signature = "($self, body, options, metrics, extra_headers, extra_query)"
    )]
    fn create<'py>(&self, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.create_in(Wait::Thread, arguments)
    }

    /// A stream that makes its call when it is first asked for chunks.
    #[pyo3(
        signature = (*arguments),
        text_signature = "($self, body, options, metrics, health, extra_headers, extra_query)"
    )]
    fn stream(&self, arguments: &Bound<'_, PyTuple>) -> PyResult<ChatStream> {
        Ok(ChatStream::new(self.prepare(&Arguments::of(arguments)?)?))
    }
}

impl ChatClient {
    fn prepare(&self, arguments: &Arguments<'_>) -> PyResult<PreparedCall> {
        PreparedCall::new(self.endpoint.clone()?, arguments)
    }

    fn create_in<'py>(&self, wait: Wait, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let (body, options, metrics, extra_headers, extra_query) = arguments.extract()?;
        let call = self.prepare(&Arguments {
            body,
            options,
            metrics,
            health: None,
            extra_headers,
            extra_query,
        })?;
        wait.run(arguments.py(), create(call))
    }
}

async fn complete(call: PreparedCall, stealth_mode: bool, raw: bool) -> Result<CallResult, Error> {
    let call = call.into_call().await?;
    let model = call.request.model.clone();
    let timed = call
        .complete(move |answer| answer.completion(&model, raw))
        .await?;
    Ok(CallResult { timed, stealth_mode })
}

async fn create(call: PreparedCall) -> Result<JsonResult, Error> {
    let timed = call.into_call().await?.complete(|answer| answer.object()).await?;
    Ok(JsonResult(timed.value))
}

/// Sleeps without blocking the event loop.
#[pyfunction]
pub fn sleep<'py>(py: Python<'py>, duration: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let duration = seconds("seconds", duration)?.unwrap_or(Duration::MAX);
    awaitable(py, async move {
        tokio::time::sleep(duration).await;
        Ok::<Nothing, Error>(Nothing)
    })
}

/// Whether the model server at `endpoint` is alive. Never fails.
#[pyfunction]
pub fn is_healthy<'py>(py: Python<'py>, endpoint: String, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
    awaitable(py, async move {
        let limit = Duration::try_from_secs_f64(timeout).unwrap_or_default();
        Ok::<bool, Error>(
            match process().transports.get(TransportSettings::default()).await {
                Ok(transport) => llm::is_healthy(&transport, &endpoint, limit).await,
                Err(_) => false,
            },
        )
    })
}

/// Requests under way in this process, for tests: a cancelled call has to leave none.
#[pyfunction]
pub fn requests_under_way() -> usize {
    process().transports.requests_under_way()
}
