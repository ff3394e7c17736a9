//! The tables: made when missing, looked over when found.

use rusqlite::{Connection, ErrorCode};

use crate::lock::error::StoreError;
use crate::lock::inspection::Tables;

/// As SQLAlchemy's `create_all` makes it.
const MAKE: &str = "\
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS distributed_locks (
        id VARCHAR NOT NULL, lock_key VARCHAR NOT NULL, holder_id VARCHAR NOT NULL,
        acquired_at FLOAT NOT NULL, expires_at FLOAT NOT NULL, created_at DATETIME, PRIMARY KEY (id));
    CREATE UNIQUE INDEX IF NOT EXISTS ix_distributed_locks_lock_key ON distributed_locks (lock_key);
    COMMIT";
const MAKE_FENCES: &str = "\
    CREATE TABLE IF NOT EXISTS arbitrageai_lock_fences (bucket INTEGER PRIMARY KEY, token BIGINT NOT NULL)";

/// Who waits in other processes: see [`super::turns`].
const MAKE_WAITERS: &str = "\
    CREATE TABLE IF NOT EXISTS arbitrageai_lock_waiters (lock_key VARCHAR NOT NULL, process VARCHAR NOT NULL, \
    since FLOAT NOT NULL, until FLOAT NOT NULL, PRIMARY KEY (lock_key, process))";

/// The tables, and the statements that make them.
const MAKING: [(&str, &str); 3] = [
    (LOCK_TABLE, MAKE),
    ("arbitrageai_lock_fences", MAKE_FENCES),
    ("arbitrageai_lock_waiters", MAKE_WAITERS),
];
pub(super) const LOCK_TABLE: &str = "distributed_locks";

const NO_UNIQUE_KEY: &str = "lock_key has no unique index";

/// The columns that the original's table has.
const COLUMNS: [&str; 6] = [
    "id",
    "lock_key",
    "holder_id",
    "acquired_at",
    "expires_at",
    "created_at",
];

struct Column {
    name: String,
    declared_type: String,
    must_be_given: bool,
}

/// Makes the tables that are missing, however many processes do so at once.
///
/// # Errors
/// The database's refusal, or a table of another shape, naming the column.
pub(super) fn prepare(connection: &Connection) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| {
        let _ = if connection.is_autocommit() {
            Ok(())
        } else {
            connection.execute_batch("ROLLBACK")
        };
        let message = format!("cannot prepare the table distributed_locks: {error}");
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::transient(message),
            _ => StoreError::permanent(message),
        }
    };
    match look(connection).map_err(failed)? {
        // SQLAlchemy creates the index in a separate transaction after the table, so this state may
        // pass.
        Tables::AnotherShape(difference) if difference.ends_with(NO_UNIQUE_KEY) => {
            return Err(StoreError::transient(difference));
        }
        Tables::AnotherShape(difference) => return Err(StoreError::permanent(difference)),
        Tables::Usable { missing } => {
            for (_, making) in MAKING.iter().filter(|(table, _)| missing.contains(table)) {
                connection.execute_batch(making).map_err(failed)?;
            }
        }
        Tables::NotNeeded => {}
    }
    Ok(())
}

/// The names of the tables.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    MAKING.iter().map(|(table, _)| *table)
}

/// What is there, without making anything.
pub(super) fn look(connection: &Connection) -> rusqlite::Result<Tables> {
    let mut missing = Vec::new();
    for table in tables() {
        let found = columns(connection, table)?;
        if found.is_empty() {
            missing.push(table);
        } else if table == LOCK_TABLE
            && let Some(difference) = difference(connection, &found)?
        {
            return Ok(Tables::AnotherShape(difference));
        }
    }
    Ok(Tables::Usable { missing })
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    connection
        .prepare("SELECT name, type, \"notnull\" AND dflt_value IS NULL FROM pragma_table_info(?1)")?
        .query_map([table], |row| {
            Ok(Column {
                name: row.get(0)?,
                declared_type: row.get(1)?,
                must_be_given: row.get(2)?,
            })
        })?
        .collect()
}

/// What is different about the table of the locks that is there; None if it serves.
fn difference(connection: &Connection, found: &[Column]) -> rusqlite::Result<Option<String>> {
    let mut what = wrong_column(found);
    if what.is_none() && !has_unique_key(connection)? {
        what = Some(NO_UNIQUE_KEY.to_owned());
    }
    Ok(what.map(|what| format!("the table {LOCK_TABLE} has another shape: column {what}")))
}

/// The first column that does not serve, and why.
fn wrong_column(found: &[Column]) -> Option<String> {
    for expected in COLUMNS {
        let Some(column) = found
            .iter()
            .find(|column| column.name.eq_ignore_ascii_case(expected))
        else {
            return Some(format!("{expected} is missing"));
        };
        let declared = column.declared_type.to_uppercase();
        let is_float = ["FLOA", "REAL", "DOUB"]
            .iter()
            .any(|part| declared.contains(part));
        if expected.ends_with("_at") && expected != "created_at" && !is_float {
            return Some(format!("{expected} is {declared}, not FLOAT"));
        }
    }
    let unknown = |column: &&Column| {
        !COLUMNS
            .iter()
            .any(|known| column.name.eq_ignore_ascii_case(known))
    };
    found
        .iter()
        .filter(unknown)
        .find(|column| column.must_be_given)
        .map(|column| format!("{} is unknown here, and must be given", column.name))
}

fn has_unique_key(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM pragma_index_list('distributed_locks') AS list \
         WHERE list.\"unique\" AND NOT list.partial \
         AND (SELECT group_concat(name) FROM pragma_index_info(list.name)) = 'lock_key')",
        [],
        |row| row.get(0),
    )
}
