//! A streamed answer: chunks as the server sends them.
//!
//! The connection is read only while someone waits for the next batch, so a slow reader slows the server down through TCP, and memory
//! stays bounded. A stream ends well with `[DONE]`, or in order between two events after every choice's `finish_reason`; any other end
//! is an error, told after the items that came.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::call::{Call, failure_outcome};
use super::chunks::{ChunkReader, Summary};
use super::count::Count;
use super::error::{Error, TimeoutKind};
use super::exchange::{Opened, next_part};
use super::health::{CallOutcome, Permit};
use super::items::{Batch, Shape};
use super::limit::Limit;
use super::options::CallOptions;
use super::transport::Transport;

/// How long a finished stream's connection may take to end, to be used again.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// An answer under way. Dropping it closes the request.
pub struct ChatStream {
    transport: Arc<Transport>,
    options: CallOptions,
    count: Option<Count>,
    permit: Option<Permit>,
    connection: Option<(Response, OwnedSemaphorePermit)>,
    reader: ChunkReader,
    start: Instant,
    deadline: Option<Limit>,
    /// Since when the next event is waited for: at first since the try began, later since someone asked for it.
    waiting_since: Option<Instant>,
    /// A failure, to be told after the items that came with it.
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
            options: call.options,
            count: Some(count),
            permit,
            connection: Some((opened.response, opened.turn)),
            start,
            deadline,
            waiting_since: Some(opened.start),
            failure: None,
        }
    }

    /// The next items, at least one, or `None` after the last.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Connection`] if it broke or ended too early, [`Error::InvalidResponse`], [`Error::Reported`];
    /// once. After it the stream is over.
    pub async fn next_batch(&mut self, shape: Shape) -> Result<Option<Batch>, Error> {
        let mut batch = Batch::new(shape);
        while batch.is_empty() {
            if let Some(error) = self.failure.take() {
                return Err(error);
            }
            if self.connection.is_none() {
                return Ok(None);
            }
            self.read_one(&mut batch).await;
        }
        Ok(Some(batch))
    }

    /// What is known besides the text, so far.
    pub fn summary(&self) -> &Arc<Summary> {
        self.reader.summary()
    }

    /// Waits for the connection's next part, within the limits.
    async fn read_one(&mut self, batch: &mut Batch) {
        let Some((response, _)) = self.connection.as_mut() else {
            return;
        };
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let piece = Limit::after(since, self.options.timeout, TimeoutKind::Try);
        let limits = [self.deadline, piece];
        match next_part(response, &self.transport, &self.options, limits).await {
            Ok(Some(bytes)) => self.feed(&bytes, batch),
            Ok(None) => self.finish(None),
            Err(error) => self.finish(Some(error)),
        }
    }

    fn feed(&mut self, bytes: &[u8], batch: &mut Batch) {
        let before = batch.bytes;
        let fed = self.reader.feed(bytes, batch);
        if batch.bytes > before {
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
