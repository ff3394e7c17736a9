//! What can go wrong in a call, in the terms a caller can act on.
//!
//! Every variant has one exception class on the Python side. No text here ever holds an API key: details of connection
//! failures are taken from the operating system's error, never from a URL.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{StatusCode, Url};
use serde_json::Value;

use super::json;
use super::reported::complaint;

/// The largest number of bytes read from the body of an error. A body within this limit is parsed
/// as JSON; the beginning of a longer body is kept as text.
pub const LONGEST_ERROR_BODY: usize = 1 << 20;

/// Which limit ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutKind {
    /// The connection was not made in time.
    #[error("connect timeout")]
    Connect,
    /// The limit of one try, from its start to its end (for a stream: the first event, or the gap
    /// between two events).
    #[error("timeout")]
    Try,
    /// The first byte of the answer did not come in time.
    #[error("first byte timeout")]
    FirstByte,
    /// Two parts of the answer lay too far apart.
    #[error("idle timeout")]
    Idle,
    /// The whole call, with its retries and waits.
    #[error("deadline")]
    Deadline,
}

/// An answer with a status other than 2xx.
#[derive(Debug, Clone)]
pub struct StatusError {
    pub status: u16,
    /// `Error code: 500`, and the server's own message where it sent one.
    pub message: String,
    /// The `x-request-id` header.
    pub request_id: Option<String>,
    /// The JSON body's `error` member, or the whole JSON body, or the text as a JSON string.
    pub body: Value,
    /// The body as it was sent; only its beginning if it was very long.
    pub text: String,
    pub headers: HeaderMap,
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An argument that no request can be made of.
    #[error("{argument}: {message}")]
    InvalidArgument {
        /// The argument's name, with the path inside it: `extra_headers['X-A']`.
        argument: String,
        message: String,
    },
    /// A limit ran out.
    #[error("Request timed out. ({kind} of {} s{})", limit.as_secs_f64(), keep_alives(*amid_keep_alives))]
    Timeout {
        kind: TimeoutKind,
        limit: Duration,
        /// Whether the server sent something, but nothing of an answer, while the limit ran.
        amid_keep_alives: bool,
    },
    /// The server could not be reached, or the connection broke.
    #[error("Connection error. ({detail})")]
    Connection {
        /// The innermost reason.
        detail: String,
        /// The operating system's error number, where there is one.
        os_error: Option<i32>,
    },
    /// The server answered with an error status.
    #[error("{}", .0.message)]
    Status(Box<StatusError>),
    /// The server answered 2xx with something that is not a chat completion.
    #[error("Data returned by API invalid for expected schema. ({message})")]
    InvalidResponse {
        message: String,
        status: u16,
        /// The beginning of the body, as text.
        body: String,
    },
    /// The server reported an error inside a 2xx answer (in the middle of a stream).
    #[error("{message}")]
    Reported { message: String, body: Value },
    /// The endpoint's circuit is open: no request was made.
    #[error("Circuit breaker is OPEN for {endpoint}. Service appears to be unavailable.")]
    CircuitOpen {
        /// The endpoint, without user, password and query.
        endpoint: String,
    },
    /// A wait for a stream was cut short, or an exception left its loop, and nobody continued the
    /// iteration within the grace period, so the request was closed.
    #[error(
        "a wait for the stream was cut short (by a cancellation or a time limit), or an exception left its loop, and nothing \
         continued the iteration within {} s: the request was closed, and the rest of the answer is lost",
        .0.as_secs_f64()
    )]
    Abandoned(Duration),
    /// The client, or the stream, was closed.
    #[error("{0} is closed")]
    Closed(&'static str),
}

impl Error {
    pub fn invalid(argument: impl Into<String>, message: impl Into<String>) -> Self {
        Self::InvalidArgument {
            argument: argument.into(),
            message: message.into(),
        }
    }

    /// A 2xx answer whose body is not what was asked for.
    pub(super) fn invalid_response(message: impl Into<String>, status: u16, body: &[u8]) -> Self {
        Self::InvalidResponse {
            message: message.into(),
            status,
            body: excerpt(body),
        }
    }

    pub fn circuit_open(endpoint: &str) -> Self {
        Self::CircuitOpen {
            endpoint: without_secrets(endpoint),
        }
    }

