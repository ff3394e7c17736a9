//! One policy for every call, wired once: deadline, then breaker, then retries.
//!
//! A call's future owns all that it uses. Dropping it at any await closes the connection under way, gives back the place
//! among the connections, and gives back a half-open circuit's probe.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::answer::Used;
use super::count::Count;
use super::endpoint::ChatRequest;
use super::error::{Error, TimeoutKind};
use super::exchange::{Answer, Exchange, Failure};
use super::health::{CallOutcome, Permit, SharedHealth, now};
use super::limit::{Limit, within};
use super::metrics::Metrics;
use super::options::{CallOptions, IdempotencyKey};
use super::stream::ChatStream;
use super::totals::Totals;
use super::transport::Transport;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A call that can be made once.
pub struct Call {
    /// The way to the network.
    pub transport: Arc<Transport>,
    /// What is sent.
    pub request: ChatRequest,
    /// The limits.
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
    /// The result.
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
        let count = self.count();
        let deadline = self.deadline();
        let result = match self.prepare(deadline).await {
            Err(error) => Err(error),
            Ok(permit) => {
                let start = Instant::now();
                let answer = self
                    .retry(&count, deadline, |exchange| async move { exchange.run().await })
                    .await;
                let result = match answer {
                    Ok(answer) => within(&[deadline], parse(answer, read))
                        .await
                        .and_then(|parsed| parsed),
                    Err(error) => Err(error),
                };
                let result = result.map(|value| Timed {
                    value,
                    response_time: start.elapsed(),
                });
                if let Some(permit) = permit {
                    permit.settle(outcome(&result));
                }
                result
            }
        };
        match &result {
            Ok(timed) => count.succeeded(timed.response_time, timed.value.usage()),
            Err(error) => count.failed(error.kind()),
        }
        result
    }

    /// Opens a stream. What happens before its head is retried as any call; what happens after is told by the stream.
    ///
    /// # Errors
    /// Every kind of [`Error`] that can come before the answer's head.
    pub async fn stream(mut self) -> Result<ChatStream, Error> {
        let count = self.count();
        let deadline = self.deadline();
        let permit = match self.prepare(deadline).await {
            Ok(permit) => permit,
            Err(error) => {
                count.failed(error.kind());
                return Err(error);
            }
        };
        let start = Instant::now();
        match self
            .retry(&count, deadline, |exchange| async move { exchange.open().await })
            .await
        {
            Ok(opened) => Ok(ChatStream::new(self, opened, permit, count, start, deadline)),
            Err(error) => {
                if let Some(permit) = permit {
                    permit.settle(failure_outcome(&error));
                }
                count.failed(error.kind());
                Err(error)
            }
        }
    }

    fn count(&self) -> Count {
        let model = self.totals.model(&self.request.model);
        Count::begin(Arc::clone(&self.metrics), model)
    }

    fn deadline(&self) -> Option<Limit> {
        Limit::after(Instant::now(), self.options.deadline, TimeoutKind::Deadline)
    }

    /// The wait before the call, and the circuit's leave to make it.
    async fn prepare(&mut self, deadline: Option<Limit>) -> Result<Option<Permit>, Error> {
        self.add_idempotency_key()?;
        if !self.delay.is_zero() {
            if let Some(health) = &self.health
                && health.lock().would_refuse(now())
            {
                return Err(circuit_open(health));
            }
            within(&[deadline], tokio::time::sleep(self.delay)).await?;
        }
        match &self.health {
            None => Ok(None),
            Some(health) => health.admit().map(Some).ok_or_else(|| circuit_open(health)),
        }
    }

    fn add_idempotency_key(&mut self) -> Result<(), Error> {
        let key = match &self.options.idempotency_key {
            IdempotencyKey::Off => return Ok(()),
            IdempotencyKey::PerCall => uuid::Uuid::new_v4().to_string(),
            IdempotencyKey::Given(key) => key.clone(),
        };
        let value = HeaderValue::from_str(&key)
            .map_err(|_| Error::invalid("idempotency_key", "can't be sent in a header"))?;
        self.request.headers.entry(IDEMPOTENCY_KEY).or_insert(value);
        Ok(())
    }

    /// Tries until it succeeds, may not be tried again, or has no time left for another try.
    async fn retry<'call, T, Attempt>(
        &'call self,
        count: &Count,
        deadline: Option<Limit>,
        attempt: impl Fn(Exchange<'call>) -> Attempt,
    ) -> Result<T, Error>
    where
        Attempt: Future<Output = Result<T, Failure>>,
    {
        let policy = &self.options.retry;
        let mut retries_taken = 0;
        loop {
            let exchange = Exchange {
                transport: &self.transport,
                request: &self.request,
                options: &self.options,
                deadline,
            };
            let failure = match attempt(exchange).await {
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
            count.retried();
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

fn circuit_open(health: &SharedHealth) -> Error {
    Error::CircuitOpen {
        endpoint: without_secrets(&health.lock().endpoint),
    }
}

/// The endpoint without user, password and query, which may contain keys.
fn without_secrets(endpoint: &str) -> String {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    // A password may contain a character that ends the host, so everything before the last @ is cut.
    let shown = rest.rsplit_once('@').map_or(rest, |(_, shown)| shown);
    let shown = shown.split(['?', '#']).next().unwrap_or_default();
    if scheme.is_empty() {
        return shown.to_owned();
    }
    format!("{scheme}://{shown}")
}

fn outcome<T>(result: &Result<Timed<T>, Error>) -> CallOutcome {
    match result {
        Ok(timed) => CallOutcome::Success(timed.response_time.as_secs_f64() * 1000.0),
        Err(error) => failure_outcome(error),
    }
}

/// What a failed call says of its endpoint.
pub(super) fn failure_outcome(error: &Error) -> CallOutcome {
    if error.is_callers_mistake() {
        CallOutcome::Rejected
    } else {
        CallOutcome::Failure
    }
}
