//! A streamed answer: chunks as the server sends them.
//!
//! The connection is read only while someone waits for the next batch, so a slow reader slows the server down through TCP, and memory
//! stays bounded. What has come in meanwhile is handed over together. A stream ends well with `[DONE]` or
//! after every choice's `finish_reason`; any other end is an error, told after the chunks that came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::call::{Call, failure_outcome};
use super::chunks::{Chunk, ChunkReader, Summary, text};
use super::count::Count;
use super::endpoint::ChatRequest;
use super::error::{Error, TimeoutKind};
use super::exchange::{Exchange, Opened};
use super::health::{CallOutcome, Permit};
use super::limit::Limit;
use super::options::CallOptions;
use super::transport::Transport;

/// Bytes that one batch takes from the connection, give or take a part.
const BATCH_BYTES: usize = 256 * 1024;
/// How often the connection's own task gets its turn to hand over what it has: it does so part by part, and only when asked.
const TURNS: u32 = 2;
/// How long a finished stream's connection may take to end, to be used again.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// An answer under way. Dropping it closes the request.
pub struct ChatStream {
    transport: Arc<Transport>,
    request: ChatRequest,
    options: CallOptions,
    count: Option<Count>,
    permit: Option<Permit>,
    connection: Option<(Response, OwnedSemaphorePermit)>,
    reader: ChunkReader,
    start: Instant,
    deadline: Option<Limit>,
    /// Since when the next chunk is waited for: at first since the try began, later since someone asked for it.
    waiting_since: Option<Instant>,
    ready: VecDeque<Chunk>,
    /// A failure, to be told after the ready chunks.
    failure: Option<Error>,
}

impl ChatStream {
    pub(super) fn new(
        call: Call,
        opened: Opened,
        permit: Option<Permit>,
        count: Count,
        start: Instant,
        deadline: Option<Limit>,
    ) -> Self {
        Self {
            reader: ChunkReader::new(opened.response.status().as_u16(), call.options.max_body_bytes),
            transport: call.transport,
            request: call.request,
            options: call.options,
            count: Some(count),
            permit,
            connection: Some((opened.response, opened.turn)),
            start,
            deadline,
            waiting_since: Some(opened.start),
            ready: VecDeque::new(),
            failure: None,
        }
    }

    /// The next chunks, at least one, or `None` after the last.
    ///
    /// Dropping the future loses nothing: what it had read is in the next batch.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Connection`] if it broke or ended too early, [`Error::InvalidResponse`], [`Error::Reported`];
    /// once. After it the stream is over.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<Chunk>>, Error> {
        while self.ready.is_empty() {
            if let Some(error) = self.failure.take() {
                return Err(error);
            }
            if self.connection.is_none() {
                return Ok(None);
            }
            self.read_one().await;
        }
        self.read_what_is_there().await;
        Ok(Some(self.ready.drain(..).collect()))
    }

    /// The next pieces of the first choice's text, at least one, or `None` after the last.
    ///
    /// # Errors
    /// As [`next_batch`](Self::next_batch).
    pub async fn next_texts(&mut self) -> Result<Option<Vec<String>>, Error> {
        while let Some(chunks) = self.next_batch().await? {
            let texts: Vec<String> = chunks.iter().filter_map(text).map(str::to_owned).collect();
            if !texts.is_empty() {
                return Ok(Some(texts));
            }
        }
        Ok(None)
    }

    /// What is known besides the text, so far.
    pub fn summary(&self) -> &Summary {
        self.reader.summary()
    }

    /// Waits for the connection's next part, within the limits.
    async fn read_one(&mut self) {
        let Some((response, _)) = self.connection.as_mut() else {
            return;
        };
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let piece = Limit::after(since, self.options.timeout, TimeoutKind::Try);
        let exchange = Exchange {
            transport: &self.transport,
            request: &self.request,
            options: &self.options,
            deadline: self.deadline,
        };
        match exchange.chunk(response, [self.deadline, piece]).await {
            Ok(Some(bytes)) => self.feed(&bytes),
            Ok(None) => self.finish(None),
            Err(error) => self.finish(Some(error)),
        }
    }

    /// Takes what has come in already, without waiting for more.
    async fn read_what_is_there(&mut self) {
        let mut taken = 0;
        let mut turns_given = 0;
        while taken < BATCH_BYTES
            && let Some((response, _)) = self.connection.as_mut()
        {
            let Some(part) = response.chunk().now_or_never() else {
                if turns_given == TURNS {
                    return;
                }
                turns_given += 1;
                tokio::task::yield_now().await;
                continue;
            };
            turns_given = 0;
            match part {
                Ok(Some(bytes)) => {
                    taken += bytes.len();
                    self.feed(&bytes);
                }
                Ok(None) => self.finish(None),
                Err(error) => {
                    let limit = self.transport.settings.connect_timeout;
                    self.finish(Some(Error::from_transport(&error.without_url(), limit)));
                }
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let before = self.ready.len();
        let fed = self.reader.feed(bytes, &mut self.ready);
        if self.ready.len() > before {
            self.waiting_since = None;
        }
        match fed {
            Err(error) => self.settle(Err(error)),
            Ok(()) if self.reader.is_done() => self.finish(None),
            Ok(()) => {}
        }
    }

    fn finish(&mut self, broken: Option<Error>) {
        let end = self.reader.end(broken);
        self.settle(end);
    }

    /// Ends the stream: once, since the connection is taken.
    fn settle(&mut self, end: Result<(), Error>) {
        let Some((response, turn)) = self.connection.take() else {
            return;
        };
        let response_time = self.start.elapsed();
        if let Some(count) = self.count.take() {
            match &end {
                Ok(()) => count.succeeded(response_time, self.reader.summary().usage.unwrap_or_default()),
                Err(error) => count.failed(error.kind()),
            }
        }
        let outcome = match &end {
            Ok(()) => {
                drain(response, turn);
                CallOutcome::Success(response_time.as_secs_f64() * 1000.0)
            }
            Err(error) => failure_outcome(error),
        };
        if let Some(permit) = self.permit.take() {
            permit.settle(outcome);
        }
        self.failure = end.err();
    }
}

/// Reads the few bytes that may follow `[DONE]`, so that the connection can serve the next call.
fn drain(mut response: Response, turn: OwnedSemaphorePermit) {
    if matches!(response.chunk().now_or_never(), Some(Ok(None) | Err(_))) {
        return;
    }
    tokio::spawn(async move {
        let _ = tokio::time::timeout(DRAIN_TIME, async {
            while let Ok(Some(_)) = response.chunk().await {}
        })
        .await;
        drop(turn);
    });
}
