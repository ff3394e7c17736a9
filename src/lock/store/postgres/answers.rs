//! What a statement's rows say to each of the requests that shared it.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{Row as _, ValueRef as _};

use super::errors::{Phase, store_error};
use super::{Job, Shared};
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, HandOver, LockRow, Operation, Release, Renew, Reply, Won};
use crate::lock::store::is_a_date;

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
            let read = |row| Ok(read_row(row, 0, None)?.row);
            rows.iter().map(read).collect()
        }
        _ => Ok(Vec::new()),
    };
    for (index, job) in batch.into_iter().enumerate() {
        let operation = match job {
            Job::Operation(operation) => operation,
            Job::Note(_) => continue,
        };
        match operation {
            Operation::Acquire(acquire) => answer_acquire(acquire, row_of(index), shared),
            Operation::Renew(Renew { reply, .. }) => {
                let expiry = row_of(index).map(|row| row.try_get::<f64, _>(1)).transpose();
                give(reply, expiry.map_err(|error| failed(&error)));
            }
            Operation::Release(Release { reply, .. }) => give(reply, Ok(row_of(index).is_some())),
            Operation::HandOver(HandOver { token, reply, .. }) => {
                let won = row_of(index).map(|row| read_won(row, token)).transpose();
                give(reply, won.map_err(|error| failed(&error)));
            }
            Operation::Observe { keys, reply, .. } => {
                let keys: HashSet<Arc<str>> = keys.into_iter().collect();
                let rows = observed.as_ref().map_err(failed).map(|rows| {
                    rows.iter()
                        .filter(|row| keys.contains(&row.key))
                        .cloned()
                        .collect()
                });
                give(reply, rows);
            }
            Operation::List { reply, .. } => give(reply, observed.as_ref().map_err(failed).cloned()),
            Operation::Count { reply, .. }
            | Operation::Clear { reply, .. }
            | Operation::Sweep { reply, .. } => {
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

fn answer_acquire(acquire: Acquire, row: Option<&PgRow>, shared: &Shared) {
    let place = || shared.settings.describe();
    let key = Arc::clone(&acquire.claim.key);
    let Some(row) = row else { return acquire.held(None) };
    let read = || -> sqlx::Result<Result<Won, Option<Standing>>> {
        if let Some(token) = row.try_get(3)? {
            return read_won(row, token).map(Ok);
        }
        let is_null = |column| row.try_get_raw(column).map(|value| value.is_null());
        if is_null(4)? && is_null(5)? && is_null(7)? {
            return Ok(Err(None));
        }
        read_row(row, 3, Some(&key)).map(|standing| Err(Some(standing)))
    };
    match read() {
        Ok(Ok(won)) => acquire.won(won),
        Ok(Err(Some(Standing {
            unreadable: Some(what),
            ..
        }))) => acquire.failed(StoreError::unreadable_row(&key, what).at(&place())),
        Ok(Err(by)) => acquire.held(by.map(|standing| standing.row)),
        Err(error) => acquire.failed(store_error(&shared.settings, Phase::Executing, &error)),
    }
}

/// A row, and why its expiry can't be read, if it can't.
pub(super) struct Standing {
    pub(super) row: LockRow,
    unreadable: Option<&'static str>,
}

/// Reads a row in the order of the columns of `OBSERVE`, from the column `from` on. The first
/// column is the key, unless the caller knows the key. Values that another program wrote never make
/// the reading fail. A row whose expiry can't be read never expires.
pub(super) fn read_row(row: &PgRow, from: usize, key: Option<&Arc<str>>) -> sqlx::Result<Standing> {
    let time = |column: usize| row.try_get::<Option<f64>, _>(from + column);
    let text = |column: usize| -> sqlx::Result<String> {
        let value = row.try_get_raw(from + column)?;
        if value.is_null() {
            return Ok(String::new());
        }
        // A server without an encoding (SQL_ASCII) sends any bytes.
        let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    };
    let expires_at = time(4)?;
    let unreadable = match expires_at {
        None => Some("its expires_at is NULL"),
        Some(time) if time.is_nan() => Some("its expires_at is NaN"),
        Some(_) => None,
    };
    let or_never = |time: Option<f64>| time.filter(|time| !time.is_nan()).unwrap_or(f64::INFINITY);
    Ok(Standing {
        row: LockRow {
            key: match key {
                Some(key) => Arc::clone(key),
                None => text(0)?.into(),
            },
            id: text(1)?,
            holder: text(2)?,
            acquired_at: time(3)?.filter(|time| is_a_date(*time)).unwrap_or(0.0),
            expires_at: or_never(expires_at),
            expires_in: or_never(time(5)?),
        },
        unreadable,
    })
}
