//! One try of a call: sends the request and receives the head of the answer, each phase within its limit.

use std::time::SystemTime;

use bytes::Bytes;
use reqwest::{Method, Request, StatusCode};
use tokio::time::Instant;

use super::answer::Answer;
use super::body::Body;
use super::content_coding::Decoder;
use super::endpoint::HttpRequest;
use super::error::{Error, LONGEST_ERROR_BODY, TimeoutKind};
use super::limit::{Limit, within};
use super::options::CallOptions;
use super::received::Received;
use super::retry::RetryHint;
use super::transport::Transport;

/// Why a try failed, and whether another is worth it.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    pub hint: RetryHint,
}

/// A failure without an answer: worth another try, unless the whole call's time is over.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match error {
            Error::Timeout {
                kind: TimeoutKind::Deadline,
                ..
            } => RetryHint::FINAL,
            _ => RetryHint::NO_ANSWER,
        };
        Self { error, hint }
    }
}

/// A 2xx answer whose body has not been read.
pub(super) struct Opened {
    pub status: StatusCode,
    pub received: Received,
    pub body: Body,
    /// When the try began: the wait for a stream's first event counts from here.
    pub start: Instant,
    pub try_limit: Option<Limit>,
}

/// Sends the request once. An answer with another status than 2xx is read to its end and becomes a [`Failure`].
pub(super) async fn open(
    transport: &Transport,
    request: &HttpRequest,
    options: &CallOptions,
    deadline: Option<Limit>,
) -> Result<Opened, Failure> {
    let turn = within(&[deadline], transport.turn()).await??;
    // The try begins when it has its turn: under load, the wait in line is not the server's fault.
    let start = Instant::now();
    let try_limit = Limit::after(start, options.timeout, TimeoutKind::Try);
    // It covers the connection as well: to a caller it is the same whether the server is slow to accept or slow to answer.
    let first_byte = Limit::after(start, options.first_byte_timeout, TimeoutKind::FirstByte);
    let connect_timeout = transport.settings.connect_timeout;
    let mut response = within(
        &[deadline, try_limit, first_byte],
        transport.client.execute(http_request(request)),
    )
    .await?
    .map_err(|error| Error::from_transport(error, connect_timeout))?;
    let status = response.status();
    // A stream would keep them to its end.
    let headers = std::mem::take(response.headers_mut());
    let (decoder, unknown_coding) = match Decoder::of(&headers) {
        Ok(decoder) => (decoder.map(Box::new), None),
        Err(coding) => (None, Some(coding)),
    };
    let mut body = Body {
        response,
        turn,
        deadline,
        idle_timeout: options.idle_timeout,
        connect_timeout,
        decoder,
    };
    if status.is_success() {
        if let Some(coding) = unknown_coding {
            let message = format!("the body is encoded as {coding:?}, which nobody asked for");
            return Err(Failure {
                error: Error::invalid_response(message, status.as_u16(), b""),
                hint: RetryHint::FINAL,
            });
        }
        return Ok(Opened {
            status,
            received: Received::from_headers(&headers),
            body,
            start,
            try_limit,
        });
    }
    // Before the body is read, which may take long: a date in `Retry-After` counts from the head.
    let hint = options.retry.hint(status, &headers, SystemTime::now());
    let text = body.read_all(try_limit, LONGEST_ERROR_BODY).await?;
    Err(Failure {
        error: Error::from_status(status, headers, &text),
        hint,
    })
}

impl Opened {
    /// Reads the whole answer. A body that breaks off is worth another try; one that is too long would be so again.
    pub async fn answer(mut self, longest: usize) -> Result<Answer, Failure> {
        let body = self.body.read_all(self.try_limit, longest).await?;
        if body.len() > longest {
            let message = format!("the body is longer than {longest} bytes");
            return Err(Failure {
                error: Error::invalid_response(message, self.status.as_u16(), &body),
                hint: RetryHint::FINAL,
            });
        }
        Ok(Answer {
            status: self.status,
            received: self.received,
            body,
        })
    }
}

/// A retry sends the same bytes again: a clone of [`Bytes`] is a reference, so no try copies the prompt.
fn http_request(prepared: &HttpRequest) -> Request {
    let mut request = Request::new(Method::POST, prepared.url.clone());
    *request.headers_mut() = prepared.headers.clone();
    *request.body_mut() = Some(Bytes::clone(&prepared.body).into());
    request
}
