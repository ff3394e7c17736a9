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
use super::stream::{ChatStream, rate_limits, usage};
use crate::bridge::{NOTHING, awaitable, block_on, dict};
use crate::llm::{
    self, Answer, Completion, Endpoint, Error, Received, Timed, TransportSettings, Usage, Used,
};

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
        let result = dict!(py, {
            "content": &completion.content,
            "model": &completion.model,
            "usage": usage(py, completion.usage, completion.usage_details.as_ref())?,
            "finish_reason": &completion.finish_reason,
            "stealth_mode_used": self.stealth_mode,
            "response_time_ms": self.timed.response_time.as_secs_f64() * 1000.0,
        });
        if let Some(reasoning) = &completion.reasoning {
            result.set_item(intern!(py, "reasoning"), reasoning)?;
        }
        if let Some(request_id) = &completion.received.request_id {
            result.set_item(intern!(py, "request_id"), request_id)?;
        }
        if let Some(limits) = rate_limits(py, &completion.received)? {
            result.set_item(intern!(py, "rate_limits"), limits)?;
        }
        if let Some(tool_calls) = &completion.tool_calls {
            result.set_item(intern!(py, "tool_calls"), from_json(py, tool_calls)?)?;
        }
        if let Some(raw) = &completion.raw {
            result.set_item(intern!(py, "raw"), from_json(py, raw)?)?;
        }
        Ok(result)
    }
}

/// An answer as it was sent, the request's id, and what the headers said of limits.
struct JsonResult(Value, Received);

impl<'py> IntoPyObject<'py> for JsonResult {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let Self(answer, received) = self;
        let limits = rate_limits(py, &received)?;
        (from_json(py, &answer)?, received.request_id, limits).into_pyobject(py)
    }
}

impl Used for JsonResult {
    fn usage(&self) -> Usage {
        self.0.usage()
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
            endpoint: Endpoint::new(base_url, api_key).map(Arc::new),
        }
    }

    /// The key is not shown.
    #[expect(clippy::unused_self, reason = "Python calls it as a method")]
    fn __repr__(&self) -> &'static str {
        "ChatClient(…)"
    }

    /// Makes the call, in stealth mode `delay` seconds later: the dict of `LLMService.complete`.
    fn complete_async<'py>(
        &self,
        py: Python<'py>,
        arguments: Arguments<'py>,
        delay: Option<f64>,
        raw: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = self.prepare(arguments)?.delayed(delay);
        awaitable(py, complete(call, delay.is_some(), raw))
    }

    /// Makes the call and waits for it in this thread: the dict of `LLMService.complete`.
    fn complete<'py>(
        &self,
        py: Python<'py>,
        arguments: Arguments<'py>,
        stealth_mode: bool,
        raw: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        block_on(py, complete(self.prepare(arguments)?, stealth_mode, raw))?.into_pyobject(py)
    }

    /// Makes the call: all that the server sent, the request's id, and the headers about limits.
    fn create_async<'py>(&self, py: Python<'py>, arguments: Arguments<'py>) -> PyResult<Bound<'py, PyAny>> {
        awaitable(py, create(self.prepare(arguments)?))
    }

    /// As `create_async`, and waits for it in this thread.
    fn create<'py>(&self, py: Python<'py>, arguments: Arguments<'py>) -> PyResult<Bound<'py, PyTuple>> {
        block_on(py, create(self.prepare(arguments)?))?.into_pyobject(py)
    }

    /// A stream that makes its call when it is first asked for chunks.
    fn stream(&self, arguments: Arguments<'_>) -> PyResult<ChatStream> {
        Ok(ChatStream::new(self.prepare(arguments)?))
    }
}

impl ChatClient {
    fn prepare(&self, arguments: Arguments<'_>) -> PyResult<PreparedCall> {
        PreparedCall::new(self.endpoint.clone()?, arguments)
    }
}

async fn complete(call: PreparedCall, stealth_mode: bool, raw: bool) -> Result<CallResult, Error> {
    let call = call.into_call().await?;
    let model = call.request.model.clone();
    let timed = call
        .complete(move |mut answer| answer.completion(&model, raw))
        .await?;
    Ok(CallResult { timed, stealth_mode })
}

async fn create(call: PreparedCall) -> Result<JsonResult, Error> {
    let read = |answer: Answer| Ok(JsonResult(answer.object()?, answer.received));
    Ok(call.into_call().await?.complete(read).await?.value)
}

/// Sleeps without blocking the event loop.
#[pyfunction]
pub fn sleep<'py>(py: Python<'py>, duration: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let duration = seconds("seconds", duration)?.unwrap_or(Duration::MAX);
    awaitable(py, async move {
        tokio::time::sleep(duration).await;
        Ok::<_, Error>(NOTHING)
    })
}

/// Asks the model server at `endpoint` whether it is alive: the status of its answer.
#[pyfunction]
pub fn ask_for_health<'py>(py: Python<'py>, endpoint: String, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
    awaitable(py, async move {
        let limit = Duration::try_from_secs_f64(timeout).unwrap_or_default();
        let transport = process().transports.get(TransportSettings::default()).await?;
        llm::ask_for_health(&transport, &endpoint, limit).await
    })
}

/// Requests under way in this process, for tests: a cancelled call has to leave none.
#[pyfunction]
pub fn requests_under_way() -> usize {
    process().transports.requests_under_way()
}
