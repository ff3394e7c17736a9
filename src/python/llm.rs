//! The client of one endpoint, as Python's classes use it.
//!
//! A [`ChatClient`] is plain configuration: it may be made before a fork and used after it. What belongs to a process (the
//! connections) is found at each call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use super::convert::{body_to_json, from_json, seconds, string_pairs};
use super::health::EndpointHealth;
use super::metrics::{self, CallMetrics};
use super::options::CallOptions;
use super::stream::ChatStream;
use crate::bridge::{Nothing, PerProcess, awaitable, block_on};
use crate::llm::{self, Call, Completion, Endpoint, Error, Extras, Metrics, SharedHealth, Timed};
use crate::llm::{Transport, TransportSettings};

/// The place of one transport. It is empty until the transport has been made.
type Place = Arc<OnceCell<Arc<Transport>>>;

/// This process's transports: nearly always one.
static TRANSPORTS: PerProcess<Mutex<HashMap<TransportSettings, Place>>> = PerProcess::new();

/// Above this, transports that serve no call are dropped: someone gives every call settings of its own.
const TRANSPORTS_KEPT: usize = 16;

/// Finds or makes the transport. Making a transport reads the TLS roots from files, and a slow file
/// system can delay that. So a separate thread makes the transport: neither a worker of the runtime
/// nor a caller that reads the map of transports waits for the file system.
pub(super) async fn transport(settings: TransportSettings) -> Result<Arc<Transport>, Error> {
    let place = place_of(settings);
    if let Some(transport) = place.get() {
        return Ok(transport.clone());
    }
    let make = || async {
        tokio::task::spawn_blocking(move || Transport::new(settings).map(Arc::new))
            .await
            .unwrap_or(Err(Error::Closed("the runtime")))
    };
    place.get_or_try_init(make).await.cloned()
}

fn place_of(settings: TransportSettings) -> Place {
    let transports = TRANSPORTS.get_or_init(Mutex::default);
    let mut transports = transports.lock().unwrap_or_else(PoisonError::into_inner);
    if !transports.contains_key(&settings) && transports.len() >= TRANSPORTS_KEPT {
        transports.retain(|_, place| {
            Arc::strong_count(place) > 1 || place.get().is_some_and(|made| Arc::strong_count(made) > 1)
        });
    }
    transports.entry(settings).or_default().clone()
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
    /// Builds the request: for a worker, not for an event loop's thread.
    pub(super) async fn into_call(self) -> Result<Call, Error> {
        Ok(Call {
            transport: transport(self.transport).await?,
            request: self.endpoint.request(&self.body, &self.extras)?,
            options: self.options,
            health: self.health,
            metrics: self.metrics,
            totals: Arc::clone(metrics::calls()),
            delay: self.delay,
        })
    }

    async fn complete(self, shape: ResultShape) -> Result<CallResult, Error> {
        let raw = shape.raw;
        let call = self.into_call().await?;
        let model = call.request.model.clone();
        let timed = call
            .complete(move |answer| answer.completion(&model, raw))
            .await?;
        Ok(CallResult {
            timed,
            stealth_mode: shape.stealth_mode,
        })
    }

    async fn create(self) -> Result<JsonResult, Error> {
        let timed = self.into_call().await?.complete(|answer| answer.object()).await?;
        Ok(JsonResult(timed.value))
    }
}

