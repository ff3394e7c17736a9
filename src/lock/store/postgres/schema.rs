//! The tables: made when missing, looked over when found.

use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use super::errors::{Phase, store_error};
use super::{PostgresSettings, Shared, limits};
use crate::lock::error::StoreError;

/// As SQLAlchemy's `create_all` makes it.
const LOCKS: &str = "\
CREATE TABLE IF NOT EXISTS distributed_locks (id VARCHAR NOT NULL, lock_key VARCHAR NOT NULL, holder_id VARCHAR NOT NULL, \
acquired_at FLOAT NOT NULL, expires_at FLOAT NOT NULL, created_at TIMESTAMP WITHOUT TIME ZONE, PRIMARY KEY (id)); \
CREATE UNIQUE INDEX IF NOT EXISTS ix_distributed_locks_lock_key ON distributed_locks (lock_key)";
/// Counters are rewritten in place: room on their pages keeps the index out of it.
const FENCES: &str = "\
CREATE TABLE IF NOT EXISTS arbitrageai_lock_fences (bucket INTEGER PRIMARY KEY, token BIGINT NOT NULL) \
WITH (fillfactor = 50)";
/// Not logged: what a crash loses here is made up for by polling.
const WAITERS: &str = "\
CREATE UNLOGGED TABLE IF NOT EXISTS arbitrageai_lock_waiters (key_hash BIGINT PRIMARY KEY, until FLOAT NOT NULL)";

/// The tables, and how each is made.
const TABLES: [(&str, &str); 3] = [
    (LOCK_TABLE, LOCKS),
    ("arbitrageai_lock_fences", FENCES),
    ("arbitrageai_lock_waiters", WAITERS),
];
/// The original's table.
pub(super) const LOCK_TABLE: &str = "distributed_locks";

/// Any constant that no other application uses for its advisory locks by chance.
const LOCK_WHILE_MAKING: &str = "SELECT pg_advisory_xact_lock(4796218120375551821)";

/// The columns of the original's table, and the types that serve.
const COLUMNS: [(&str, &[&str]); 6] = [
    ("id", &["character varying", "text"]),
    ("lock_key", &["character varying", "text"]),
    ("holder_id", &["character varying", "text"]),
    ("acquired_at", &["double precision"]),
    ("expires_at", &["double precision"]),
    (
        "created_at",
        &["timestamp without time zone", "timestamp with time zone"],
    ),
];

/// Makes the tables that are missing, however many processes do so at once. Done once for all connections.
///
/// # Errors
/// The server's refusal, or a table of another shape, naming the column.
pub(super) async fn prepare(shared: &Shared, connection: &mut PgConnection) -> Result<(), StoreError> {
    let mut prepared = shared.schema.lock().await;
    if !*prepared {
        let settings = &shared.settings;
        let missing = missing_tables(connection)
            .await
            .map_err(|error| failed(settings, &error))?;
        if !missing.is_empty() {
            make(connection, &missing)
                .await
                .map_err(|error| failed(settings, &error))?;
        }
        let difference = difference(connection)
            .await
            .map_err(|error| failed(settings, &error))?;
        if let Some(difference) = difference {
            return Err(StoreError::permanent(difference));
        }
        *prepared = true;
    }
    Ok(())
}

fn failed(settings: &PostgresSettings, error: &sqlx::Error) -> StoreError {
    let mut failure = store_error(settings, Phase::Connecting, error);
    // A table made by someone else between our look and our making.
    let code = error
        .as_database_error()
        .and_then(|error| error.code().map(|code| code.into_owned()));
    failure.transient |= matches!(code.as_deref(), Some("23505" | "42P07" | "42710" | "XX000"));
    if code.as_deref() == Some("42501") {
        failure.message = format!("{}: {}", settings.describe(), may_not_make());
    }
    failure
}

/// What to tell of a role that may not make the tables.
pub(super) fn may_not_make() -> String {
    format!("the role may not make the lock tables; let one who may run: {LOCKS}; {FENCES}; {WAITERS}")
}

/// The names of the tables that are missing.
pub(super) async fn missing_tables(connection: &mut PgConnection) -> sqlx::Result<Vec<&'static str>> {
    let mut transaction = connection.begin().await?;
    let mut missing = Vec::new();
    for (table, _) in TABLES {
        let query = sqlx::query_scalar::<_, bool>("SELECT to_regclass($1) IS NULL")
            .bind(table)
            .persistent(false);
        if query.fetch_one(&mut *transaction).await? {
            missing.push(table);
        }
    }
    transaction.commit().await?;
    Ok(missing)
}

async fn make(connection: &mut PgConnection, missing: &[&'static str]) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    transaction
        .execute(limits::for_transaction(limits::STATEMENT_ENDS))
        .await?;
    transaction.execute(LOCK_WHILE_MAKING).await?;
    for (_, statements) in TABLES.iter().filter(|(table, _)| missing.contains(table)) {
        for statement in statements.split("; ") {
            transaction.execute(statement).await?;
        }
    }
    transaction.commit().await
}

/// What is different about the table of the locks that is there; None if it serves.
pub(super) async fn difference(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let mut transaction = connection.begin().await?;
    let columns = sqlx::query(
        "SELECT attname::text, format_type(atttypid, NULL), attnotnull AND NOT atthasdef AND attidentity = '' \
         FROM pg_attribute WHERE attrelid = to_regclass('distributed_locks') AND attnum > 0 AND NOT attisdropped",
    )
    .persistent(false)
    .fetch_all(&mut *transaction)
    .await?;
    let unique = sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (SELECT 1 FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] \
         WHERE indrelid = to_regclass('distributed_locks') AND indisunique AND indisvalid AND indpred IS NULL \
         AND indnkeyatts = 1 AND attname = 'lock_key')",
    )
    .persistent(false)
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let columns = columns
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
        .collect::<sqlx::Result<Vec<(String, String, bool)>>>()?;
    let found = wrong_column(&columns).or((!unique).then(|| "lock_key has no unique index".to_owned()));
    Ok(found.map(|what| format!("the table {LOCK_TABLE} has another shape: column {what}")))
}

/// The first column (name, type, whether it must be given) that does not serve, and why.
fn wrong_column(columns: &[(String, String, bool)]) -> Option<String> {
    for (expected, types) in COLUMNS {
        match columns.iter().find(|(name, _, _)| name == expected) {
            None => return Some(format!("{expected} is missing")),
            Some((_, found, _)) if !types.contains(&found.as_str()) => {
                let usual = types.first().copied().unwrap_or_default();
                return Some(format!("{expected} is {found}, not {usual}"));
            }
            Some(_) => {}
        }
    }
    let unknown = |name: &str| !COLUMNS.iter().any(|(known, _)| *known == name);
    columns
        .iter()
        .find(|(name, _, must_be_given)| *must_be_given && unknown(name))
        .map(|(name, _, _)| format!("{name} is unknown here, and must be given"))
}
