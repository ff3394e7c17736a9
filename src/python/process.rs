//! What the bindings keep in one process: made at its first use, and made anew in a forked child.

use std::sync::Arc;

use crate::bridge::PerProcess;
use crate::{figures, llm, lock};

/// Connections, locks and figures, which outlive the objects of Python that use them.
#[derive(Default)]
pub(super) struct Process {
    /// The connection pools of model servers.
    pub(super) transports: llm::Transports,
    /// The engines of the locks' databases, and what the managers have counted.
    pub(super) locks: lock::Registry,
    /// What the calls have counted.
    pub(super) calls: Arc<figures::Totals>,
    /// What the calls have changed in the circuits of endpoints.
    pub(super) circuits: Arc<llm::CircuitNews>,
}

/// This process's.
pub(super) fn process() -> &'static Process {
    static PROCESS: PerProcess<Process> = PerProcess::new();
    PROCESS.get_or_init(Process::default)
}
