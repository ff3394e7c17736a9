//! A streamed answer, as Python iterates it: batch by batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tokio::sync::watch;

use super::convert::from_json;
use super::llm::PreparedCall;
use crate::bridge::{ProcessBound, awaitable, block_on};
use crate::llm::{self, Chunk, Error, Summary};

/// The stream of one call. It makes its request at the first `next`, and closes it when it is closed or dropped.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct ChatStream(ProcessBound<Arc<Shared>>);

struct Shared {
    state: tokio::sync::Mutex<State>,
    /// True once it is closed: whoever waits for the next batch stops.
    closed: watch::Sender<bool>,
    /// Batches that were handed over and reached nobody: they come first the next time.
    returned: Mutex<VecDeque<Items>>,
    summary: Mutex<Summary>,
}

enum State {
    Unopened(Box<PreparedCall>),
    Open(Box<llm::ChatStream>),
    Over,
}

/// What a batch holds.
enum Items {
    Texts(Vec<String>),
    Chunks(Vec<Chunk>),
}

/// Some items, or none at the end. If it reaches nobody, the items go back.
struct Batch {
    items: Option<Items>,
    home: Arc<Shared>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(items) = self.items.take() {
            self.home.returned().push_front(items);
        }
    }
}

impl<'py> IntoPyObject<'py> for Batch {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(mut self, py: Python<'py>) -> PyResult<Self::Output> {
        Ok(match self.items.take() {
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
    /// Awaits the next items (pieces of text, or whole chunks as dicts): a list, or None after the last.
    fn next_async<'py>(&self, py: Python<'py>, texts: bool) -> PyResult<Bound<'py, PyAny>> {
        awaitable(py, self.shared()?.next(texts))
    }

    /// Waits for the next items in this thread.
    fn next<'py>(&self, py: Python<'py>, texts: bool) -> PyResult<Bound<'py, PyAny>> {
        block_on(py, self.shared()?.next(texts))?.into_pyobject(py)
    }

    /// Closes the request, at once.
    fn close(&self) {
        if let Some(shared) = self.0.get() {
            shared.closed.send_replace(true);
            // Whoever holds the state waits for the next batch, sees the stream closed, and drops it.
            if let Ok(mut state) = shared.state.try_lock() {
                *state = State::Over;
            }
        }
    }

    /// `model`, `usage` and `finish_reason`, as far as they have come.
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let Some(shared) = self.0.get() else {
            return Ok(dict);
        };
        let summary = shared
            .summary
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        dict.set_item("model", summary.model)?;
        dict.set_item("finish_reason", summary.finish_reason)?;
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
        Self(ProcessBound::new(Arc::new(Shared {
            state: tokio::sync::Mutex::new(State::Unopened(Box::new(call))),
            closed: watch::Sender::new(false),
            returned: Mutex::default(),
            summary: Mutex::default(),
        })))
    }

    /// A forked child can't go on with its parent's connection.
    fn shared(&self) -> PyResult<Arc<Shared>> {
        Ok(self
            .0
            .get()
            .ok_or(Error::Closed("the stream of a parent process"))?
            .clone())
    }
}

impl Shared {
    async fn next(self: Arc<Self>, texts: bool) -> Result<Batch, Error> {
        let mut closed = self.closed.subscribe();
        let items = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => None,
            items = self.next_items(texts) => items?,
        };
        if *self.closed.borrow() {
            *self.state.lock().await = State::Over;
            return Ok(Batch {
                items: None,
                home: self,
            });
        }
        Ok(Batch { items, home: self })
    }

    async fn next_items(&self, texts: bool) -> Result<Option<Items>, Error> {
        if let Some(items) = self.returned().pop_front() {
            return Ok(Some(items));
        }
        let mut state = self.state.lock().await;
        if let State::Unopened(_) = &*state
            && let State::Unopened(call) = std::mem::replace(&mut *state, State::Over)
        {
            *state = State::Open(Box::new(call.into_call()?.stream().await?));
        }
        let State::Open(stream) = &mut *state else {
            return Ok(None);
        };
        let items = if texts {
            stream.next_texts().await.map(|texts| texts.map(Items::Texts))
        } else {
            stream.next_batch().await.map(|chunks| chunks.map(Items::Chunks))
        };
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = stream.summary().clone();
        if !matches!(items, Ok(Some(_))) {
            *state = State::Over;
        }
        items
    }

    fn returned(&self) -> MutexGuard<'_, VecDeque<Items>> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