    /// The transport's error in our terms. `connect_timeout` is what the transport was built with.
    pub(super) fn from_transport(error: reqwest::Error, connect_timeout: Duration) -> Self {
        let address = error.url().map(address);
        // The URL may hold a key in its query.
        let error = error.without_url();
        if error.is_timeout() && error.is_connect() {
            return Self::Timeout {
                kind: TimeoutKind::Connect,
                limit: connect_timeout,
                amid_keep_alives: false,
            };
        }
        let mut innermost: &dyn StdError = &error;
        let mut os_error = None;
        while let Some(source) = innermost.source() {
            innermost = source;
            if let Some(io_error) = innermost.downcast_ref::<io::Error>() {
                os_error = io_error.raw_os_error().or(os_error);
            }
        }
        let mut detail = innermost.to_string();
        if detail.contains("InvalidContentType") {
            detail.push_str(": the server does not speak TLS; does its URL begin with http://?");
        }
        if let Some(address) = address {
            detail = format!("{address}: {detail}");
        }
        Self::Connection { detail, os_error }
    }

    /// The same, of a call whose server kept the connection alive without answering.
    #[must_use]
    pub(super) fn amid_keep_alives(mut self) -> Self {
        if let Self::Timeout { amid_keep_alives, .. } = &mut self {
            *amid_keep_alives = true;
        }
        self
    }

    /// The error that an answer with a status other than 2xx is.
    pub fn from_status(status: StatusCode, headers: HeaderMap, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(beginning(body, LONGEST_ERROR_BODY));
        let text = text.trim();
        let sent = text.to_owned();
        // A parsed tree can need a hundred times the memory of its JSON text.
        let is_cut = body.len() > LONGEST_ERROR_BODY;
        let parsed = (!is_cut).then(|| json::parse(text.as_bytes()).ok()).flatten();
        let mut body = parsed.unwrap_or_else(|| Value::from(text));
        let mut message = format!("Error code: {}", status.as_u16());
        let words = match &body {
            Value::String(_) if is_cut => None,
            Value::String(text) => plain_words(text),
            body => complaint(body),
        };
        if let Some(words) = words {
            message = format!("{message} - {words}");
        } else if status.is_redirection() && headers.contains_key(LOCATION) {
            message = format!("{message} - a redirect is followed within the server only, ten times at most");
        }
        let error = body.get_mut("error").map(Value::take);
        let request_id = headers
            .get("x-request-id")
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        Self::Status(Box::new(StatusError {
            status: status.as_u16(),
            message,
            request_id,
            body: error.unwrap_or(body),
            text: sent,
            headers,
        }))
    }

    /// Whether this says nothing against the endpoint: it is the caller's mistake, or an answer came
    /// and was only odd.
    pub fn spares_the_endpoint(&self) -> bool {
        match self {
            Self::Status(error) => {
                (400..500).contains(&error.status) && ![408, 409, 429].contains(&error.status)
            }
            Self::InvalidArgument { .. }
            | Self::InvalidResponse { .. }
            | Self::Abandoned(_)
            | Self::Closed(_) => true,
            _ => false,
        }
    }

    /// A short, stable name of the kind, for counters and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidArgument { .. } => "invalid_argument",
            Self::Timeout { .. } => "timeout",
            Self::Connection { .. } => "connection",
            Self::Status(_) => "status",
            Self::InvalidResponse { .. } => "invalid_response",
            Self::Reported { .. } => "reported",
            Self::CircuitOpen { .. } => "circuit_open",
            Self::Abandoned(_) | Self::Closed(_) => "closed",
        }
    }
}

/// The beginning of a body that could not be understood, for the error that says so.
pub(super) fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(beginning(body, 2000)).into_owned()
}

/// What a body that is no JSON says: a short text, or the title of a page of HTML.
fn plain_words(text: &str) -> Option<String> {
    /// A longer text says more than a message can hold; it is in the error's body.
    const LONGEST: usize = 300;
    let lower = text.to_ascii_lowercase();
    let words = if lower.starts_with('<') {
        let begin = lower.find("<title>")? + "<title>".len();
        let end = lower.get(begin..)?.find("</title>")? + begin;
        text.get(begin..end)?
    } else {
        text
    };
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    (!words.is_empty() && words.len() <= LONGEST).then_some(words)
}

/// Scheme, host and port.
fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{host}{port}", url.scheme())
}

fn keep_alives(seen: bool) -> &'static str {
    if seen {
        ", during which the server sent keep-alives: it is at work, and needs more time"
    } else {
        ""
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

fn beginning(body: &[u8], longest: usize) -> &[u8] {
    body.get(..longest).unwrap_or(body)
}
