//! A streamed answer, read by a task of its own and taken batch by batch.
//!
//! The task reads a bounded number of batches ahead, so that whoever asks for the next one finds it there or waits for the network
//! alone. When nobody takes them the task stops reading, and the server is slowed down through TCP. Giving up a wait gives up
//! nothing: what had come, comes the next time.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::chunks::{Chunk, Summary};
use super::error::Error;
use super::stream::ChatStream;

/// Batches that wait to be taken. Each is of bounded size.
const BATCHES_AHEAD: usize = 4;

/// What batches are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Pieces of the first choice's text.
    Texts,
    /// Whole chunks.
    Chunks,
}

/// What a batch holds; at least one.
#[derive(Debug)]
pub enum Items {
    /// Pieces of text.
    Texts(Vec<String>),
    /// Chunks.
    Chunks(Vec<Chunk>),
}

impl Items {
    /// A stream's batches are all of one shape.
    fn append(&mut self, more: Self) {
        match (self, more) {
            (Self::Texts(texts), Self::Texts(more)) => texts.extend(more),
            (Self::Chunks(chunks), Self::Chunks(more)) => chunks.extend(more),
            (Self::Texts(_), Self::Chunks(_)) | (Self::Chunks(_), Self::Texts(_)) => {}
        }
    }
}

/// A stream that is opened when it is first asked for something. Dropping it closes the request.
pub struct ReadAhead {
    reading: Mutex<Reading>,
    /// Whoever asks for the next batch waits here for its turn.
    incoming: tokio::sync::Mutex<Incoming>,
    /// Batches that were handed over and reached nobody: they come first the next time.
    returned: Mutex<VecDeque<Items>>,
    summary: Mutex<Summary>,
}

type Opening = Pin<Box<dyn Future<Output = Result<ChatStream, Error>> + Send>>;

enum Reading {
    NotYet(Option<(Opening, mpsc::Sender<Message>)>),
    Task(#[expect(dead_code, reason = "held for its Drop")] AbortOnDrop),
    Closed,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Incoming {
    messages: mpsc::Receiver<Message>,
    /// The last message, when the items before it were handed over first.
    last: Option<Message>,
    /// Whether the last message has been taken.
    over: bool,
}

impl Incoming {
    /// Adds the batches that have come already. Returns what is known of the stream by the last of them.
    fn take_what_is_there(&mut self, batch: &mut Items) -> Option<Summary> {
        let mut latest = None;
        while let Ok(message) = self.messages.try_recv() {
            match message.items {
                Ok(Some(more)) => {
                    batch.append(more);
                    latest = Some(message.summary);
                }
                _ => self.last = Some(message),
            }
        }
        latest
    }
}

/// A batch, or None at the end, and what is known of the stream by then.
struct Message {
    items: Result<Option<Items>, Error>,
    summary: Summary,
}

impl ReadAhead {
    /// A stream that `opening` opens.
    pub fn new(opening: impl Future<Output = Result<ChatStream, Error>> + Send + 'static) -> Self {
        let (sender, messages) = mpsc::channel(BATCHES_AHEAD);
        Self {
            reading: Mutex::new(Reading::NotYet(Some((Box::pin(opening), sender)))),
            incoming: tokio::sync::Mutex::new(Incoming {
                messages,
                last: None,
                over: false,
            }),
            returned: Mutex::default(),
            summary: Mutex::default(),
        }
    }

    /// Whether the request has been made, or never will be.
    pub fn is_started(&self) -> bool {
        !matches!(*self.reading(), Reading::NotYet(_))
    }

    /// Makes the request, unless that was done. Needs an ambient tokio runtime.
    pub fn start(&self, shape: Shape) {
        let mut reading = self.reading();
        if let Reading::NotYet(prepared) = &mut *reading
            && let Some((opening, batches)) = prepared.take()
        {
            *reading = Reading::Task(AbortOnDrop(tokio::spawn(read(opening, shape, batches))));
        }
    }

    /// The next batch, or `None` after the last. The stream has to be [started](Self::start).
    ///
    /// # Errors
    /// As [`ChatStream::next_batch`]; once. After it the stream is over.
    pub async fn next(&self) -> Result<Option<Items>, Error> {
        let mut incoming = self.incoming.lock().await;
        if self.is_closed() {
            return Ok(None);
        }
        if let Some(items) = self.returned().pop_front() {
            return Ok(Some(items));
        }
        if incoming.over {
            return Ok(None);
        }
        let message = match incoming.last.take() {
            Some(last) => Some(last),
            None => incoming.messages.recv().await,
        };
        if self.is_closed() {
            return Ok(None);
        }
        let Some(Message {
            mut items,
            mut summary,
        }) = message
        else {
            incoming.over = true;
            return Err(Error::Closed("the stream"));
        };
        if let Ok(Some(batch)) = &mut items {
            summary = incoming.take_what_is_there(batch).unwrap_or(summary);
        }
        incoming.over = !matches!(items, Ok(Some(_)));
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
        items
    }

    /// Takes back a batch that reached nobody.
    pub fn give_back(&self, items: Items) {
        self.returned().push_front(items);
    }

    /// Closes the request. Whoever waits for a batch gets none.
    pub fn close(&self) {
        *self.reading() = Reading::Closed;
    }

    /// What is known of the stream, by what has been taken of it.
    pub fn summary(&self) -> Summary {
        self.summary
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn is_closed(&self) -> bool {
        matches!(*self.reading(), Reading::Closed)
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn returned(&self) -> MutexGuard<'_, VecDeque<Items>> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the task does. It ends when nobody listens any more.
async fn read(opening: Opening, shape: Shape, batches: mpsc::Sender<Message>) {
    let mut stream = match opening.await {
        Ok(stream) => stream,
        Err(error) => {
            let failed = Message {
                items: Err(error),
                summary: Summary::default(),
            };
            let _ = batches.send(failed).await;
            return;
        }
    };
    while let Ok(place) = batches.reserve().await {
        let items = match shape {
            Shape::Texts => stream.next_texts().await.map(|texts| texts.map(Items::Texts)),
            Shape::Chunks => stream.next_batch().await.map(|chunks| chunks.map(Items::Chunks)),
        };
        let over = !matches!(items, Ok(Some(_)));
        place.send(Message {
            items,
            summary: stream.summary().clone(),
        });
        if over {
            return;
        }
    }
}
