//! A streamed answer: chunks as the server sends them.
//!
//! The connection is read only while someone waits for the next batch, so a slow reader slows the server down through TCP, and memory
//! stays bounded. A stream ends well with `[DONE]`, or in order between two events after every choice's `finish_reason`; any other end
//! is an error, told after the items that came.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::asides::Asides;
use super::attempt::Opened;
use super::body::Body;
use super::chunks::{ChunkReader, Summary};
use super::error::{Error, TimeoutKind};
use super::items::{Batch, Shape};
use super::limit::Limit;
use super::options::CallOptions;
use super::under_way::UnderWay;

/// An answer under way. Dropping it closes the request.
pub struct ChatStream {
    /// Both are taken at the stream's end: it is counted once, and its connection serves other calls from then on.
    open: Option<(Body, UnderWay)>,
    reader: ChunkReader,
    /// The longest wait for the first event, and for each after it.
    timeout: Option<Duration>,
    /// When the wait for the next event began: first with the try, later when a caller asked for the
    /// event. The time that a caller spends with its own work is not the server's.
    waiting_since: Option<Instant>,
    /// Whether something came since then that was no event: comments, blank lines.
    keeps_alive: bool,
    /// A failure that is returned after the items that came before it.
    failure: Option<Error>,
}

impl ChatStream {
    pub(super) fn new(opened: Opened, options: &CallOptions, under_way: UnderWay) -> Self {
        Self {
            reader: ChunkReader::new(opened.status.as_u16(), options.max_body_bytes, opened.received),
            open: Some((opened.body, under_way)),
            timeout: options.timeout,
            waiting_since: Some(opened.start),
            keeps_alive: false,
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
            let Some((body, _)) = &mut self.open else {
                return Ok(None);
            };
            let since = *self.waiting_since.get_or_insert_with(Instant::now);
            let limit = Limit::after(since, self.timeout, TimeoutKind::Try);
            match body.chunk(limit).await {
                Ok(Some(bytes)) => self.feed(&bytes, &mut batch),
                Ok(None) => self.finish(None),
                // A connection that breaks after `finish_reason` may have brought all there is.
                Err(error) if self.keeps_alive => self.finish(Some(error.amid_keep_alives())),
                Err(error) => self.finish(Some(error)),
            }
        }
        Ok(Some(batch))
    }

    /// What the model thought, and the tools that it wants called, so far.
    pub fn asides(&self) -> Arc<Mutex<Asides>> {
        Arc::clone(self.reader.asides())
    }

    /// What is known besides the text, so far.
    pub fn summary(&self) -> &Arc<Summary> {
        self.reader.summary()
    }

    fn feed(&mut self, bytes: &[u8], batch: &mut Batch) {
        let before = batch.bytes;
        let fed = self.reader.feed(bytes, batch);
        // Only whole events count: a server that sends comments to keep the connection open (`:`)
        // has not answered.
        let has_event = batch.bytes > before;
        self.keeps_alive = !has_event && !self.reader.is_amid_event();
        if has_event {
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

    fn settle(&mut self, end: Result<(), Error>) {
        let Some((body, under_way)) = self.open.take() else {
            return;
        };
        match end {
            Ok(()) => {
                under_way.succeeded(self.reader.summary().usage.unwrap_or_default());
                body.drain();
            }
            Err(error) => self.failure = Some(under_way.failed(error)),
        }
    }
}
