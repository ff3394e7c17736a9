//! The place of one manager in a process.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::database_url::Database;
use super::manager::Manager;
use super::registry::Registry;
use crate::figures::{Ledger, LockFigures};
use crate::mutex::lock;

/// A manager that is made at its first use, taken away when it is closed, and made again after
/// that.
#[derive(Default)]
pub struct ManagerSlot(Mutex<Option<Arc<Manager>>>);

impl ManagerSlot {
    /// The manager, made if there is none: nothing is opened or waited for. Needs an ambient tokio
    /// runtime.
    pub fn get_or_make(
        &self,
        registry: &Registry,
        database: &Database,
        figures: &Arc<LockFigures>,
    ) -> Arc<Manager> {
        let make = || {
            let ledger = Ledger::new(Arc::clone(figures), Arc::clone(registry.totals()));
            Arc::new(Manager::new(registry.engine(database), ledger))
        };
        Arc::clone(self.slot().get_or_insert_with(make))
    }

    /// The manager, if it has been made.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Manager>> {
        self.slot().clone()
    }

    /// Releases what the manager holds, for `patience` at most, and lets go of the database if
    /// nobody else uses it. False if there was no manager.
    pub async fn close(&self, registry: &Registry, patience: Duration) -> bool {
        // Taken first: what is acquired from here on belongs to another manager, and is not
        // released.
        let Some(manager) = self.slot().take() else {
            return false;
        };
        manager.release_all(patience).await;
        drop(manager);
        registry.let_go_of_unused();
        true
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Manager>>> {
        lock(&self.0)
    }
}
