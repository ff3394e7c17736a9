//! The states of a circuit, and what calls changed, until somebody logs it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::mutex::lock;

/// More are dropped: a process in which nobody takes them out must not fill its memory with them.
const MOST_WAITING: usize = 256;

/// Whether calls get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CircuitState {
    #[default]
    Closed,
    Open,
    /// They do, one at a time.
    HalfOpen,
}

impl CircuitState {
    /// Its name in Python and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A call changed the state of its endpoint's circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CircuitChange {
    pub endpoint: String,
    /// The new state.
    pub state: CircuitState,
    /// Failures in a row.
    pub failures: u64,
    /// The error of the call that opened the circuit.
    pub error: String,
}

/// The changes that wait to be logged.
#[derive(Debug, Default)]
pub struct CircuitNews {
    queue: Mutex<VecDeque<CircuitChange>>,
    /// Whether any wait: looked at far more often than there are any.
    waiting: AtomicBool,
}

impl CircuitNews {
    /// All that wait, the oldest first.
    pub fn take(&self) -> VecDeque<CircuitChange> {
        if !self.waiting.load(Ordering::Acquire) {
            return VecDeque::new();
        }
        let mut queue = lock(&self.queue);
        // Under the lock, as in `put`: a change that comes right after this sets it again.
        self.waiting.store(false, Ordering::Release);
        std::mem::take(&mut queue)
    }

    pub(super) fn put(&self, change: CircuitChange) {
        let mut queue = lock(&self.queue);
        if queue.len() < MOST_WAITING {
            queue.push_back(change);
            self.waiting.store(true, Ordering::Release);
        }
    }
}
