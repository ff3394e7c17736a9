//! An endpoint's circuit breaker, shared with Python.

use pyo3::prelude::*;

use super::errors::invalid_value;
use super::notices::deliver;
use super::process::process;
use crate::bridge::PerProcess;
use crate::llm::{self, CallOutcome, CircuitState, SharedHealth, Timestamp, now};

/// What is known of an endpoint. Times are microseconds since the Unix epoch, or None.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct EndpointHealth {
    /// As it was made.
    new: llm::EndpointHealth,
    /// In the process that made it.
    original: SharedHealth,
    /// In this process: a forked child goes on with a copy, since a lock that was held at the fork stays locked there.
    here: PerProcess<SharedHealth>,
}

impl EndpointHealth {
    pub(super) fn shared(&self) -> &SharedHealth {
        self.here.get_or_init(|| {
            let copy = self.original.separate_copy();
            reporting(copy.unwrap_or_else(|| self.new.clone()))
        })
    }
}

fn reporting(health: llm::EndpointHealth) -> SharedHealth {
    SharedHealth::new(health, process().circuits.clone())
}

/// One `impl` block of the plain fields' getters and setters and of the methods: PyO3 wants them together.
macro_rules! shared_fields {
    ({ $($getter:ident / $setter:ident: $kind:ty,)* } $($methods:tt)*) => {
        #[pymethods]
        impl EndpointHealth {
            $(
                #[getter]
                fn $getter(&self) -> $kind {
                    self.shared().lock().$getter.clone()
                }

                #[setter]
                fn $setter(&self, value: $kind) {
                    self.shared().lock().$getter = value;
                }
            )*

            $($methods)*
        }
    };
}

shared_fields! {
    {
        endpoint / set_endpoint: String,
        last_health_check_at / set_last_health_check_at: Option<Timestamp>,
        last_healthy_at / set_last_healthy_at: Option<Timestamp>,
        consecutive_failures / set_consecutive_failures: u64,
        total_requests / set_total_requests: u64,
        total_failures / set_total_failures: u64,
        opened_at / set_opened_at: Option<Timestamp>,
        failure_threshold / set_failure_threshold: u64,
        recovery_timeout_seconds / set_recovery_timeout_seconds: f64,
        response_times_kept / set_response_times_kept: usize,
    }

    #[new]
    fn new(endpoint: String, failure_threshold: u64, recovery_timeout_seconds: f64) -> Self {
        let new = llm::EndpointHealth::new(endpoint, failure_threshold, recovery_timeout_seconds);
        let original = reporting(new.clone());
        let here = PerProcess::new();
        here.get_or_init(|| original.clone());
        Self { new, original, here }
    }

    #[getter]
    fn state(&self) -> &'static str {
        self.shared().lock().state().name()
    }

    #[setter]
    fn set_state(&self, state: &str) -> PyResult<()> {
        let state = match state {
            "closed" => CircuitState::Closed,
            "open" => CircuitState::Open,
            "half_open" => CircuitState::HalfOpen,
            other => return Err(invalid_value(&"state", &format!("is no circuit state: {other:?}"))),
        };
        self.shared().lock().set_state(state);
        Ok(())
    }

    /// The latest response times in milliseconds, at most `response_times_kept`, that nobody has taken.
    fn take_response_times(&self) -> Vec<f64> {
        self.shared().lock().take_response_times().into()
    }

    /// Asks to make a call; in a half-open circuit this takes the probe's place.
    fn admit(&self, py: Python<'_>) -> bool {
        let admitted = self.shared().allows();
        deliver(py);
        admitted
    }

    /// Whether `admit` would refuse.
    fn would_refuse(&self) -> bool {
        self.shared().lock().would_refuse(now())
    }

    /// Gives a probe's place back: its call was cancelled.
    fn abandon(&self) {
        let mut health = self.shared().lock();
        let state = health.state();
        if state == CircuitState::HalfOpen {
            health.set_state(state);
        }
    }

    /// A call answered, within so many milliseconds; 0 keeps no response time.
    fn record_success(&self, py: Python<'_>, milliseconds: f64) {
        self.shared().record(CallOutcome::Success(milliseconds), String::new);
        deliver(py);
    }

    /// A call failed.
    fn record_failure(&self, py: Python<'_>, error: String) {
        self.shared().record(CallOutcome::Failure, || error);
        deliver(py);
    }
}
