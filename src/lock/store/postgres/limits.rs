//! What the client gives up, the server gives up, too: or else a table that a migration locks would
//! collect the backends of all the statements that nobody waits for any more.
//!
//! A lock on the table is waited for before a statement begins, so that the statement can't limit
//! that itself. On a direct connection the limits are asked for when it is made. Poolers refuse
//! that or pass it over, and nothing may be left behind in a session that is another's next: there,
//! each statement gets a transaction with limits of its own.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Executor as _, PgConnection, Row as _};

use super::PostgresSettings;
use super::errors::refuses_settings;

/// In milliseconds. The second is less than the client's patience.
const LIMITS: [(&str, &str); 2] = [("lock_timeout", "800"), ("statement_timeout", "4000")];
/// The same for one transaction.
pub(super) const IN_TRANSACTION: &str = "SET LOCAL lock_timeout = 800; SET LOCAL statement_timeout = 4000";
/// Begins such a transaction, in one message.
pub(super) const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = 800; SET LOCAL statement_timeout = 4000";

/// Fails if somebody has locked the table, or waits to lock it: without waiting.
pub(super) const LOOK: &str = "BEGIN; LOCK TABLE distributed_locks IN ROW EXCLUSIVE MODE NOWAIT; COMMIT";

/// How the server is told the limits.
#[derive(Default)]
pub(super) struct Limits {
    not_by_session: AtomicBool,
}

impl Limits {
    /// Whether each statement needs a transaction of its own.
    pub(super) fn by_transaction(&self, settings: &PostgresSettings) -> bool {
        !settings.statement_cache || self.not_by_session.load(Ordering::Acquire)
    }

    /// Makes a connection, with the limits if they can be had so.
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

    /// Sets what else a session of our own needs, and finds out whether the limits have arrived.
    ///
    /// Left to itself, the server plans a release anew each time, since it takes an array for
    /// longer than ours are: that takes as long as carrying it out.
    pub(super) async fn set_up(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        const SET_UP: &str = "SET plan_cache_mode = force_generic_plan; SHOW statement_timeout";
        let rows = match connection.fetch_all(SET_UP).await {
            // Before PostgreSQL 12 there is no such setting.
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

/// What the user has asked for stays.
fn with_limits(options: &PgConnectOptions) -> PgConnectOptions {
    let given = options.get_options().unwrap_or_default();
    let missing = LIMITS.into_iter().filter(|(name, _)| !given.contains(name));
    options.clone().options(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_has_asked_for_stays() {
        let plain = PgConnectOptions::new_without_pgpass();
        assert_eq!(
            with_limits(&plain).get_options(),
            Some("-c lock_timeout=800 -c statement_timeout=4000")
        );
        let given = plain.options([("search_path", "ours"), ("statement_timeout", "50")]);
        assert_eq!(
            with_limits(&given).get_options(),
            Some("-c search_path=ours -c statement_timeout=50 -c lock_timeout=800")
        );
    }
}
