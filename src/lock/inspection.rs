//! A look at a database that changes nothing in it: for whoever wants to know why locks don't work there.
//!
//! It goes past the engine and its connections, which would make the tables that are missing.

use super::database_url::Database;
use super::error::{LockError, StoreError};
use super::manager::Manager;
use super::operation::LockRow;
use super::store::sqlite::Location;
use super::store::{postgres, redis, sqlite};

#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The database, for messages; without secrets.
    pub place: String,
    /// The server's name and version; empty where it does not tell.
    pub server: String,
    pub tables: Tables,
    /// Seconds by which the clock that decides about expiry is ahead of this machine's; None where it is the machine's.
    pub clock_ahead: Option<f64>,
    /// Whether the connection is encrypted; None where there is none.
    pub encrypted: Option<bool>,
    /// What keeps locks from being taken, though the database answers.
    pub obstacles: Vec<String>,
    /// What is worth knowing beforehand.
    pub cautions: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tables {
    /// Redis has none.
    NotNeeded,
    /// What is there is as it should be; the first lock makes those that are missing.
    Usable { missing: Vec<&'static str> },
    /// The table of the locks is somebody else's: what is different about it.
    AnotherShape(String),
}

/// Looks at a database.
///
/// # Errors
/// [`LockError::Backend`]: it can't be reached, or refused.
pub async fn inspect(database: &Database) -> Result<Inspection, LockError> {
    let found = match database {
        Database::Postgres(settings) => postgres::inspect(settings).await,
        Database::Redis(settings) => redis::inspect(settings).await,
        Database::PrivateMemory(_) => Ok(sqlite::inspect_memory()),
        Database::Sqlite(location) => {
            let location = location.clone();
            beside_the_loop(move || sqlite::inspect(&location)).await
        }
    };
    found.map_err(LockError::backend)
}

/// Returns every row, or the row of one key. Creates and changes nothing: a database without the
/// table `distributed_locks` has no rows. Reads Redis and databases in memory through `manager`,
/// since there the manager creates nothing either.
///
/// # Errors
/// [`LockError::Backend`] if the file does not exist or can't be read, or if the server can't be
/// reached or refuses the request.
pub async fn look(
    database: &Database,
    manager: &Manager,
    key: Option<&str>,
) -> Result<Vec<LockRow>, LockError> {
    let rows = match database {
        Database::Postgres(settings) => postgres::look(settings).await,
        Database::Sqlite(Location::File { path, .. }) => {
            let path = path.clone();
            beside_the_loop(move || sqlite::look(&path)).await
        }
        Database::Sqlite(Location::Memory) | Database::PrivateMemory(_) | Database::Redis(_) => {
            return match key {
                Some(key) => Ok(manager.row(key).await?.into_iter().collect()),
                None => manager.rows().await,
            };
        }
    };
    let mut rows = rows.map_err(LockError::backend)?;
    if let Some(key) = key {
        rows.retain(|row| &*row.key == key);
    }
    Ok(rows)
}

async fn beside_the_loop<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(look).await.unwrap_or_else(|error| {
        Err(StoreError::permanent(format!(
            "reading the locks failed: {error}"
        )))
    })
}
