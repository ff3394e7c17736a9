//! Waiting for a Rust future in a thread that may wait.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::task::JoinSet;

use super::runtime::{panicked, runtime};

/// How soon Ctrl-C is seen. Each look takes the GIL for a moment, in the waiting thread alone.
const LOOK_FOR_SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// Runs `future` to its end, with the GIL released.
///
/// # Errors
/// The future's own error, or what a signal handler raises (Ctrl-C: `KeyboardInterrupt`), after
/// which `future` is dropped at its next await.
pub fn block_on<F, T, E>(py: Python<'_>, future: F) -> PyResult<T>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Into<PyErr> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::sync_channel(1);
    // A set aborts its tasks when it is dropped: here, when a signal handler raises.
    let mut aborted_when_left = JoinSet::new();
    let work = async move { drop(sender.send(future.await)) };
    aborted_when_left.spawn_on(work, runtime()?.handle());
    loop {
        // Moved out and back: a receiver is not `Sync`, which a borrow in a detached closure would
        // need.
        let (received, back) = py.detach(move || (receiver.recv_timeout(LOOK_FOR_SIGNALS_EVERY), receiver));
        receiver = back;
        match received {
            Ok(result) => {
                super::process::afterwards(py);
                return result.map_err(Into::into);
            }
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => return Err(panicked()),
        }
    }
}
