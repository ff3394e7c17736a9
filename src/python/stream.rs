//! A streamed answer, as Python iterates it: batch by batch.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::convert::from_json;
use super::llm::PreparedCall;
use crate::bridge::{ProcessBound, awaitable, block_on, receive};
use crate::llm::{Batch, Error, Items, ReadAhead, Shape};

/// The stream of one call. It makes its request at the first `next`, and closes it when it is closed or dropped.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct ChatStream(ProcessBound<Arc<ReadAhead>>);

/// A batch on its way, or none at the end. If it reaches nobody, it goes back.
struct Delivery {
    batch: Option<Batch>,
    home: Arc<ReadAhead>,
}

impl Delivery {
    async fn next(home: Arc<ReadAhead>) -> Result<Self, Error> {
        let batch = home.next().await?;
        Ok(Self { batch, home })
    }

    async fn first(home: Arc<ReadAhead>, shape: Shape) -> Result<Self, Error> {
        home.start(shape);
        Self::next(home).await
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.home.give_back(batch);
        }
    }
}

impl<'py> IntoPyObject<'py> for Delivery {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(mut self, py: Python<'py>) -> PyResult<Self::Output> {
        Ok(match self.batch.take().map(|batch| batch.items) {
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
            call.into_call()?.stream().await
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

fn shape(texts: bool) -> Shape {
    if texts { Shape::Texts } else { Shape::Chunks }
}
