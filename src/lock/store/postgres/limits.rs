//! Time limits on the server, so that the server ends a statement that the client has given up.
//! Otherwise a table that a migration locks would collect backends, one for each such statement.
//!
//! The server waits for a lock on the table before a statement begins, so the statement itself
//! can't limit that wait. On a direct connection, startup options set the limits. A pooler refuses
//! startup options or ignores them, and it gives the session to another client next, so no setting
//! may remain in the session. Behind a pooler, each statement therefore runs in a transaction that
//! sets the limits with `SET LOCAL`.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _, PgConnection, Row as _};

use super::PostgresSettings;
use super::errors::refuses_settings;

/// The limits in milliseconds. `statement_timeout` is shorter than the time that the client waits.
const LIMITS: [(&str, &str); 2] = [("lock_timeout", "800"), ("statement_timeout", "4000")];
/// Sets the limits for one transaction.
pub(super) const IN_TRANSACTION: &str = "SET LOCAL lock_timeout = 800; SET LOCAL statement_timeout = 4000";
/// Begins a transaction with the limits, in one message.
pub(super) const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = 800; SET LOCAL statement_timeout = 4000";

/// Fails at once if another transaction has locked the table, or waits for a lock on it.
pub(super) const LOOK: &str = "BEGIN; LOCK TABLE distributed_locks IN ROW EXCLUSIVE MODE NOWAIT; COMMIT";

/// Decides whether startup options or transactions set the limits.
#[derive(Default)]
pub(super) struct Limits {
    not_by_session: AtomicBool,
}

impl Limits {
    /// Whether each statement has to run in a transaction that sets the limits.
    pub(super) fn by_transaction(&self, settings: &PostgresSettings) -> bool {
        !settings.statement_cache || self.not_by_session.load(Ordering::Acquire)
    }

    /// Makes a connection, with the limits in its startup options unless a pooler refuses them.
    pub(super) async fn connect(&self, settings: &PostgresSettings) -> sqlx::Result<PgConnection> {
        if self.by_transaction(settings) {
            return settings.connect.connect().await;
        }
        match with_limits(&settings.connect).connect().await {
            Err(error) if refuses_settings(&error) => {
                let connection = settings.connect.connect().await?;
                self.not_by_session.store(true, Ordering::Release);
                Ok(connection)
            }
            connected => connected,
        }
    }

    /// Sets the plan mode of a session, and finds out whether the startup options took effect.
    ///
    /// By default the server plans the statement of a release anew each time, since it estimates
    /// arrays to be longer than they are. That planning takes as long as the statement itself.
    pub(super) async fn set_up(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        const SET_UP: &str = "SET plan_cache_mode = force_generic_plan; SHOW statement_timeout";
        let rows = match connection.fetch_all(SET_UP).await {
            // PostgreSQL has the setting `plan_cache_mode` since version 12.
            Err(sqlx::Error::Database(refused)) if refused.code().as_deref() == Some("42704") => {
                connection.fetch_all("SHOW statement_timeout").await?
            }
            rows => rows?,
        };
        let limit: Option<String> = rows.first().map(|row| row.try_get(0)).transpose()?;
        if limit.as_deref() == Some("0") {
            self.not_by_session.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// Adds the limits to the startup options, unless the user has set them.
fn with_limits(options: &PgConnectOptions) -> PgConnectOptions {
    let given = options.get_options().unwrap_or_default();
    // With the option's syntax, because `deadlock_timeout` contains `lock_timeout`.
    let missing = LIMITS
        .into_iter()
        .filter(|(name, _)| !given.contains(&format!("-c {name}=")));
    options.clone().options(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_user_stay() {
        let plain = PgConnectOptions::new_without_pgpass();
        assert_eq!(
            with_limits(&plain).get_options(),
            Some("-c lock_timeout=800 -c statement_timeout=4000")
        );
        let given = plain.options([("deadlock_timeout", "100"), ("statement_timeout", "50")]);
        assert_eq!(
            with_limits(&given).get_options(),
            Some("-c deadlock_timeout=100 -c statement_timeout=50 -c lock_timeout=800")
        );
    }
}
