//! Limits in time: which of several comes first, and the error for the one that ran out.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{Error, TimeoutKind};

/// A moment after which something is given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub at: Instant,
    pub kind: TimeoutKind,
    length: Duration,
}

impl Limit {
    /// `length` from `start` on; no limit if there is no length, or one so long that no clock reaches it.
    pub fn after(start: Instant, length: Option<Duration>, kind: TimeoutKind) -> Option<Self> {
        let length = length?;
        Some(Self {
            at: start.checked_add(length)?,
            kind,
            length,
        })
    }

    pub fn error(self) -> Error {
        Error::Timeout {
            kind: self.kind,
            limit: self.length,
            amid_keep_alives: false,
        }
    }

    pub fn earliest(limits: &[Option<Self>]) -> Option<Self> {
        limits.iter().flatten().copied().min_by_key(|limit| limit.at)
    }
}

/// Runs `future` until it ends or the earliest limit is over.
pub(super) async fn within<T>(limits: &[Option<Limit>], future: impl Future<Output = T>) -> Result<T, Error> {
    match Limit::earliest(limits) {
        None => Ok(future.await),
        // The timer's resolution is a millisecond, in which a near server may answer: over is over.
        Some(limit) if limit.at <= Instant::now() => Err(limit.error()),
        Some(limit) => tokio::time::timeout_at(limit.at, future)
            .await
            .map_err(|_| limit.error()),
    }
}
