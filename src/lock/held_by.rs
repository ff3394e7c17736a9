//! Who holds a lock that was not acquired in time.

use std::time::Duration;

use super::error::LockError;
use super::manager::Manager;
use super::names::LockName;

/// How long the database is asked: the caller's time is up already.
const PATIENCE: Duration = Duration::from_millis(250);

/// Adds to a timeout who holds the lock, and since when, if the database says so at once. Other
/// errors stay as they are. So only whoever fails pays for the statement.
pub async fn name_holder(manager: &Manager, error: LockError) -> LockError {
    let LockError::Timeout { name, timeout } = error else {
        return error;
    };
    let key = LockName::from_display(&name).key;
    match tokio::time::timeout(PATIENCE, manager.row(&key)).await {
        Ok(Ok(Some(row))) => LockError::HeldBy {
            name,
            timeout,
            holder: row.holder,
            since: (row.acquired_at > 0.0).then_some(row.acquired_at),
        },
        _ => LockError::Timeout { name, timeout },
    }
}