/// What the result dict has besides the answer.
#[derive(Clone, Copy)]
struct ResultShape {
    raw: bool,
    stealth_mode: bool,
}

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
    #[pyo3(signature = (body, options, metrics, health, extra_headers, extra_query, delay, raw))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keywords in Python; a struct would cost each call an object"
    )]
    fn complete_async<'py>(
        &self,
        py: Python<'py>,
        body: &Bound<'py, PyDict>,
        options: &CallOptions,
        metrics: &CallMetrics,
        health: Option<&EndpointHealth>,
        extra_headers: Option<&Bound<'py, PyAny>>,
        extra_query: Option<&Bound<'py, PyAny>>,
        delay: Option<f64>,
        raw: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut call = self.prepare(body, options, metrics, health, extra_headers, extra_query)?;
        call.delay = Duration::try_from_secs_f64(delay.unwrap_or(0.0)).unwrap_or_default();
        awaitable(
            py,
            call.complete(ResultShape {
                raw,
                stealth_mode: delay.is_some(),
            }),
        )
    }

    /// Makes the call and waits for it in this thread: the dict of `LLMService.complete`.
    #[pyo3(signature = (body, options, metrics, health, extra_headers, extra_query, stealth_mode, raw))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keywords in Python; a struct would cost each call an object"
    )]
    fn complete<'py>(
        &self,
        py: Python<'py>,
        body: &Bound<'py, PyDict>,
        options: &CallOptions,
        metrics: &CallMetrics,
        health: Option<&EndpointHealth>,
        extra_headers: Option<&Bound<'py, PyAny>>,
        extra_query: Option<&Bound<'py, PyAny>>,
        stealth_mode: bool,
        raw: bool,
    ) -> PyResult<Bound<'py, PyDict>> {
        let call = self.prepare(body, options, metrics, health, extra_headers, extra_query)?;
        block_on(py, call.complete(ResultShape { raw, stealth_mode }))?.into_pyobject(py)
    }

    /// Makes the call: all that the server sent.
    #[pyo3(signature = (body, options, metrics, extra_headers, extra_query))]
    fn create_async<'py>(
        &self,
        py: Python<'py>,
        body: &Bound<'py, PyDict>,
        options: &CallOptions,
        metrics: &CallMetrics,
        extra_headers: Option<&Bound<'py, PyAny>>,
        extra_query: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        awaitable(
            py,
            self.prepare(body, options, metrics, None, extra_headers, extra_query)?
                .create(),
        )
    }

    /// Makes the call and waits for it in this thread: all that the server sent.
    #[pyo3(signature = (body, options, metrics, extra_headers, extra_query))]
    fn create<'py>(
        &self,
        py: Python<'py>,
        body: &Bound<'py, PyDict>,
        options: &CallOptions,
        metrics: &CallMetrics,
        extra_headers: Option<&Bound<'py, PyAny>>,
        extra_query: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = self.prepare(body, options, metrics, None, extra_headers, extra_query)?;
        block_on(py, call.create())?.into_pyobject(py)
    }

    /// A stream that makes its call when it is first asked for chunks.
    #[pyo3(signature = (body, options, metrics, health, extra_headers, extra_query))]
    fn stream<'py>(
        &self,
        body: &Bound<'py, PyDict>,
        options: &CallOptions,
        metrics: &CallMetrics,
        health: Option<&EndpointHealth>,
        extra_headers: Option<&Bound<'py, PyAny>>,
        extra_query: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<ChatStream> {
        Ok(ChatStream::new(self.prepare(
            body,
            options,
            metrics,
            health,
            extra_headers,
            extra_query,
        )?))
    }
}

impl ChatClient {
    fn prepare<'py>(
        &self,
        body: &Bound<'py, PyDict>,
        options: &CallOptions,
        metrics: &CallMetrics,
        health: Option<&EndpointHealth>,
        extra_headers: Option<&Bound<'py, PyAny>>,
        extra_query: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<PreparedCall> {
        let endpoint = self.endpoint.clone()?;
        let body = body_to_json(body)?;
        let mut headers = options.headers.clone();
        headers.extend(string_pairs("extra_headers", extra_headers)?);
        let query = string_pairs("extra_query", extra_query)?;
        let query = query
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_default()))
            .collect();
        Ok(PreparedCall {
            endpoint,
            body,
            extras: Extras { headers, query },
            options: options.options.clone(),
            transport: options.transport,
            health: health.map(|health| health.shared().clone()),
            metrics: metrics.0.clone(),
            delay: Duration::ZERO,
        })
    }
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
        Ok::<bool, Error>(match transport(TransportSettings::default()).await {
            Ok(transport) => llm::is_healthy(&transport, &endpoint, limit).await,
            Err(_) => false,
        })
    })
}

/// Requests under way in this process, for tests: a cancelled call has to leave none.
#[pyfunction]
pub fn requests_under_way() -> usize {
    let transports = TRANSPORTS.get_or_init(Mutex::default);
    let transports = transports.lock().unwrap_or_else(PoisonError::into_inner);
    transports
        .values()
        .filter_map(|place| place.get().map(|transport| transport.requests_under_way()))
        .sum()
}
