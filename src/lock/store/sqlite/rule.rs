//! What a row's expiry means, in SQL and for rows in memory: the one place that says it.
//!
//! The time is the caller's: the worker reads the clock once for each transaction.

/// Whether a row with this expiry is free at this time. NULL if the expiry is NULL; text and blobs
/// sort after every number. So a row whose expiry is no number never becomes free.
macro_rules! is_free {
    ($expires_at:literal, $now:literal) => {
        concat!("(", $expires_at, " <= ", $now, ")")
    };
}

/// The same for a row in memory, where an expiry that is no number is infinite.
pub(super) fn is_free_at(expires_at: f64, now: f64) -> bool {
    expires_at <= now
}

/// The expiry of a row that lasts from now on.
pub(super) fn expiry(now: f64, ttl: std::time::Duration) -> f64 {
    now + ttl.as_secs_f64()
}

pub(super) use is_free;
