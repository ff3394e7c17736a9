//! What the engine takes from its surroundings: chance, names and tasks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub(super) type Map<K, V> = std::collections::HashMap<K, V>;

/// Shortens or lengthens a wait by a random factor, so that processes do not act in step.
pub(super) fn jitter(wait: Duration, factor: Range<f64>) -> Duration {
    wait.mul_f64(rand::rng().random_range(factor))
}

/// A name for one acquisition, from the operating system's randomness: a generator of our own, copied by a fork, would give
/// parent and child the same names.
pub(super) fn new_id() -> Arc<str> {
    let mut buffer = uuid::Uuid::encode_buffer();
    let text: &str = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
    text.into()
}

/// Starts a task on a runtime.
pub(super) fn spawn<F>(runtime: &Handle, task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    runtime.spawn(task)
}
