//! A streamed answer, as Python iterates it: batch by batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::convert::from_json;
use super::llm::PreparedCall;
use crate::bridge::{ProcessBound, awaitable, block_on};
use crate::llm::{self, Chunk, Error, Summary};

/// The stream of one call. It makes its request at the first `next`, and closes it when it is closed or dropped.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct ChatStream(ProcessBound<Arc<Shared>>);

struct Shared {
    /// Whoever asks for the next batch waits here for its turn.
    turn: tokio::sync::Mutex<()>,
    /// Not here while a batch is waited for: then it is [`Held`].
    state: Mutex<Option<State>>,
    /// True once it is closed: whoever waits for the next batch stops.
    closed: watch::Sender<bool>,
    /// Batches that were handed over and reached nobody: they come first the next time.
    returned: Mutex<VecDeque<Items>>,
    summary: Mutex<Summary>,
}

enum State {
    Unopened(Box<PreparedCall>),
    /// In a task of its own: giving up the wait for the first piece does not give up the call.
    Opening(Opening),
    Open(Box<llm::ChatStream>),
}

/// A stream's call until its answer's head has come. Dropping it drops the call.
struct Opening(JoinHandle<Result<llm::ChatStream, Error>>);

impl Opening {
    fn start(call: PreparedCall) -> Self {
        Self(tokio::spawn(async move { call.into_call()?.stream().await }))
    }

    async fn finish(&mut self) -> Result<llm::ChatStream, Error> {
        match (&mut self.0).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::Closed("the stream")),
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The state while a batch is waited for. However the wait ends, it goes back, or is dropped if the stream was closed meanwhile.
struct Held<'shared> {
    shared: &'shared Shared,
    state: Option<State>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut home = self.shared.state();
        if !*self.shared.closed.borrow() {
            *home = self.state.take();
        }
    }
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
            // Under the lock, so that a state that is held goes back before this, or sees the stream closed.
            let mut state = shared.state();
            shared.closed.send_replace(true);
            *state = None;
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
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(Some(State::Unopened(Box::new(call)))),
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
        Ok(Batch { items, home: self })
    }

    async fn next_items(&self, texts: bool) -> Result<Option<Items>, Error> {
        let _turn = self.turn.lock().await;
        if let Some(items) = self.returned().pop_front() {
            return Ok(Some(items));
        }
        let mut held = Held {
            shared: self,
            state: self.state().take(),
        };
        if let Some(State::Unopened(_)) = held.state
            && let Some(State::Unopened(call)) = held.state.take()
        {
            held.state = Some(State::Opening(Opening::start(*call)));
        }
        if let Some(State::Opening(opening)) = &mut held.state {
            let opened = opening.finish().await;
            held.state = None; // what has finished must not be awaited again
            held.state = Some(State::Open(Box::new(opened?)));
        }
        let Some(State::Open(stream)) = &mut held.state else {
            return Ok(None);
        };
        let items = if texts {
            stream.next_texts().await.map(|texts| texts.map(Items::Texts))
        } else {
            stream.next_batch().await.map(|chunks| chunks.map(Items::Chunks))
        };
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = stream.summary().clone();
        if !matches!(items, Ok(Some(_))) {
            held.state = None;
        }
        items
    }

    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn returned(&self) -> MutexGuard<'_, VecDeque<Items>> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
