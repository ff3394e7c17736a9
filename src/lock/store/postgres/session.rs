//! A connection, the server's process behind it, and a statement that is sent over it.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _, SqlStr};
use tokio::time::{Instant, sleep};

use super::errors::connection_survives;
use super::verb::PgQuery;

/// A setting that means nothing to the server. A session that shows the value of our startup options
/// was started by them, so there is no pooler in between.
pub(super) const MARK: &str = "arbitrageai_native.session";

/// A process of the server, which serves one connection.
#[derive(Clone)]
pub(super) struct Backend {
    process: i32,
    /// The number of a process that has ended may be another one's.
    started: String,
}

/// A connection to the server, not through a pooler as far as is known.
pub(super) struct Session {
    pub(super) connection: PgConnection,
    pub(super) backend: Option<Backend>,
    pub(super) answered_at: Instant,
}

impl Session {
    pub(super) fn pooled(connection: PgConnection) -> Self {
        Self {
            connection,
            backend: None,
            answered_at: Instant::now(),
        }
    }

    /// Ends another process of the server, so that nothing that was sent to it is carried out later.
    /// Returns whether it has certainly ended, and this session if it can still be used.
    pub(super) async fn end(mut self, other: &Backend) -> (Option<Self>, bool) {
        const END: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE pid = $1 AND backend_start = $2::timestamptz";
        for pause in [2, 5, 10, 20, 50, 100, 200] {
            let standing = sqlx::query_scalar::<_, i64>(END)
                .bind(other.process)
                .bind(&other.started)
                .persistent(false)
                .fetch_one(&mut self.connection);
            match standing.await {
                Ok(0) => return (Some(self), true),
                Ok(_) => sleep(Duration::from_millis(pause)).await,
                Err(sqlx::Error::Database(_)) => return (Some(self), false),
                Err(_) => return (None, false),
            }
        }
        (Some(self), false)
    }

    /// Whether the server answers.
    pub(super) async fn answers(&mut self) -> bool {
        let answered = self.connection.ping().await.is_ok();
        self.answered_at = Instant::now();
        answered
    }
}

/// The process behind a connection, if the session was started with the mark.
pub(super) async fn started_with(connection: &mut PgConnection, mark: &str) -> sqlx::Result<Option<Backend>> {
    let which = format!(
        "SELECT current_setting('{MARK}', true), pid, backend_start::text \
         FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    );
    // Without parameters it is a single message.
    let found = connection.fetch_optional(AssertSqlSafe(which)).await?;
    let Some(row) = found else { return Ok(None) };
    let is_ours = row.try_get::<Option<String>, _>(0)?.as_deref() == Some(mark);
    Ok(is_ours.then_some(Backend {
        process: row.try_get(1)?,
        started: row.try_get(2)?,
    }))
}

/// A statement, and the way to send it.
pub(super) struct Statement {
    pub(super) query: PgQuery,
    pub(super) plan_anew: bool,
    /// How the statement's own transaction begins, if it has one.
    pub(super) transaction: Option<SqlStr>,
    pub(super) patience: Duration,
}

impl Statement {
    /// Returns the answer of the server, and the connection if it can still be used.
    pub(super) async fn run(self, mut session: Session) -> (Option<Session>, sqlx::Result<Vec<PgRow>>) {
        let in_transaction = self.transaction.is_some();
        let outcome = self.send(&mut session).await;
        session.answered_at = Instant::now();
        let serves = match &outcome {
            Ok(_) => true,
            Err(error) if !connection_survives(error) => false,
            Err(_) => !in_transaction || session.connection.execute("ROLLBACK").await.is_ok(),
        };
        (serves.then_some(session), outcome)
    }

    async fn send(self, session: &mut Session) -> sqlx::Result<Vec<PgRow>> {
        let connection = &mut session.connection;
        if self.plan_anew {
            connection.execute("DISCARD PLANS").await?;
        }
        let query = self.query.persistent(self.transaction.is_none());
        let Some(begin) = self.transaction else {
            return query.fetch_all(connection).await;
        };
        // A pooler keeps one server connection for a whole transaction. Outside a transaction, the
        // messages that prepare and execute a statement may reach two different server connections.
        let until = Instant::now() + self.patience;
        // The callers have given up then, so the statement must not be carried out late.
        let in_time = || {
            (Instant::now() < until)
                .then_some(())
                .ok_or(sqlx::Error::PoolTimedOut)
        };
        connection.execute(begin).await?;
        in_time()?;
        let rows = query.fetch_all(&mut *connection).await?;
        in_time()?;
        connection.execute("COMMIT").await?;
        Ok(rows)
    }
}
