//! Counters and a latency histogram: a few atomic additions per call, read when someone asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::answer::Usage;

/// The histogram's upper bounds in seconds; one more bucket holds what is above the last.
pub const LATENCY_BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0,
];

/// The kinds of failure that are counted apart; see [`Error::kind`].
pub const FAILURE_KINDS: [&str; 9] = [
    "timeout",
    "connection",
    "status",
    "invalid_response",
    "reported",
    "circuit_open",
    "invalid_argument",
    "closed",
    "foreign",
];

/// No call uses more: what a server claims beyond it must not make a sum start over.
const MOST_TOKENS: u64 = u32::MAX as u64;

/// What has been done so far: by a service, or with a model.
#[derive(Debug, Default)]
pub struct Metrics {
    started: AtomicU64,
    succeeded: AtomicU64,
    cancelled: AtomicU64,
    retries: AtomicU64,
    blocking_calls_in_loop: AtomicU64,
    failures: [AtomicU64; FAILURE_KINDS.len()],
    latency_buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    latency_total_micros: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
}

/// A copy of the figures at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Calls begun.
    pub started: u64,
    /// Calls that brought an answer.
    pub succeeded: u64,
    /// Calls that were given up before their end.
    pub cancelled: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Blocking calls made from a thread that runs an event loop.
    pub blocking_calls_in_loop: u64,
    /// Failures by kind.
    pub failures: Vec<(&'static str, u64)>,
    /// Successes up to each bound of [`LATENCY_BOUNDS`], and above the last; not cumulative.
    pub latency_buckets: Vec<u64>,
    /// The sum of the successes' response times.
    pub latency_total: Duration,
    /// Tokens of the successes' requests.
    pub prompt_tokens: u64,
    /// Tokens of their answers.
    pub completion_tokens: u64,
}

impl Metrics {
    pub(super) fn call_started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// A blocking call stopped an event loop.
    pub fn blocked_a_loop(&self) {
        self.blocking_calls_in_loop.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn call_succeeded(&self, response_time: Duration, usage: Usage) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        let seconds = response_time.as_secs_f64();
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < seconds);
        self.latency_buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(response_time.as_micros()).unwrap_or(u64::MAX);
        self.latency_total_micros.fetch_add(micros, Ordering::Relaxed);
        for (counter, tokens) in [
            (&self.prompt_tokens, usage.prompt_tokens),
            (&self.completion_tokens, usage.completion_tokens),
        ] {
            counter.fetch_add(tokens.min(MOST_TOKENS), Ordering::Relaxed);
        }
    }

    /// A call failed in a way that has this name.
    pub(super) fn call_failed(&self, kind: &str) {
        let index = FAILURE_KINDS
            .iter()
            .position(|known| *known == kind)
            .unwrap_or(FAILURE_KINDS.len() - 1);
        self.failures[index].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn call_cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    /// The figures now.
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (succeeded, cancelled) = (load(&self.succeeded), load(&self.cancelled));
        let failures: Vec<_> = FAILURE_KINDS
            .into_iter()
            .zip(self.failures.iter().map(load))
            .collect();
        let failed: u64 = failures.iter().map(|(_, count)| count).sum();
        let started = load(&self.started);
        Snapshot {
            started,
            succeeded,
            cancelled,
            in_flight: started.saturating_sub(succeeded + failed + cancelled),
            retries: load(&self.retries),
            blocking_calls_in_loop: load(&self.blocking_calls_in_loop),
            failures,
            latency_buckets: self.latency_buckets.iter().map(load).collect(),
            latency_total: Duration::from_micros(load(&self.latency_total_micros)),
            prompt_tokens: load(&self.prompt_tokens),
            completion_tokens: load(&self.completion_tokens),
        }
    }
}
