//! Looking at rows.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::postgres::PgRow;
use tokio::time::Instant;

use super::row::{read_key, read_row};
use super::rule::{is_free, now, row_columns};
use super::verb::{Answer, Job, PgQuery, Verb, give};
use crate::lock::error::StoreError;
use crate::lock::operation::{LockRow, Operation, Reply};

const HELD: &str = concat!(
    "SELECT lock_key, ",
    row_columns!(""),
    " FROM distributed_locks WHERE lock_key = ANY ($1::text[]) AND ",
    is_free!("expires_at"),
    " IS NOT TRUE"
);

/// As [`HELD`] for a single key, which is what most processes look for. The server plans it once and
/// not anew each time, as it does with an array, of which it can't know the length.
const HELD_ONE: &str = concat!(
    "SELECT lock_key, ",
    row_columns!(""),
    " FROM distributed_locks WHERE lock_key = $1 AND ",
    is_free!("expires_at"),
    " IS NOT TRUE"
);

pub(super) const LIST: &str = concat!(
    "SELECT lock_key, ",
    row_columns!(""),
    " FROM distributed_locks ORDER BY lock_key"
);

const COUNT: &str = concat!(
    "SELECT count(*) FROM distributed_locks WHERE ",
    is_free!("expires_at"),
    " IS NOT TRUE"
);

/// The rows of a look, with their keys in the first column.
pub(super) fn read_rows(rows: &[PgRow]) -> sqlx::Result<Vec<LockRow>> {
    rows.iter()
        .map(|row| Ok(read_row(row, 1, read_key(row)?)?.row))
        .collect()
}

/// Who holds which of these keys.
pub(super) struct Observe {
    keys: Vec<Arc<str>>,
    until: Instant,
    reply: Reply<Vec<LockRow>>,
}

impl Verb for Observe {
    const IS_LOOK: bool = true;

    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::Operation(Operation::Observe { keys, until, reply }) => Ok(Self { keys, until, reply }),
            other => Err(other),
        }
    }

    fn until(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn query(batch: &[Self], _notify: bool) -> PgQuery {
        let keys = batch
            .iter()
            .flat_map(|look| look.keys.iter().map(ToString::to_string));
        let keys: Vec<_> = keys.collect();
        match <[String; 1]>::try_from(keys) {
            Ok([key]) => sqlx::query(HELD_ONE).bind(key),
            Err(keys) => sqlx::query(HELD).bind(keys),
        }
    }

    fn answer(batch: Vec<Self>, answer: &Answer<'_>) {
        let found = read_rows(answer.rows).map_err(|error| answer.unreadable(&error));
        for look in batch {
            let keys: HashSet<Arc<str>> = look.keys.into_iter().collect();
            let of_these = |rows: &Vec<LockRow>| -> Vec<LockRow> {
                let wanted = rows.iter().filter(|row| keys.contains(&row.key));
                wanted.cloned().collect()
            };
            give(look.reply, found.as_ref().map(of_these).map_err(Clone::clone));
        }
    }

    fn fail(self, error: &StoreError) {
        give(self.reply, Err(error.clone()));
    }
}

/// All rows, expired ones too.
pub(super) struct List(Reply<Vec<LockRow>>);

impl Verb for List {
    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::Operation(Operation::List { reply, .. }) => Ok(Self(reply)),
            other => Err(other),
        }
    }

    fn query(_batch: &[Self], _notify: bool) -> PgQuery {
        sqlx::query(LIST)
    }

    fn answer(batch: Vec<Self>, answer: &Answer<'_>) {
        let found = read_rows(answer.rows).map_err(|error| answer.unreadable(&error));
        for list in batch {
            give(list.0, found.clone());
        }
    }

    fn fail(self, error: &StoreError) {
        give(self.0, Err(error.clone()));
    }
}

/// The number of rows that have not expired.
pub(super) struct Count(Reply<u64>);

impl Verb for Count {
    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::Operation(Operation::Count { reply, .. }) => Ok(Self(reply)),
            other => Err(other),
        }
    }

    fn query(_batch: &[Self], _notify: bool) -> PgQuery {
        sqlx::query(COUNT)
    }

    fn answer(batch: Vec<Self>, answer: &Answer<'_>) {
        for asked in batch {
            give(asked.0, answer.count());
        }
    }

    fn fail(self, error: &StoreError) {
        give(self.0, Err(error.clone()));
    }
}
