//! What a call's end has to change: the counters, and its endpoint's circuit.

use std::time::Duration;

use tokio::time::Instant;

use super::error::Error;
use super::health::{CallOutcome, Permit};
use super::usage::Usage;
use crate::figures::CountedCall;

/// A call under way. It ends once: dropped without an end, it counts as cancelled and leaves the circuit as it is.
pub(super) struct UnderWay {
    count: CountedCall,
    permit: Option<Permit>,
    start: Instant,
}

impl UnderWay {
    pub fn new(count: CountedCall) -> Self {
        Self {
            count,
            permit: None,
            start: Instant::now(),
        }
    }

    /// The circuit has let the call through. Its response time counts from here: stealth mode's wait is no fault of the server.
    pub fn admitted(&mut self, permit: Option<Permit>) {
        self.permit = permit;
        self.start = Instant::now();
    }

    pub fn retried(&self) {
        self.count.retried();
    }

    /// Ends the call, and returns its response time.
    pub fn succeeded(self, usage: Usage) -> Duration {
        let response_time = self.start.elapsed();
        self.count
            .succeeded(response_time, usage.prompt_tokens, usage.completion_tokens);
        if let Some(permit) = self.permit {
            permit.settle(
                CallOutcome::Success(response_time.as_secs_f64() * 1000.0),
                String::new,
            );
        }
        response_time
    }

    /// Ends the call with its error, and returns that.
    pub fn failed(self, error: Error) -> Error {
        self.count.failed(error.kind());
        if let Some(permit) = self.permit {
            // A server that rejects a bad request is alive. If that opened the circuit, one caller's mistakes would
            // cut off all others.
            let outcome = if error.spares_the_endpoint() {
                CallOutcome::Rejected
            } else {
                CallOutcome::Failure
            };
            permit.settle(outcome, || error.to_string());
        }
        error
    }
}
