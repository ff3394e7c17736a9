//! What the time of a lease is: the TTL rule, which each store states once more in its own language.
//!
//! A row expires `ttl` after the moment at which the database wrote it, by the database's clock. It
//! is free when that clock shows its expiry or more.

use std::time::Duration;

use crate::lock::boot_time::BootTime;

/// How long after the expiry that was computed here a row is asked for. A timer may fire up to a
/// millisecond early.
pub(crate) const AFTER_EXPIRY: Duration = Duration::from_millis(1);

/// Until when a holder may believe in a row that a statement wrote which was sent at `sent`. The
/// database wrote the row later, so it never expires before this.
pub(crate) fn trusted_until(sent: BootTime, ttl: Duration) -> BootTime {
    sent + ttl
}

/// When a row expires that is written at `written_at`, in Unix seconds by the database's clock.
pub(crate) fn expires_at(written_at: f64, ttl: Duration) -> f64 {
    written_at + ttl.as_secs_f64()
}

/// When a row was written that expires at `expires_at`: what the database's clock showed.
pub(crate) fn written_at(expires_at: f64, ttl: Duration) -> f64 {
    expires_at - ttl.as_secs_f64()
}
