//! What a statement's rows say to each of the requests that shared it.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::errors::{Phase, store_error};
use super::{Job, Shared};
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, HandOver, LockRow, Operation, Release, Renew, Reply, Won};

/// Gives each request its part of the rows.
pub(super) fn answer(batch: Vec<Job>, rows: &[PgRow], shared: &Shared) {
    let failed = |error: &sqlx::Error| store_error(&shared.settings, Phase::Executing, error);
    let numbered = match batch.first() {
        Some(Job::Operation(
            Operation::Acquire(_) | Operation::Renew(_) | Operation::Release(_) | Operation::HandOver(_),
        )) => by_number(rows, batch.len()),
        _ => Vec::new(),
    };
    let row_of = |index: usize| numbered.get(index).copied().flatten();
    let observed: sqlx::Result<Vec<LockRow>> = match batch.first() {
        Some(Job::Operation(Operation::Observe { .. } | Operation::List { .. })) => {
            rows.iter().map(|row| read_row(row, 0, None)).collect()
        }
        _ => Ok(Vec::new()),
    };
    for (index, job) in batch.into_iter().enumerate() {
        let operation = match job {
            Job::Operation(operation) => operation,
            Job::Note(_) => continue,
        };
        match operation {
            Operation::Acquire(acquire) => answer_acquire(acquire, row_of(index), failed),
            Operation::Renew(Renew { reply, .. }) => {
                let expiry = row_of(index).map(|row| row.try_get::<f64, _>(1)).transpose();
                give(reply, expiry.map_err(|error| failed(&error)));
            }
            Operation::Release(Release { reply, .. }) => give(reply, Ok(row_of(index).is_some())),
            Operation::HandOver(HandOver { token, reply, .. }) => {
                let won = row_of(index).map(|row| read_won(row, token)).transpose();
                give(reply, won.map_err(|error| failed(&error)));
            }
            Operation::Observe { keys, reply } => {
                let keys: HashSet<Arc<str>> = keys.into_iter().collect();
                let rows = observed.as_ref().map_err(failed).map(|rows| {
                    rows.iter()
                        .filter(|row| keys.contains(&row.key))
                        .cloned()
                        .collect()
                });
                give(reply, rows);
            }
            Operation::List { reply } => give(reply, observed.as_ref().map_err(failed).cloned()),
            Operation::Count { reply } | Operation::Clear { reply } | Operation::Sweep { reply } => {
                let count = rows.first().map_or(Ok(0), |row| row.try_get::<i64, _>(0));
                give(
                    reply,
                    count.map(i64::unsigned_abs).map_err(|error| failed(&error)),
                );
            }
        }
    }
}

/// The rows of a statement over so many requests, which numbers them from 1 in its first column.
fn by_number(rows: &[PgRow], requests: usize) -> Vec<Option<&PgRow>> {
    let mut numbered = vec![None; requests];
    for row in rows {
        let slot = row
            .try_get::<i64, _>(0)
            .ok()
            .and_then(|position| usize::try_from(position - 1).ok())
            .and_then(|index| numbered.get_mut(index));
        if let Some(slot) = slot {
            *slot = Some(row);
        }
    }
    numbered
}

fn give<T>(reply: Reply<T>, value: Result<T, StoreError>) {
    let _ = reply.send(value);
}

/// A row just won: when, and until when, from the second column on.
fn read_won(row: &PgRow, token: i64) -> sqlx::Result<Won> {
    Ok(Won {
        token,
        acquired_at: row.try_get(1)?,
        expires_at: row.try_get(2)?,
    })
}

fn answer_acquire(acquire: Acquire, row: Option<&PgRow>, failed: impl Fn(&sqlx::Error) -> StoreError) {
    let read = |row: &PgRow| -> sqlx::Result<Result<Won, Option<LockRow>>> {
        if let Some(token) = row.try_get(3)? {
            return read_won(row, token).map(Ok);
        }
        let holder: Option<String> = row.try_get(4)?;
        holder
            .map(|_| read_row(row, 3, Some(&acquire.claim.key)))
            .transpose()
            .map(Err)
    };
    match row.map(read) {
        Some(Ok(Ok(won))) => acquire.won(won),
        Some(Ok(Err(by))) => acquire.held(by),
        Some(Err(error)) => {
            let error = failed(&error);
            acquire.failed(error);
        }
        None => acquire.held(None),
    }
}

/// A row as `OBSERVE` has it, from a column on; the key is the first of them unless it is known.
pub(super) fn read_row(row: &PgRow, from: usize, key: Option<&Arc<str>>) -> sqlx::Result<LockRow> {
    Ok(LockRow {
        key: match key {
            Some(key) => Arc::clone(key),
            None => row.try_get::<String, _>(from)?.into(),
        },
        id: row.try_get(from + 1)?,
        holder: row.try_get(from + 2)?,
        acquired_at: row.try_get(from + 3)?,
        expires_at: row.try_get(from + 4)?,
        expires_in: row.try_get(from + 5)?,
    })
}
