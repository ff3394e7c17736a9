//! Taking rows that are free.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{Row as _, ValueRef as _};
use tokio::time::Instant;

use super::errors::is_beyond_a_limit;
use super::fence_bucket;
use super::row::{Standing, read_row};
use super::rule::{expiry, is_free, now, own_expiry, row_columns};
use super::verb::{Answer, Job, PgQuery, Verb, column};
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, Operation, Won};

/// A held row is not touched at all: `seen` leaves it out before the insert would lock it. A row of
/// the same id is ours, from an earlier try whose answer was lost.
///
/// The fencing tokens are drawn only after all rows have been won, since `GROUP BY` needs them all.
/// A token drawn earlier would tell the order of coming, not of holding. For the same reason the
/// caller learns the time after the row was won: the insert may have waited until another row had
/// come and gone. Tokens step by two: the one in between serves to hand the lock over without
/// asking.
const MANY: &str = concat!(
    "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::int4[])
        WITH ORDINALITY AS rows (key, id, holder, ttl, bucket, position)
), seen AS MATERIALIZED (
    SELECT locks.lock_key, locks.id, locks.holder_id, locks.acquired_at, locks.expires_at
    FROM distributed_locks AS locks JOIN input ON locks.lock_key = input.key
), won AS (
    INSERT INTO distributed_locks AS locks (id, lock_key, holder_id, acquired_at, expires_at, created_at)
    SELECT input.id, input.key, input.holder, clock.now, ",
    expiry!("clock.now", "input.ttl"),
    ", clock_timestamp() AT TIME ZONE 'UTC'
    FROM input, LATERAL (SELECT ",
    now!(),
    " + 0 * input.position AS now) AS clock
    WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.lock_key = input.key AND seen.id <> input.id AND ",
    is_free!("seen.expires_at"),
    " IS NOT TRUE)
    ORDER BY input.key
    ON CONFLICT (lock_key) DO UPDATE SET id = excluded.id, holder_id = excluded.holder_id, acquired_at = ",
    now!(),
    ", expires_at = greatest(",
    expiry!("(excluded.expires_at - excluded.acquired_at)"),
    ", ",
    own_expiry!(),
    "), created_at = excluded.created_at
    WHERE ",
    is_free!("locks.expires_at"),
    " OR locks.id = excluded.id
    RETURNING locks.lock_key, ",
    now!(),
    " AS acquired_at, locks.expires_at
), fence AS (
    INSERT INTO arbitrageai_lock_fences AS fences (bucket, token)
    SELECT input.bucket, (max(won.acquired_at) * 1000000)::int8
    FROM won JOIN input ON input.key = won.lock_key
    GROUP BY input.bucket ORDER BY input.bucket
    ON CONFLICT (bucket) DO UPDATE SET token = greatest(fences.token + 2, excluded.token)
    RETURNING fences.bucket, fences.token
)
SELECT input.position, won.acquired_at, won.expires_at, fence.token, ",
    row_columns!("seen."),
    "
FROM input LEFT JOIN won ON won.lock_key = input.key
    LEFT JOIN fence ON fence.bucket = input.bucket AND won.lock_key IS NOT NULL
    LEFT JOIN seen ON seen.lock_key = input.key"
);

