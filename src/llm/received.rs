//! What the headers of a good answer say that callers want to know.

use reqwest::header::HeaderMap;

/// The server's name of the request, and how much of its limits is left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// The header `x-request-id`.
    pub request_id: Option<String>,
    /// The headers `x-ratelimit-…` and `ratelimit…`, in the server's order.
    pub rate_limits: Vec<(String, String)>,
}

impl Received {
    /// Only these are kept: a stream keeps them to its end, and other headers may be long.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut received = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            if name == "x-request-id" {
                received.request_id = value.to_str().ok().map(str::to_owned);
            } else if name.starts_with("x-ratelimit-") || name.starts_with("ratelimit") {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                received.rate_limits.push((name.to_owned(), value));
            }
        }
        received
    }
}
