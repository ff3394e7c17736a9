//! How long to wait before asking a failing database again.

use std::time::Duration;

use tokio::time::Instant;

use crate::lock::surroundings;

const FIRST: Duration = Duration::from_millis(20);
const MOST: Duration = Duration::from_millis(500);
/// How long a row that must go is asked to go: beyond it, its expiry has to do.
pub(super) const LONGEST: Duration = Duration::from_secs(600);

/// Waits that double up to half a second, with jitter so that processes do not come back in step.
pub(super) struct Backoff {
    wait: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { wait: FIRST }
    }
}

impl Backoff {
    /// When to try next.
    pub(super) fn next(&mut self) -> Instant {
        let wait = surroundings::jitter(self.wait, 0.5..1.0);
        self.wait = (self.wait * 2).min(MOST);
        Instant::now() + wait
    }
}
