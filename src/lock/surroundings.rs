//! What the engine takes from its surroundings: chance, names and tasks.
//!
//! A simulation replaces all of them, so that a seed decides everything. In a build that is no test, these are the operating
//! system's randomness and tokio's tasks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

#[cfg(test)]
use super::simulation::context;

/// A map whose order is the same in every run of a test.
#[cfg(test)]
pub(super) type Map<K, V> =
    std::collections::HashMap<K, V, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>;
#[cfg(not(test))]
pub(super) type Map<K, V> = std::collections::HashMap<K, V, foldhash::quality::RandomState>;

/// Shortens or lengthens a wait by a random factor, so that processes do not act in step.
pub(super) fn jitter(wait: Duration, factor: Range<f64>) -> Duration {
    #[cfg(test)]
    if let Some(chance) = context::chance() {
        return wait.mul_f64(factor.start + (factor.end - factor.start) * chance);
    }
    wait.mul_f64(rand::rng().random_range(factor))
}

/// A name for one acquisition, from the operating system's randomness: a generator of our own, copied by a fork, would give
/// parent and child the same names.
pub(super) fn new_id() -> Arc<str> {
    #[cfg(test)]
    if let Some(id) = context::new_id() {
        return id;
    }
    let mut buffer = uuid::Uuid::encode_buffer();
    let text: &str = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
    text.into()
}

/// Starts a task on a runtime.
pub(super) fn spawn<F>(runtime: &Handle, task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    #[cfg(test)]
    if let Some(process) = context::process() {
        return runtime.spawn(process.runs(task));
    }
    runtime.spawn(task)
}

/// Whether a fault has been planted here, which the simulation is to find. Never outside the tests.
macro_rules! planted {
    ($fault:ident) => {{
        #[cfg(test)]
        let planted =
            crate::lock::simulation::plants::is_planted(crate::lock::simulation::plants::Plant::$fault);
        #[cfg(not(test))]
        let planted = false;
        planted
    }};
}
pub(super) use planted;
