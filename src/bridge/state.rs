//! What the bridge keeps in one process: made at its first use, and made anew in a forked child.

use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, OnceLock};

use tokio::runtime::{Handle, Runtime};

use super::process::PerProcess;
use crate::monitor::Registry;

/// The bridge's state. A lock in here can't be found locked by a forked child, which has a state of
/// its own.
#[derive(Default)]
pub(super) struct State {
    /// Where calls run.
    pub(super) runtime: OnceLock<Runtime>,
    /// The threads of the portable wake-up, if a loop needs them.
    pub(super) portable: OnceLock<Portable>,
    /// How many calls have started and not ended.
    pub(super) calls_under_way: AtomicUsize,
    /// The monitors of event loops.
    pub(super) monitors: Registry,
}

/// A runtime that is stopped at exit, while loops may still use its handle.
pub(super) struct Portable {
    pub(super) handle: Handle,
    pub(super) runtime: Mutex<Option<Runtime>>,
}

/// The state in this process.
pub(super) fn state() -> &'static State {
    static STATE: PerProcess<State> = PerProcess::new();
    STATE.get_or_init(State::default)
}
