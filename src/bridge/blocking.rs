//! Waiting for a Rust future in a thread that may wait.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::task::JoinHandle;

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
    let (sender, receiver) = mpsc::sync_channel(1);
    let _abort_when_left = AbortOnDrop(runtime()?.spawn(async move {
        let _ = sender.send(future.await);
    }));
    let mut receiver = receiver;
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

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
