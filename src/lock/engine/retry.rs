//! How long to wait before asking a failing database again.

use std::time::Duration;

use tokio::time::Instant;

use crate::lock::surroundings;

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(500);
/// For how long the deletion of a row is tried that nobody owns any more. After that, the row stays
/// until it expires.
pub(super) const DELETION: Duration = Duration::from_secs(600);

/// The longest wait after so many failures before: it doubles up to half a second.
pub(super) fn wait(failures: u32) -> Duration {
    FIRST.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST)
}

/// When to try again; with jitter, so that processes do not come back in step.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn next(&mut self) -> Instant {
        let longest = wait(self.failures);
        self.failures = self.failures.saturating_add(1);
        Instant::now() + surroundings::jitter(longest, 0.5..1.0)
    }
}

/// A number from 500 to 1000, for a state machine that has no randomness of its own.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is small and positive"
)]
pub(super) fn thousandths() -> u32 {
    surroundings::jitter(Duration::from_millis(1_000), 0.5..1.0).as_millis() as u32
}
