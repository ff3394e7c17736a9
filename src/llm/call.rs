//! One policy for every call, wired once: deadline, then breaker, then retries.
//!
//! A call's future owns all that it uses. Dropping it at any await closes the connection under way, gives back the place
//! among the connections, and gives back a half-open circuit's probe.

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderName;
use tokio::time::Instant;

use super::answer::{Answer, Used};
use super::attempt::{self, Failure, Opened};
use super::endpoint::HttpRequest;
use super::error::{Error, TimeoutKind};
use super::health::{Permit, SharedHealth};
use super::limit::{Limit, within};
use super::options::CallOptions;
use super::stream::ChatStream;
use super::transport::Transport;
use super::under_way::UnderWay;
use crate::figures::{CountedCall, Metrics, Totals};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A call that can be made once.
pub struct Call {
    pub transport: Arc<Transport>,
    pub request: HttpRequest,
    pub options: CallOptions,
    /// The endpoint's circuit, if it has one.
    pub health: Option<SharedHealth>,
    /// Where its service counts it.
    pub metrics: Arc<Metrics>,
    /// Where its process counts it.
    pub totals: Arc<Totals>,
    /// A wait before the request; it counts against the deadline, not in the response time.
    pub delay: Duration,
}

/// A result and how long it took.
#[derive(Debug)]
pub struct Timed<T> {
    pub value: T,
    /// From the request (the first try's) to the whole answer.
    pub response_time: Duration,
}

impl Call {
    /// Makes the call and reads its answer with `read`.
    ///
    /// # Errors
    /// Every kind of [`Error`] that is not about a stream.
    pub async fn complete<T: Used + Send + 'static>(
        mut self,
        read: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Result<Timed<T>, Error> {
        let mut under_way = self.begin();
        let deadline = self.deadline();
        let longest = self.options.max_body_bytes;
        let answer = self
            .send(&mut under_way, deadline, |opened| opened.answer(longest))
            .await;
        let value = match answer {
            // Within the deadline too: a large answer can take seconds to parse.
            Ok(answer) => within(&[deadline], parse(answer, read))
                .await
                .and_then(|parsed| parsed),
            Err(error) => Err(error),
        };
        match value {
            Ok(value) => Ok(Timed {
                response_time: under_way.succeeded(value.usage()),
                value,
            }),
            Err(error) => Err(under_way.failed(error)),
        }
    }

    /// Opens a stream. A failure before the answer's head is retried as any call's; a later one is the stream's, since its caller
    /// may have seen a part of the answer, which another try would repeat.
    ///
    /// # Errors
    /// Every kind of [`Error`] that can come before the answer's head.
    pub async fn stream(mut self) -> Result<ChatStream, Error> {
        let mut under_way = self.begin();
        let deadline = self.deadline();
        match self
            .send(&mut under_way, deadline, |opened| ready(Ok(opened)))
            .await
        {
            Ok(opened) => Ok(ChatStream::new(opened, &self.options, under_way)),
            Err(error) => Err(under_way.failed(error)),
        }
    }

    fn begin(&self) -> UnderWay {
        let model = self.totals.model(&self.request.model);
        UnderWay::new(CountedCall::begin(Arc::clone(&self.metrics), model))
    }

    fn deadline(&self) -> Option<Limit> {
        Limit::after(Instant::now(), self.options.deadline, TimeoutKind::Deadline)
    }

    async fn send<T, Reading>(
        &mut self,
        under_way: &mut UnderWay,
        deadline: Option<Limit>,
        read: impl Fn(Opened) -> Reading,
    ) -> Result<T, Error>
    where
        Reading: Future<Output = Result<T, Failure>>,
    {
        self.add_idempotency_key()?;
        under_way.admitted(self.admission(deadline).await?);
        self.retry(under_way, deadline, read).await
    }

    /// Waits the call's delay and asks the circuit for leave to make it.
    async fn admission(&self, deadline: Option<Limit>) -> Result<Option<Permit>, Error> {
        if !self.delay.is_zero() {
            // An open circuit is reported now, not after the delay. The permit is taken after it: a
            // half-open circuit has one probe's place, which nobody should hold while he sleeps.
            if let Some(health) = &self.health {
                health.refuse_if_open()?;
            }
            within(&[deadline], tokio::time::sleep(self.delay)).await?;
        }
        self.health.as_ref().map(SharedHealth::admit).transpose()
    }

    fn add_idempotency_key(&mut self) -> Result<(), Error> {
        if let Some(key) = self.options.idempotency_key.header()? {
            self.request.headers.entry(IDEMPOTENCY_KEY).or_insert(key);
        }
        Ok(())
    }

    /// Tries until a try succeeds, its failure is final, or no time is left for another.
    async fn retry<T, Reading>(
        &self,
        under_way: &UnderWay,
        deadline: Option<Limit>,
        read: impl Fn(Opened) -> Reading,
    ) -> Result<T, Error>
    where
        Reading: Future<Output = Result<T, Failure>>,
    {
        let policy = &self.options.retry;
        let mut retries_taken = 0;
        loop {
            let tried = async {
                let opened = attempt::open(&self.transport, &self.request, &self.options, deadline).await?;
                // As a part of the try: a body that breaks off is tried again.
                read(opened).await
            };
            let failure = match tried.await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if !failure.hint.retryable || retries_taken >= policy.max_retries {
                return Err(failure.error);
            }
            let wait = policy.wait(retries_taken, failure.hint.retry_after, rand::random());
            // A wait that outlasts the deadline would only hide the failure behind a timeout.
            if let Some(deadline) = deadline
                && Instant::now()
                    .checked_add(wait)
                    .is_none_or(|next| next >= deadline.at)
            {
                return Err(failure.error);
            }
            tokio::time::sleep(wait).await;
            retries_taken += 1;
            under_way.retried();
        }
    }
}

/// An answer of this many bytes takes about a millisecond to parse.
const LARGE_ANSWER: usize = 256 * 1024;

/// Reads an answer; a large one on a thread of its own, since every other call waits while a worker parses.
async fn parse<T: Send + 'static>(
    answer: Answer,
    read: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if answer.body.len() < LARGE_ANSWER {
        return read(answer);
    }
    match tokio::task::spawn_blocking(move || read(answer)).await {
        Ok(result) => result,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