/// [`MANY`] for one row. Most requests come alone, and going through arrays takes the server as long
/// again as the rest.
const ONE: &str = concat!(
    "\
WITH seen AS MATERIALIZED (
    SELECT id, holder_id, acquired_at, expires_at FROM distributed_locks WHERE lock_key = $1::text
), won AS (
    INSERT INTO distributed_locks AS locks (id, lock_key, holder_id, acquired_at, expires_at, created_at)
    SELECT $2::text, $1::text, $3::text, clock.now, ",
    expiry!("clock.now", "$4::float8"),
    ", clock_timestamp() AT TIME ZONE 'UTC'
    FROM (SELECT ",
    now!(),
    " AS now) AS clock
    WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.id <> $2::text AND ",
    is_free!("seen.expires_at"),
    " IS NOT TRUE)
    ON CONFLICT (lock_key) DO UPDATE SET id = excluded.id, holder_id = excluded.holder_id, acquired_at = ",
    now!(),
    ", expires_at = greatest(",
    expiry!("(excluded.expires_at - excluded.acquired_at)"),
    ", ",
    own_expiry!(),
    "), created_at = excluded.created_at
    WHERE ",
    is_free!("locks.expires_at"),
    " OR locks.id = excluded.id
    RETURNING ",
    now!(),
    " AS acquired_at, locks.expires_at
), fence AS (
    INSERT INTO arbitrageai_lock_fences AS fences (bucket, token)
    SELECT $5::int4, (won.acquired_at * 1000000)::int8 FROM won
    ON CONFLICT (bucket) DO UPDATE SET token = greatest(fences.token + 2, excluded.token)
    RETURNING fences.token
)
SELECT 1::int8, won.acquired_at, won.expires_at, fence.token, ",
    row_columns!("seen."),
    "
FROM (SELECT) AS answer LEFT JOIN won ON true LEFT JOIN fence ON true LEFT JOIN seen ON true"
);

impl Verb for Acquire {
    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::Operation(Operation::Acquire(acquire)) => Ok(acquire),
            other => Err(other),
        }
    }

    fn until(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn alone_on(&self) -> Option<&Arc<str>> {
        Some(&self.claim.key)
    }

    fn query(batch: &[Self], _notify: bool) -> PgQuery {
        if let [Self { claim, .. }] = batch {
            return sqlx::query(ONE)
                .bind(claim.key.to_string())
                .bind(claim.id.to_string())
                .bind(claim.holder.to_string())
                .bind(claim.ttl.as_secs_f64())
                .bind(fence_bucket(&claim.key));
        }
        sqlx::query(MANY)
            .bind(column(batch, |one| one.claim.key.to_string()))
            .bind(column(batch, |one| one.claim.id.to_string()))
            .bind(column(batch, |one| one.claim.holder.to_string()))
            .bind(column(batch, |one| one.claim.ttl.as_secs_f64()))
            .bind(column(batch, |one| fence_bucket(&one.claim.key)))
    }

    fn answer(batch: Vec<Self>, answer: &Answer<'_>) {
        let numbered = answer.numbered(batch.len());
        for (index, acquire) in batch.into_iter().enumerate() {
            match numbered.row(index) {
                Some(row) => answer_one(acquire, row, answer),
                None => acquire.held(None),
            }
        }
    }

    fn fail(self, error: &StoreError) {
        self.failed(error.clone());
    }

    fn refused(&self, error: &sqlx::Error) -> Option<StoreError> {
        is_beyond_a_limit(error).then(|| StoreError::overlong_key(&self.claim.key))
    }
}

fn answer_one(acquire: Acquire, row: &PgRow, answer: &Answer<'_>) {
    let key = Arc::clone(&acquire.claim.key);
    let read = || -> sqlx::Result<Result<Won, Option<Standing>>> {
        if let Some(token) = row.try_get(3)? {
            return read_won(row, token).map(Ok);
        }
        let is_null = |column| row.try_get_raw(column).map(|value| value.is_null());
        if is_null(4)? && is_null(5)? && is_null(7)? {
            return Ok(Err(None));
        }
        read_row(row, 4, Arc::clone(&key)).map(|standing| Err(Some(standing)))
    };
    match read() {
        Ok(Ok(won)) => acquire.won(won),
        Ok(Err(Some(Standing {
            unreadable: Some(what),
            ..
        }))) => acquire.failed(StoreError::unreadable_row(&key, what).at(&answer.shared.settings.describe())),
        Ok(Err(by)) => {
            answer.shared.taken_by_others(&key);
            acquire.held(by.map(|standing| standing.row));
        }
        Err(error) => acquire.failed(answer.unreadable(&error)),
    }
}

/// A row just won: since when, and until when, from the second column on.
pub(super) fn read_won(row: &PgRow, token: i64) -> sqlx::Result<Won> {
    Ok(Won {
        token,
        acquired_at: row.try_get(1)?,
        expires_at: row.try_get(2)?,
    })
}
