//! One engine for each database of a process.
//!
//! An engine lives as long as a manager has it, or a lock acquired through it has not ended. A database in memory lives as
//! long as the registry: it would be empty otherwise when asked for again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::database_url::Database;
use super::engine::Engine;
use super::reporter::Reporter;
use super::store::postgres::PostgresStore;
use super::store::redis::RedisStore;
use super::store::sqlite::{Location, SqliteStore, let_go_of_file, system_clock};
use crate::figures::LockFigures;
use crate::mutex::lock;
use crate::notices::Notices;

/// The engines of one process, and what its managers have counted.
#[derive(Default)]
pub struct Registry {
    engines: Mutex<HashMap<Database, Shared>>,
    /// Changed with the engines locked.
    has_ended: AtomicBool,
    totals: Arc<LockFigures>,
    notices: Arc<Notices>,
}

#[derive(Clone)]
struct Shared {
    engine: Arc<Engine>,
    handles: Arc<AtomicUsize>,
}

/// A manager's share in an engine.
pub struct EngineHandle {
    shared: Shared,
}

impl EngineHandle {
    /// A share in an engine that no registry has.
    #[cfg(test)]
    pub(super) fn of(engine: Arc<Engine>) -> Self {
        let handles = Arc::new(AtomicUsize::new(1));
        Self {
            shared: Shared { engine, handles },
        }
    }

    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.shared.engine
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.shared.handles.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Registry {
    /// The database's engine, made if there is none. Needs an ambient tokio runtime.
    pub fn engine(&self, database: &Database) -> EngineHandle {
        self.let_go_of_unused();
        let mut engines = self.engines();
        let shared = engines.entry(database.clone()).or_insert_with(|| {
            let engine = make(database, self.reporter(database));
            if self.has_ended.load(Ordering::Acquire) {
                engine.end();
            }
            let handles = Arc::default();
            Shared { engine, handles }
        });
        shared.handles.fetch_add(1, Ordering::AcqRel);
        EngineHandle {
            shared: shared.clone(),
        }
    }

    /// Drops the engines that nothing depends on any more.
    pub fn let_go_of_unused(&self) {
        let mut unused = Vec::new();
        self.engines().retain(|database, shared| {
            let keep = shared.handles.load(Ordering::Acquire) > 0
                || shared.engine.in_use()
                || matches!(
                    database,
                    Database::Sqlite(Location::Memory) | Database::PrivateMemory(_)
                );
            if !keep {
                // A task may have the engine for a moment longer.
                if let Database::Sqlite(Location::File { path, .. }) = database {
                    let_go_of_file(path);
                }
                unused.push(shared.clone());
            }
            keep
        });
    }

    /// What all managers of this process have counted, those that are gone included.
    #[must_use]
    pub fn totals(&self) -> &Arc<LockFigures> {
        &self.totals
    }

    /// What the engines of this process have to report.
    #[must_use]
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    fn reporter(&self, database: &Database) -> Arc<Reporter> {
        let place = database.describe();
        Reporter::new(&place, Arc::clone(&self.totals), Arc::clone(&self.notices))
    }

    /// How many locks this process holds, and how many callers wait for one, on all databases.
    #[must_use]
    pub fn held_and_waiting(&self) -> (usize, usize) {
        self.engines()
            .values()
            .map(|shared| shared.engine.held_and_waiting())
            .fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1))
    }

    fn engines(&self) -> MutexGuard<'_, HashMap<Database, Shared>> {
        lock(&self.engines)
    }

    /// Forgets a database in memory that nobody can name any more.
    pub fn forget(&self, database: &Database) {
        drop(lock(&self.engines).remove(database));
    }

    /// Ends the locks of this process: nothing is granted from now on. Returns what releases everything
    /// that it holds, on all databases at once, for `patience` at most; None if there is nothing.
    pub fn end(&self, patience: Duration) -> Option<impl Future<Output = ()> + Send + 'static + use<>> {
        let engines: Vec<Arc<Engine>> = {
            let engines = self.engines();
            self.has_ended.store(true, Ordering::Release);
            engines
                .values()
                .map(|shared| Arc::clone(&shared.engine))
                .collect()
        };
        engines.iter().for_each(|engine| engine.end());
        let is_needed = engines.iter().any(|engine| engine.may_have_rows());
        is_needed.then_some(async move {
            futures_util::future::join_all(engines.iter().map(|engine| engine.release_held(None, patience)))
                .await;
        })
    }
}

fn make(database: &Database, reporter: Arc<Reporter>) -> Arc<Engine> {
    match database {
        Database::Sqlite(location) => {
            let location = location.clone();
            Engine::new(reporter, |listener| {
                Box::new(SqliteStore::new(location, system_clock(), listener))
            })
        }
        Database::PrivateMemory(_) => Engine::new(reporter, |listener| {
            Box::new(SqliteStore::new(Location::Memory, system_clock(), listener))
        }),
        Database::Postgres(settings) => {
            let settings = settings.clone();
            Engine::new(reporter, |listener| {
                Box::new(PostgresStore::new(settings, listener))
            })
        }
        Database::Redis(settings) => {
            let settings = settings.clone();
            Engine::new(reporter, |listener| Box::new(RedisStore::new(settings, listener)))
        }
    }
}
