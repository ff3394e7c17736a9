//! What is counted of calls: by each service, and by model for the whole process.

use std::sync::Arc;
use std::time::Duration;

use super::Twice;
use super::counters::{Counter, Counters, counters};
use super::histogram::{Histogram, RESPONSE_BOUNDS};

counters! {
    enum CallCounter {
        Started = "started",
        Succeeded = "success",
        /// Given up before the end.
        Cancelled = "cancelled",
        /// Tries after the first.
        Retries = "retries",
        /// Blocking methods called from a thread that runs an event loop.
        BlockingCallsInLoop = "blocking_calls_in_loop",
        PromptTokens = "prompt",
        CompletionTokens = "completion",
    }
}

counters! {
    /// The kinds of failure: the names are those of `Error::kind`.
    enum FailureKind {
        Timeout = "timeout",
        Connection = "connection",
        Status = "status",
        InvalidResponse = "invalid_response",
        Reported = "reported",
        CircuitOpen = "circuit_open",
        InvalidArgument = "invalid_argument",
        Closed = "closed",
        /// Any exception of a client that replaced the native one.
        Foreign = "foreign",
    }
}

/// No call uses more: what a server claims beyond it must not make a sum start over.
const MOST_TOKENS: u64 = u32::MAX as u64;

/// What has been done so far: by a service, or with a model.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub counters: Counters<CallCounter>,
    pub failures: Counters<FailureKind>,
    /// Response times of successes.
    pub latency: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            failures: Counters::default(),
            latency: Histogram::new(RESPONSE_BOUNDS),
        }
    }
}

impl Metrics {
    /// Calls under way.
    pub(crate) fn in_flight(&self) -> u64 {
        // The ends are read before the starts: a call that begins and ends in between makes the
        // difference too large for a moment, never negative.
        let failed: u64 = self.failures.named().map(|(_, count)| count).sum();
        let ended =
            failed + self.counters.get(CallCounter::Succeeded) + self.counters.get(CallCounter::Cancelled);
        self.counters.get(CallCounter::Started).saturating_sub(ended)
    }
}

/// A call under way, in the figures of its service and in those of its model. Dropped without an end, it counts as cancelled.
#[derive(Debug)]
pub(crate) struct CountedCall {
    figures: Twice<Metrics>,
    ended: bool,
}

impl CountedCall {
    pub(crate) fn begin(service: Arc<Metrics>, model: Arc<Metrics>) -> Self {
        let call = Self {
            figures: Twice::new(service, model),
            ended: false,
        };
        call.add(CallCounter::Started, 1);
        call
    }

    pub(crate) fn retried(&self) {
        self.add(CallCounter::Retries, 1);
    }

    pub(crate) fn succeeded(mut self, response_time: Duration, prompt_tokens: u64, completion_tokens: u64) {
        self.ended = true;
        self.figures.each(|figures| figures.latency.record(response_time));
        self.add(CallCounter::Succeeded, 1);
        self.add(CallCounter::PromptTokens, prompt_tokens.min(MOST_TOKENS));
        self.add(CallCounter::CompletionTokens, completion_tokens.min(MOST_TOKENS));
    }

    /// `kind` is the failure's name. A name that is not in the table is one of a foreign client.
    pub(crate) fn failed(mut self, kind: &str) {
        self.ended = true;
        let known = FailureKind::ALL.iter().find(|known| known.name() == kind);
        let kind = known.copied().unwrap_or(FailureKind::Foreign);
        self.figures.each(|figures| figures.failures.add(kind, 1));
    }

    fn add(&self, counter: CallCounter, more: u64) {
        self.figures.each(|figures| figures.counters.add(counter, more));
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        if !self.ended {
            self.add(CallCounter::Cancelled, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_in_flight_until_its_one_end() {
        let (service, model) = (Arc::new(Metrics::default()), Arc::new(Metrics::default()));
        let begin = || CountedCall::begin(Arc::clone(&service), Arc::clone(&model));
        let (answered, failed, dropped) = (begin(), begin(), begin());
        assert_eq!(model.in_flight(), 3);
        answered.succeeded(Duration::from_secs(1), 1, u64::MAX);
        failed.failed("timeout");
        drop(dropped);
        for figures in [service, model] {
            let count = |counter| figures.counters.get(counter);
            assert_eq!((count(CallCounter::Started), figures.in_flight()), (3, 0));
            assert_eq!(
                (count(CallCounter::Succeeded), count(CallCounter::Cancelled)),
                (1, 1)
            );
            assert_eq!(figures.failures.get(FailureKind::Timeout), 1);
            assert_eq!(figures.latency.snapshot().total(), 1);
            assert_eq!(count(CallCounter::PromptTokens), 1);
            assert!(
                count(CallCounter::CompletionTokens) < 1 << 32,
                "no sum starts over"
            );
        }
    }
}
