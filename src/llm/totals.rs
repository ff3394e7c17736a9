//! What a process has counted of its calls, model by model. It only grows: services come and go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::metrics::{Metrics, Snapshot};

/// So many models are counted apart; a name that users make up must not fill the memory.
pub const MODELS_KEPT: usize = 100;

/// The name under which further models are counted together.
pub const OTHER_MODELS: &str = "other";

/// A longer name, in bytes, is counted among the others.
const LONGEST_NAME: usize = 200;

/// The figures of one process.
#[derive(Debug, Default)]
pub struct Totals {
    models: RwLock<HashMap<Box<str>, Arc<Metrics>>>,
    blocking_calls_in_loop: AtomicU64,
}

impl Totals {
    /// The figures of a model, by the name under which it was asked for.
    pub fn model(&self, name: &str) -> Arc<Metrics> {
        let fits = (1..=LONGEST_NAME).contains(&name.len());
        let name = if fits { name } else { OTHER_MODELS };
        let others = |models: &HashMap<Box<str>, Arc<Metrics>>| {
            models.len() >= MODELS_KEPT && !models.contains_key(name)
        };
        {
            let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
            let name = if others(&models) { OTHER_MODELS } else { name };
            if let Some(known) = models.get(name) {
                return Arc::clone(known);
            }
        }
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let name = if others(&models) { OTHER_MODELS } else { name };
        Arc::clone(models.entry(name.into()).or_default())
    }

    /// A blocking call stopped an event loop.
    pub fn blocked_a_loop(&self) {
        self.blocking_calls_in_loop.fetch_add(1, Ordering::Relaxed);
    }

    /// Blocking calls made from a thread that runs an event loop.
    pub fn blocking_calls_in_loop(&self) -> u64 {
        self.blocking_calls_in_loop.load(Ordering::Relaxed)
    }

    /// The figures of every model now, by name.
    pub fn snapshot(&self) -> Vec<(Box<str>, Snapshot)> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let mut figures: Vec<_> = models
            .iter()
            .map(|(name, metrics)| (name.clone(), metrics.snapshot()))
            .collect();
        drop(models);
        figures.sort_by(|(one, _), (other, _)| one.cmp(other));
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_beyond_the_limit_are_counted_together() {
        let totals = Totals::default();
        for number in 0..MODELS_KEPT + 5 {
            totals.model(&format!("model-{number:03}")).call_started();
        }
        totals.model("model-000").call_started();
        let figures = totals.snapshot();
        assert_eq!(figures.len(), MODELS_KEPT + 1);
        let started = |wanted: &str| {
            let found = figures.iter().find(|(name, _)| &**name == wanted);
            found.map(|(_, snapshot)| snapshot.started)
        };
        assert_eq!(started("model-000"), Some(2));
        assert_eq!(started("model-099"), Some(1));
        assert_eq!(started("model-100"), None);
        assert_eq!(started(OTHER_MODELS), Some(5));
    }

    #[test]
    fn a_name_that_is_empty_or_endless_is_no_models() {
        let totals = Totals::default();
        totals.model("").call_started();
        totals.model(&"m".repeat(LONGEST_NAME + 1)).call_started();
        let figures = totals.snapshot();
        assert_eq!(figures.len(), 1);
        assert_eq!((&*figures[0].0, figures[0].1.started), (OTHER_MODELS, 2));
    }
}
