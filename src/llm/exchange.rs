//! One try: a request goes out, an answer comes back, each phase within its limit.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use reqwest::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::endpoint::ChatRequest;
use super::error::{Error, StatusError, TimeoutKind};
use super::limit::{Limit, within};
use super::options::CallOptions;
use super::reported::words;
use super::retry::RetryHint;
use super::transport::Transport;

/// The largest number of bytes read from the body of an error. A body within this limit is parsed
/// as JSON; the beginning of a longer body is kept as text.
pub const LONGEST_ERROR_BODY: usize = 1 << 20;

/// Why a try failed, and whether another is worth it.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    pub hint: RetryHint,
}

impl Failure {
    /// For a failure without an answer: worth another try, unless the whole call's time is over.
    fn without_answer(error: Error) -> Self {
        let over = matches!(
            error,
            Error::Timeout {
                kind: TimeoutKind::Deadline,
                ..
            }
        );
        Self {
            error,
            hint: if over {
                RetryHint::FINAL
            } else {
                RetryHint::NO_ANSWER
            },
        }
    }

    fn last(error: Error) -> Self {
        Self {
            error,
            hint: RetryHint::FINAL,
        }
    }
}

/// What a try needs.
pub(super) struct Exchange<'call> {
    pub transport: &'call Arc<Transport>,
    pub request: &'call ChatRequest,
    pub options: &'call CallOptions,
    pub deadline: Option<Limit>,
}

/// A 2xx answer whose body has not been read.
pub(super) struct Opened {
    pub response: Response,
    /// The place among the limited connections, kept as long as the body is being read.
    pub turn: OwnedSemaphorePermit,
    pub try_limit: Option<Limit>,
    /// When the try began.
    pub start: Instant,
}

/// A 2xx answer.
pub struct Answer {
    /// The HTTP status code.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
}

impl Exchange<'_> {
    /// Sends the request and reads the whole answer.
    pub async fn run(&self) -> Result<Answer, Failure> {
        let mut opened = self.open().await?;
        let status = opened.response.status();
        let longest = self.options.max_body_bytes;
        let body = self
            .read_body(&mut opened.response, opened.try_limit, longest)
            .await?;
        if body.len() > longest {
            return Err(Failure::last(Error::InvalidResponse {
                message: format!("the body is longer than {longest} bytes"),
                status: status.as_u16(),
                body: excerpt(&body),
            }));
        }
        Ok(Answer { status, body })
    }

    /// Sends the request and reads the answer's head; an error status is read to its end and becomes a [`Failure`].
    pub async fn open(&self) -> Result<Opened, Failure> {
        let turn = within(&[self.deadline], self.transport.turn())
            .await
            .and_then(|turn| turn)
            .map_err(Failure::without_answer)?;
        let start = Instant::now();
        let try_limit = Limit::after(start, self.options.timeout, TimeoutKind::Try);
        let first_byte = Limit::after(start, self.options.first_byte_timeout, TimeoutKind::FirstByte);
        let mut response = within(
            &[self.deadline, try_limit, first_byte],
            self.transport.client.execute(self.to_be_sent()),
        )
        .await
        .and_then(|answer| answer.map_err(|error| transport_error(error, self.transport)))
        .map_err(Failure::without_answer)?;
        let status = response.status();
        if status.is_success() {
            return Ok(Opened {
                response,
                turn,
                try_limit,
                start,
            });
        }
        let hint = self
            .options
            .retry
            .hint(status, response.headers(), SystemTime::now());
        let headers = std::mem::take(response.headers_mut());
        let body = self
            .read_body(&mut response, try_limit, LONGEST_ERROR_BODY)
            .await?;
        Err(Failure {
            error: status_error(status, headers, &body),
            hint,
        })
    }

    fn to_be_sent(&self) -> Request {
        let mut request = Request::new(Method::POST, self.request.url.clone());
        *request.headers_mut() = self.request.headers.clone();
        *request.body_mut() = Some(self.request.body.clone().into());
        request
    }

    /// Reads the body, and stops once it has more than `longest` bytes.
    async fn read_body(
        &self,
        response: &mut Response,
        try_limit: Option<Limit>,
        longest: usize,
    ) -> Result<Bytes, Failure> {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        loop {
            let limits = [self.deadline, try_limit];
            let chunk = next_part(response, self.transport, self.options, limits)
                .await
                .map_err(Failure::without_answer)?;
            let Some(chunk) = chunk else { break };
            if first.is_empty() {
                first = chunk;
            } else {
                rest.extend_from_slice(&chunk);
            }
            if first.len() + rest.len() > longest {
                break;
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        // Nearly every body comes in one part; only longer ones are copied together.
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    }
}

/// Returns the next part of a body, or `None` at the end of the body.
pub(super) async fn next_part(
    response: &mut Response,
    transport: &Transport,
    options: &CallOptions,
    limits: [Option<Limit>; 2],
) -> Result<Option<Bytes>, Error> {
    let idle = Limit::after(Instant::now(), options.idle_timeout, TimeoutKind::Idle);
    within(&[limits[0], limits[1], idle], response.chunk())
        .await?
        .map_err(|error| transport_error(error, transport))
}

fn transport_error(error: reqwest::Error, transport: &Transport) -> Error {
    Error::from_transport(&error.without_url(), transport.settings.connect_timeout)
}

/// The beginning of a body that could not be understood, for the error that says so.
pub(super) fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(2000)]).into_owned()
}

/// The error that an answer with a status other than 2xx is.
pub fn status_error(status: StatusCode, headers: reqwest::header::HeaderMap, body: &[u8]) -> Error {
    let text = String::from_utf8_lossy(&body[..body.len().min(LONGEST_ERROR_BODY)]);
    let text = text.trim();
    // A parsed tree can need a hundred times the memory of its JSON text.
    let parsed = (body.len() <= LONGEST_ERROR_BODY)
        .then(|| serde_json::from_str::<Value>(text).ok())
        .flatten();
    let body = parsed.unwrap_or_else(|| Value::from(text));
    let mut message = format!("Error code: {}", status.as_u16());
    let detail = match &body {
        Value::Object(members) => Some(members.get("error").unwrap_or(&body)),
        _ => None,
    };
    if let Some(text) = detail.and_then(words) {
        message = format!("{message} - {text}");
    } else if status.is_redirection() {
        message = format!("{message} - a redirect to another origin is not followed");
    }
    let body = match body {
        Value::Object(mut members) if members.contains_key("error") => {
            members.remove("error").unwrap_or_default()
        }
        other => other,
    };
    let request_id = headers
        .get("x-request-id")
        .and_then(|id| id.to_str().ok())
        .map(str::to_owned);
    Error::Status(Box::new(StatusError {
        status: status.as_u16(),
        message,
        request_id,
        body,
        headers,
    }))
}
