//! A streamed answer, as Python iterates it: batch by batch.

use std::convert::Infallible;
use std::sync::Arc;

use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use pyo3::{PyTraverseError, intern};
use serde_json::{Map, Value};

use super::call::PreparedCall;
use super::json::from_json;
use crate::bridge::{ProcessBound, awaitable, block_on, dict, receive, spawn};
use crate::llm::{Batch, Error, Items, Loop, ReadAhead, Received, Shape, Usage};
use crate::mutex::lock;

/// The stream of one call. It makes its request at the first `next`, and closes it when it is
/// closed or dropped.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct ChatStream(ProcessBound<Arc<ReadAhead>>);

/// A result of [`ReadAhead::next`] on its way to Python. Dropping an undelivered result returns it
/// to the stream.
struct Delivery {
    next: Option<Result<Option<Batch>, Error>>,
    home: Arc<ReadAhead>,
}

impl Delivery {
    /// Never returns an error: a failure of the stream is part of the delivery, so that an
    /// undelivered failure returns to the stream, too.
    async fn next(home: Arc<ReadAhead>) -> Result<Self, Infallible> {
        let next = Some(home.next().await);
        Ok(Self { next, home })
    }

    async fn first(home: Arc<ReadAhead>, shape: Shape) -> Result<Self, Infallible> {
        home.start(shape);
        Self::next(home).await
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(next) = self.next.take() {
            self.home.give_back(next);
        }
    }
}

impl<'py> IntoPyObject<'py> for Delivery {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(mut self, py: Python<'py>) -> PyResult<Self::Output> {
        let batch = self.next.take().unwrap_or(Ok(None))?;
        Ok(match batch.map(|batch| batch.items) {
            None => py.None().into_bound(py),
            Some(Items::Texts(texts)) => PyList::new(py, texts)?.into_any(),
            Some(Items::Chunks(chunks)) => {
                let list = PyList::empty(py);
                for chunk in &chunks {
                    list.append(from_json(py, chunk)?)?;
                }
                list.into_any()
            }
        })
    }
}

#[pymethods]
impl ChatStream {
    /// Awaits the next items (pieces of text, or whole chunks as dicts: what the first request asks
    /// for): a list, or None after the last.
    fn next_async<'py>(&self, py: Python<'py>, texts: bool) -> PyResult<Bound<'py, PyAny>> {
        let stream = self.stream()?;
        if stream.is_started() {
            receive(py, Delivery::next(stream))
        } else {
            awaitable(py, Delivery::first(stream, shape(texts)))
        }
    }

    /// Waits for the next items in this thread.
    fn next<'py>(&self, py: Python<'py>, texts: bool) -> PyResult<Bound<'py, PyAny>> {
        block_on(py, Delivery::first(self.stream()?, shape(texts)))?.into_pyobject(py)
    }

    /// Returns the iterator of an `async for`. It calls `__anext__` of `stream`, and it detects
    /// that an exception leaves the loop.
    fn iterate(&self, stream: Bound<'_, PyAny>) -> PyResult<Iteration> {
        let next = stream.getattr(intern!(stream.py(), "__anext__"))?.unbind();
        Ok(Iteration {
            stream: stream.unbind(),
            next,
            iterated: ProcessBound::new(self.0.get().map(ReadAhead::iterate)),
        })
    }

    /// Starts the grace period after a cancelled wait, unless another loop still iterates.
    fn wait_was_given_up(&self) -> PyResult<()> {
        match self.0.get().and_then(ReadAhead::wait_was_given_up) {
            Some(closing) => spawn(closing),
            None => Ok(()),
        }
    }

    /// Closes the request.
    fn close(&self) {
        if let Some(stream) = self.0.get() {
            stream.close();
        }
    }

    /// `model`, `usage`, `finish_reason`, `request_id` and `rate_limits`, as far as they have come.
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Some(stream) = self.0.get() else {
            return Ok(PyDict::new(py));
        };
        let summary = stream.summary();
        Ok(dict!(py, {
            "model": &summary.model,
            "finish_reason": &summary.finish_reason,
            "usage": summary
                .usage
                .map(|counts| usage(py, counts, summary.usage_details.as_ref()))
                .transpose()?,
            "request_id": &summary.received.request_id,
            "rate_limits": rate_limits(py, &summary.received)?,
        }))
    }

    /// `reasoning` and `tool_calls`, as far as they have come.
    fn asides<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Some(stream) = self.0.get() else {
            return Ok(PyDict::new(py));
        };
        // Copied first: the lock must not be held while Python's objects are made.
        let (reasoning, calls) = {
            let asides = stream.asides();
            let asides = lock(&asides);
            (asides.reasoning().map(str::to_owned), asides.tool_calls())
        };
        Ok(dict!(py, {
            "reasoning": reasoning,
            "tool_calls": from_json(py, &Value::from(calls))?,
        }))
    }
}

impl ChatStream {
    pub(super) fn new(call: PreparedCall) -> Self {
        Self(ProcessBound::new(Arc::new(ReadAhead::new(async move {
            call.into_call().await?.stream().await
        }))))
    }

    /// A forked child can't go on with its parent's connection.
    fn stream(&self) -> PyResult<Arc<ReadAhead>> {
        Ok(self
            .0
            .get()
            .ok_or(Error::Closed("the stream of a parent process"))?
            .clone())
    }
}

/// The iterator of one loop over a stream.
///
/// As a rule only the loop refers to the iterator. When an exception leaves the loop, the
/// interpreter drops the iterator, while a traceback or another holder (a web framework's response)
/// may keep the stream itself for a long time.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct Iteration {
    stream: Py<PyAny>,
    next: Py<PyAny>,
    iterated: ProcessBound<Option<Loop>>,
}

#[pymethods]
impl Iteration {
    fn __aiter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __anext__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.next.bind(py).call0()
    }

    /// Forwards attributes such as `aclose` and `model` to the stream, for code that calls
    /// `aiter()`.
    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.stream.bind(py).getattr(name.str()?)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.stream)?;
        visit.call(&self.next)
    }
}

impl Drop for Iteration {
    fn drop(&mut self) {
        let Some(iterated) = self.iterated.get_mut().and_then(Option::take) else {
            return;
        };
        // The interpreter clears the stack of a frame while the exception propagates. A `break`
        // raises no exception: code that breaks out of the loop keeps the stream deliberately, or
        // drops it.
        if Python::try_attach(PyErr::occurred).unwrap_or(false)
            && let Some(closing) = iterated.leave()
        {
            let _ = spawn(closing);
        }
    }
}

/// Tokens, as results of calls and summaries of streams have them.
pub(super) fn usage<'py>(
    py: Python<'py>,
    usage: Usage,
    details: Option<&Map<String, Value>>,
) -> PyResult<Bound<'py, PyDict>> {
    let counts = dict!(py, {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    });
    for (name, value) in details.into_iter().flatten() {
        counts.set_item(name, from_json(py, value)?)?;
    }
    Ok(counts)
}

/// What an answer's headers said of limits; None if they said nothing.
pub(super) fn rate_limits<'py>(py: Python<'py>, received: &Received) -> PyResult<Option<Bound<'py, PyDict>>> {
    if received.rate_limits.is_empty() {
        return Ok(None);
    }
    let limits = PyDict::new(py);
    for (name, value) in &received.rate_limits {
        limits.set_item(name, value)?;
    }
    Ok(Some(limits))
}

fn shape(texts: bool) -> Shape {
    if texts { Shape::Texts } else { Shape::Chunks }
}
