//! Which of PostgreSQL's failures may pass by themselves.

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

pub(super) fn store_error(settings: &PostgresSettings, phase: Phase, error: &sqlx::Error) -> StoreError {
    let message = format!("{}: {error}", settings.describe());
    let code = error
        .as_database_error()
        .and_then(|error| error.code().map(|code| code.into_owned()));
    let begins = |codes: &[&str]| {
        code.as_deref()
            .is_some_and(|code| codes.iter().any(|begin| code.starts_with(begin)))
    };
    let transient = match error {
        sqlx::Error::Database(_) => begins(&PASSING),
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    };
    let undone = begins(&UNDONE) || (code.is_some() && !transient);
    StoreError {
        message,
        transient,
        outcome_unknown: phase == Phase::Executing && !undone,
    }
}

/// Whether another statement on the same connection makes sense.
pub(super) fn connection_survives(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| {
            !["08", "57P01", "57P02", "57P03"]
                .iter()
                .any(|begin| code.starts_with(begin))
        })
}

/// Whether a table that was there has gone.
pub(super) fn table_is_missing(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "42P01")
}
