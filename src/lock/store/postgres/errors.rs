//! Which of PostgreSQL's failures may pass by themselves.

use std::io::ErrorKind;

use super::PostgresSettings;
use crate::lock::error::StoreError;

/// How far a request had come when it failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Executing,
}

/// SQLSTATE classes and codes that say "later": lost connections, too many of them, a server that starts or stops, a conflict
/// with another transaction, a standby that has not been promoted yet. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
const PASSING: [&str; 9] = [
    "08", "53", "40", "57P01", "57P02", "57P03", "55P03", "57014", "25006",
];
/// Those of them after which nothing of the statement has remained.
const UNDONE: [&str; 5] = ["53", "40", "55P03", "57014", "25006"];

/// A prepared statement is there that we did not prepare, or one is not that we did.
const FOREIGN_SESSION: [&str; 2] = ["42P05", "26000"];

pub(super) fn store_error(settings: &PostgresSettings, phase: Phase, error: &sqlx::Error) -> StoreError {
    let mut message = format!("{}: {error}", settings.describe());
    let begins = |codes: &[&str]| code_begins(error, codes);
    if is_locked(error) {
        message = format!(
            "{}: another transaction has locked the table or a row of it: {error}",
            settings.describe()
        );
    }
    if settings.statement_cache && begins(&FOREIGN_SESSION) {
        message += "; behind a pooler in transaction mode, statement_cache=False is needed";
    }
    let transient = match error {
        sqlx::Error::Database(_) => begins(&PASSING),
        // A certificate that is not trusted: it will not be in a moment, either.
        sqlx::Error::Io(error) if phase == Phase::Connecting => error.kind() != ErrorKind::InvalidData,
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    };
    let undone = begins(&UNDONE) || (error.as_database_error().is_some() && !transient);
    StoreError {
        message,
        transient,
        outcome_unknown: phase == Phase::Executing && !undone,
        argument: None,
    }
}

fn code_begins(error: &sqlx::Error, codes: &[&str]) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| codes.iter().any(|begin| code.starts_with(begin)))
}

/// Whether the connection can carry out another statement after this error.
pub(super) fn connection_survives(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some() && !code_begins(error, &["08", "57P01", "57P02", "57P03"])
}

/// Whether another transaction has locked a row or the table.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    code_begins(error, &["55P03"])
}

/// Whether a table that was there has gone.
pub(super) fn table_is_missing(error: &sqlx::Error) -> bool {
    code_begins(error, &["42P01"])
}

/// Whether a limit of the server was exceeded. For a statement that notifies, the queue of
/// notifications is full, because a listening session has not read it for long. For a statement
/// that writes a key, the key is too long for the index.
pub(super) fn is_beyond_a_limit(error: &sqlx::Error) -> bool {
    code_begins(error, &["54000"])
}

/// Whether the server does not know a setting.
pub(super) fn is_unknown_setting(error: &sqlx::Error) -> bool {
    code_begins(error, &["42704"])
}

/// Whether a pooler refused the connection because of its startup options.
pub(super) fn refuses_settings(error: &sqlx::Error) -> bool {
    code_begins(error, &["08P01", "0A000"])
}
