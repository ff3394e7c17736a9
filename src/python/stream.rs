//! A streamed answer, as Python iterates it: batch by batch.

use std::convert::Infallible;
use std::sync::Arc;

use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use pyo3::{PyTraverseError, intern};

use super::convert::from_json;
use super::llm::PreparedCall;
use crate::bridge::{ProcessBound, awaitable, block_on, receive, spawn};
use crate::llm::{Batch, Error, Items, Loop, ReadAhead, Shape};

/// The stream of one call. It makes its request at the first `next`, and closes it when it is closed or dropped.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct ChatStream(ProcessBound<Arc<ReadAhead>>);

/// A batch on its way, or none at the end, or a failure. If it reaches nobody, it goes back.
struct Delivery {
    next: Option<Result<Option<Batch>, Error>>,
    home: Arc<ReadAhead>,
}

impl Delivery {
    /// Never fails itself: a failure is delivered, too, and must not get lost on its way.
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
    /// Awaits the next items (pieces of text, or whole chunks as dicts: what the first request asks for): a list, or None
    /// after the last.
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

    /// What `async for` iterates over: `stream`'s own `__anext__`, and what notices that the loop is left.
    fn iterate(&self, stream: Bound<'_, PyAny>) -> PyResult<Iteration> {
        let next = stream.getattr(intern!(stream.py(), "__anext__"))?.unbind();
        Ok(Iteration {
            stream: stream.unbind(),
            next,
            iterated: ProcessBound::new(self.0.get().map(ReadAhead::iterate)),
        })
    }

    /// A wait was given up, perhaps for good.
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

    /// `model`, `usage` and `finish_reason`, as far as they have come.
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let Some(stream) = self.0.get() else {
            return Ok(dict);
        };
        let summary = stream.summary();
        dict.set_item("model", &summary.model)?;
        dict.set_item("finish_reason", &summary.finish_reason)?;
        let usage = match summary.usage {
            None => None,
            Some(usage) => {
                let counts = PyDict::new(py);
                counts.set_item("prompt_tokens", usage.prompt_tokens)?;
                counts.set_item("completion_tokens", usage.completion_tokens)?;
                counts.set_item("total_tokens", usage.total_tokens)?;
                Some(counts)
            }
        };
        dict.set_item("usage", usage)?;
        Ok(dict)
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

/// One loop over a stream.
///
/// As a rule nothing but the loop refers to it. When an exception leaves the loop, the interpreter drops it, while the stream itself may
/// be kept for long by tracebacks, or by whoever was given it (a web framework's response).
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

    /// Whoever asked for the iterator itself finds in it what the stream has: `aclose`, `model`.
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
        // The interpreter empties a frame's stack while the exception is on its way. A `break` has none: who breaks off has the
        // stream in hand, or drops it.
        if Python::try_attach(PyErr::occurred).unwrap_or(false)
            && let Some(closing) = iterated.leave()
        {
            let _ = spawn(closing);
        }
    }
}

fn shape(texts: bool) -> Shape {
    if texts { Shape::Texts } else { Shape::Chunks }
}
