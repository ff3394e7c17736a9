//! What a process has counted of its calls, model by model. It only grows: services come and go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::Metrics;

/// So many models are counted apart; a name that users make up must not fill the memory.
const MODELS_KEPT: usize = 100;

/// The name under which further models are counted together.
const OTHER_MODELS: &str = "other";

/// A longer name, in bytes, is counted among the others.
const LONGEST_NAME: usize = 200;

/// The figures of one process.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    models: RwLock<HashMap<Box<str>, Arc<Metrics>>>,
    blocking_calls_in_loop: AtomicU64,
}

impl Totals {
    /// The figures of a model, by the name under which it was asked for.
    pub(crate) fn model(&self, name: &str) -> Arc<Metrics> {
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
    pub(crate) fn blocked_a_loop(&self) {
        self.blocking_calls_in_loop.fetch_add(1, Ordering::Relaxed);
    }

    /// Blocking calls made from a thread that runs an event loop.
    pub(crate) fn blocking_calls_in_loop(&self) -> u64 {
        self.blocking_calls_in_loop.load(Ordering::Relaxed)
    }

    /// The figures of every model, by name.
    pub(crate) fn by_model(&self) -> Vec<(Box<str>, Arc<Metrics>)> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let mut figures: Vec<_> = models
            .iter()
            .map(|(name, metrics)| (name.clone(), Arc::clone(metrics)))
            .collect();
        drop(models);
        figures.sort_by(|(one, _), (other, _)| one.cmp(other));
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::CallCounter;

    fn begin(totals: &Totals, model: &str) {
        totals.model(model).counters.add(CallCounter::Started, 1);
    }

    fn begun(metrics: &Metrics) -> u64 {
        metrics.counters.get(CallCounter::Started)
    }

    #[test]
    fn models_beyond_the_limit_are_counted_together() {
        let totals = Totals::default();
        for number in 0..MODELS_KEPT + 5 {
            begin(&totals, &format!("model-{number:03}"));
        }
        begin(&totals, "model-000");
        let figures = totals.by_model();
        assert_eq!(figures.len(), MODELS_KEPT + 1);
        let started = |wanted: &str| {
            let found = figures.iter().find(|(name, _)| &**name == wanted);
            found.map(|(_, metrics)| begun(metrics))
        };
        assert_eq!(started("model-000"), Some(2));
        assert_eq!(started("model-099"), Some(1));
        assert_eq!(started("model-100"), None);
        assert_eq!(started(OTHER_MODELS), Some(5));
    }

    #[test]
    fn a_name_that_is_empty_or_endless_is_no_models() {
        let totals = Totals::default();
        begin(&totals, "");
        begin(&totals, &"m".repeat(LONGEST_NAME + 1));
        let figures = totals.by_model();
        assert_eq!(figures.len(), 1);
        assert_eq!((&*figures[0].0, begun(&figures[0].1)), (OTHER_MODELS, 2));
    }
}
