//! Which failures are worth another try, and how long to wait before it.
//!
//! The rules are those of OpenAI's Python SDK, so that a fleet that changes clients puts the same load on a failing server:
//! two retries; 0.5 s doubling to 8 s, shortened at random by up to a quarter; connection errors, 408, 409, 429 and 5xx;
//! `x-should-retry` decides where it is sent; `retry-after-ms` and `retry-after` (seconds or a date) set the wait, and one
//! of more than 120 s means no retry at all.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

/// How often and how long apart a call is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Tries after the first.
    pub max_retries: u32,
    /// The wait before the first retry; it doubles from one to the next.
    pub base: Duration,
    /// The longest wait of our own choosing.
    pub cap: Duration,
    /// The part of a wait, from 0 to 1, that chance may take off.
    pub jitter: f64,
    /// The longest wait of the server's choosing; if it asks for more, the call is not retried.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 2,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(8),
            jitter: 0.25,
            max_retry_after: Duration::from_secs(120),
        }
    }
}

/// What a failed try says about another one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryHint {
    /// Whether another try may succeed.
    pub retryable: bool,
    /// The wait that the server asked for, in seconds, as it was sent (perhaps negative or not finite).
    pub retry_after: Option<f64>,
}

impl RetryHint {
    /// For a try that brought no answer.
    pub const NO_ANSWER: Self = Self {
        retryable: true,
        retry_after: None,
    };
    /// For a failure that would come again.
    pub const FINAL: Self = Self {
        retryable: false,
        retry_after: None,
    };
}

impl RetryPolicy {
    /// Reads an error answer.
    pub fn hint(&self, status: StatusCode, headers: &HeaderMap, now: SystemTime) -> RetryHint {
        let retry_after = retry_after(headers, now);
        RetryHint {
            retryable: self.is_retryable(status, headers, retry_after),
            retry_after,
        }
    }

    fn is_retryable(&self, status: StatusCode, headers: &HeaderMap, retry_after: Option<f64>) -> bool {
        if retry_after
            .is_some_and(|seconds| seconds.is_finite() && seconds > self.max_retry_after.as_secs_f64())
        {
            return false;
        }
        match text(headers, "x-should-retry") {
            Some("true") => true,
            Some("false") => false,
            _ => matches!(status.as_u16(), 408 | 409 | 429) || status.is_server_error(),
        }
    }

    /// The wait before retry number `retries_taken + 1`. `chance` is a random number from 0 to 1.
    pub fn wait(&self, retries_taken: u32, retry_after: Option<f64>, chance: f64) -> Duration {
        let longest = self.max_retry_after.as_secs_f64();
        if let Some(seconds) = retry_after.filter(|seconds| *seconds > 0.0 && *seconds <= longest) {
            return Duration::try_from_secs_f64(seconds).unwrap_or(self.max_retry_after);
        }
        let doubled = self.base.as_secs_f64() * 2f64.powi(retries_taken.min(1000) as i32);
        let seconds = doubled.min(self.cap.as_secs_f64()) * (1.0 - self.jitter * chance);
        Duration::try_from_secs_f64(seconds).unwrap_or(self.cap)
    }
}

/// The wait in seconds that an answer asks for: milliseconds first, then seconds (fractions allowed), then a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<f64> {
    for (name, divisor) in [("retry-after-ms", 1000.0), ("retry-after", 1.0)] {
        let Some(value) = text(headers, name) else {
            continue;
        };
        if let Ok(number) = value.trim().parse::<f64>() {
            let spelled_out = value.contains(['n', 'N']);
            // A number too large for a float is a very long wait, not a malformed one.
            return Some(if number.is_infinite() && !spelled_out {
                f64::MAX
            } else {
                number / divisor
            });
        }
    }
    let date = text(headers, "retry-after")?.trim();
    let date = ["+0000", "-0000", "UTC", "UT"]
        .iter()
        .find_map(|zone| date.strip_suffix(zone))
        .map_or_else(|| date.to_owned(), |head| format!("{head}GMT"));
    let date = httpdate::parse_http_date(&date).ok()?;
    Some(match date.duration_since(now) {
        Ok(wait) => wait.as_secs_f64(),
        Err(past) => -past.duration().as_secs_f64(),
    })
}

fn text<'headers>(headers: &'headers HeaderMap, name: &str) -> Option<&'headers str> {
    headers.get(name)?.to_str().ok()
}
