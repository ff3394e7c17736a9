//! Time limits on the server, so that the server ends a statement that the client has given up.
//! Otherwise a table that a migration locks would collect backends, one for each such statement.
//!
//! The server waits for a lock on the table before a statement begins, so the statement itself
//! can't limit that wait. On a direct connection, startup options set the limits. A pooler refuses
//! startup options or ignores them, and it gives the session to another client next, so no setting
//! may remain in the session. Behind a pooler, each statement therefore runs in a transaction that
//! sets the limits with `SET LOCAL`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, SqlSafeStr as _, SqlStr};
use uuid::Uuid;

use super::PostgresSettings;
use super::errors::{is_unknown_setting, refuses_settings};
use super::session::{MARK, Session, started_with};

const LOCK_TIMEOUT: Duration = Duration::from_millis(800);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// When the server has certainly ended the wait for a lock.
pub(super) const LOCK_ENDS: Duration = Duration::from_millis(1500);
/// When the server has certainly ended a statement: a connection without an answer is dead then.
pub(super) const STATEMENT_ENDS: Duration = Duration::from_secs(5);

/// By default the server plans the statement of a release anew each time, since it estimates arrays
/// to be longer than they are. That planning takes as long as the statement itself. PostgreSQL has
/// the setting since version 12.
const PLAN_MODE: (&str, &str) = ("plan_cache_mode", "force_generic_plan");
/// Fails at once if another transaction has locked the table, or waits for a lock on it.
pub(super) const LOOK: &str = "BEGIN; LOCK TABLE distributed_locks IN ROW EXCLUSIVE MODE NOWAIT; COMMIT";

/// Sets the limits for one transaction, which the client gives up after `patience`.
pub(super) fn for_transaction(patience: Duration) -> SqlStr {
    // The error that says what is locked comes before the other one.
    let waiting = LOCK_TIMEOUT.min(patience.mul_f64(0.8));
    let running = STATEMENT_TIMEOUT.min(patience.mul_f64(0.9));
    AssertSqlSafe(format!(
        "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
        waiting.as_millis().max(1),
        running.as_millis().max(1)
    ))
    .into_sql_str()
}

/// Begins such a transaction, in one message.
pub(super) fn begin(patience: Duration) -> SqlStr {
    AssertSqlSafe(format!("BEGIN; {}", for_transaction(patience).as_str())).into_sql_str()
}

/// Decides whether startup options or transactions set the limits.
#[derive(Default)]
pub(super) struct Limits {
    pooled: AtomicBool,
    /// Whether a connection has shown which of both.
    known: AtomicBool,
}

impl Limits {
    /// Whether a pooler may be in between, so that each statement has to run in a transaction that
    /// sets the limits.
    pub(super) fn by_transaction(&self, settings: &PostgresSettings) -> bool {
        !settings.statement_cache || self.pooled.load(Ordering::Acquire)
    }

    /// Whether [`Self::by_transaction`] is certain.
    pub(super) fn are_known(&self, settings: &PostgresSettings) -> bool {
        !settings.statement_cache || self.known.load(Ordering::Acquire)
    }

    /// Makes a connection, with the limits in its startup options unless a pooler is in between.
    pub(super) async fn connect(&self, settings: &PostgresSettings) -> sqlx::Result<Session> {
        if self.by_transaction(settings) {
            return settings.connect.connect().await.map(Session::pooled);
        }
        let mark = Uuid::new_v4().simple().to_string();
        let options = with_limits(&settings.connect).options([(MARK, &mark)]);
        let connection = match options.clone().options([PLAN_MODE]).connect().await {
            Err(error) if is_unknown_setting(&error) => options.connect().await,
            connected => connected,
        };
        let mut connection = match connection {
            Err(error) if refuses_settings(&error) => {
                let connection = settings.connect.connect().await?;
                self.found(true);
                return Ok(Session::pooled(connection));
            }
            connected => connected?,
        };
        let backend = started_with(&mut connection, &mark).await?;
        self.found(backend.is_none());
        Ok(Session {
            backend,
            ..Session::pooled(connection)
        })
    }

    fn found(&self, pooled: bool) {
        self.pooled.fetch_or(pooled, Ordering::AcqRel);
        self.known.store(true, Ordering::Release);
    }
}

/// Adds the limits to the startup options, unless the user has set them.
fn with_limits(options: &PgConnectOptions) -> PgConnectOptions {
    let limits = [
        ("lock_timeout", LOCK_TIMEOUT.as_millis()),
        ("statement_timeout", STATEMENT_TIMEOUT.as_millis()),
    ];
    let given = options.get_options().unwrap_or_default();
    // With the option's syntax, because `deadlock_timeout` contains `lock_timeout`.
    let missing = limits
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

    #[test]
    fn a_transaction_ends_before_the_client_gives_up() {
        let begun = |milliseconds| begin(Duration::from_millis(milliseconds)).as_str().to_owned();
        assert_eq!(
            begun(500),
            "BEGIN; SET LOCAL lock_timeout = 400; SET LOCAL statement_timeout = 450"
        );
        assert_eq!(
            begun(60_000),
            "BEGIN; SET LOCAL lock_timeout = 800; SET LOCAL statement_timeout = 4000"
        );
    }
}
