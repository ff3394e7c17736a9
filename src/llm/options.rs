//! The limits of a call and how it is retried: plain values, made once per service and adjusted per call.

use std::time::Duration;

use reqwest::header::HeaderValue;

use super::error::Error;
use super::retry::RetryPolicy;

/// The `Idempotency-Key` header: by it a server can tell a retry from a new request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyKey {
    Off,
    /// A new one for each call, the same for all of the call's tries.
    PerCall,
    Given(HeaderValue),
}

impl IdempotencyKey {
    /// # Errors
    /// [`Error::InvalidArgument`] if no header can hold the key.
    pub fn given(key: &str) -> Result<Self, Error> {
        header_value(key).map(Self::Given)
    }

    /// The header of one call, the same for all of its tries.
    pub(super) fn header(&self) -> Result<Option<HeaderValue>, Error> {
        match self {
            Self::Off => Ok(None),
            Self::PerCall => header_value(&uuid::Uuid::new_v4().to_string()).map(Some),
            Self::Given(key) => Ok(Some(key.clone())),
        }
    }
}

fn header_value(key: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(key).map_err(|_| Error::invalid("idempotency_key", "can't be sent in a header"))
}

#[derive(Debug, Clone)]
pub struct CallOptions {
    /// The limit of one try, from start to end; for a stream, the limit of the wait for the first
    /// event and of each gap between events. `None`: no limit.
    pub timeout: Option<Duration>,
    /// The whole call with its retries and waits.
    pub deadline: Option<Duration>,
    /// From sending a try's request (making the connection included) to the answer's first byte.
    pub first_byte_timeout: Option<Duration>,
    /// Between two parts of an answer's body.
    pub idle_timeout: Option<Duration>,
    /// When and how long to wait for another try.
    pub retry: RetryPolicy,
    /// The longest body, and the longest event of a stream, that is accepted, in bytes.
    pub max_body_bytes: usize,
    /// The `Idempotency-Key` header.
    pub idempotency_key: IdempotencyKey,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            timeout: Some(Duration::from_secs(30)),
            deadline: None,
            first_byte_timeout: None,
            idle_timeout: None,
            retry: RetryPolicy::default(),
            max_body_bytes: 64 * 1024 * 1024,
            idempotency_key: IdempotencyKey::PerCall,
        }
    }
}
