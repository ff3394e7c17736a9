//! Giving rows that are ours to other acquisitions of this process: nobody else finds them free in
//! between.

use std::sync::Arc;

use tokio::time::Instant;

use super::acquire::read_won;
use super::fence_bucket;
use super::rule::{expiry, now};
use super::verb::{Answer, Job, PgQuery, Verb, column, give};
use crate::lock::error::StoreError;
use crate::lock::operation::{HandOver, Operation};

/// The tokens are given, and the counters are brought up to them. A row that has its new id already
/// was given in an earlier try whose answer was lost, or this statement comes late. Its holder may
/// believe in a later end then, so the row ends no sooner.
const MANY: &str = concat!(
    "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::int4[], $7::int8[])
        WITH ORDINALITY AS rows (key, previous, id, holder, ttl, bucket, token, position)
), ours AS MATERIALIZED (
    SELECT input.* FROM distributed_locks AS locks
    JOIN input ON locks.lock_key = input.key AND locks.id IN (input.previous, input.id)
    ORDER BY locks.lock_key FOR UPDATE OF locks
), won AS (
    UPDATE distributed_locks AS locks SET id = ours.id, holder_id = ours.holder, acquired_at = ",
    now!(),
    ", expires_at = greatest(",
    expiry!("ours.ttl"),
    ", CASE WHEN locks.id = ours.id AND locks.expires_at < 'infinity' THEN locks.expires_at END),
        created_at = clock_timestamp() AT TIME ZONE 'UTC'
    FROM ours WHERE locks.lock_key = ours.key AND locks.id IN (ours.previous, ours.id)
    RETURNING ours.position, ours.bucket, ours.token, locks.acquired_at, locks.expires_at
), fence AS (
    INSERT INTO arbitrageai_lock_fences AS fences (bucket, token)
    SELECT won.bucket, max(won.token) FROM won GROUP BY won.bucket ORDER BY won.bucket
    ON CONFLICT (bucket) DO UPDATE SET token = greatest(fences.token, excluded.token)
)
SELECT position, acquired_at, expires_at FROM won"
);

/// [`MANY`] for one row.
const ONE: &str = concat!(
    "\
WITH won AS (
    UPDATE distributed_locks SET id = $3::text, holder_id = $4::text, acquired_at = ",
    now!(),
    ", expires_at = greatest(",
    expiry!("$5::float8"),
    ", CASE WHEN id = $3::text AND expires_at < 'infinity' THEN expires_at END),
        created_at = clock_timestamp() AT TIME ZONE 'UTC'
    WHERE lock_key = $1::text AND id IN ($2::text, $3::text)
    RETURNING acquired_at, expires_at
), fence AS (
    INSERT INTO arbitrageai_lock_fences AS fences (bucket, token)
    SELECT $6::int4, $7::int8 FROM won
    ON CONFLICT (bucket) DO UPDATE SET token = greatest(fences.token, excluded.token)
)
SELECT 1::int8, acquired_at, expires_at FROM won"
);

impl Verb for HandOver {
    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::Operation(Operation::HandOver(hand_over)) => Ok(hand_over),
            other => Err(other),
        }
    }

    fn until(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn alone_on(&self) -> Option<&Arc<str>> {
        Some(&self.key)
    }

    fn query(batch: &[Self], _notify: bool) -> PgQuery {
        if let [one] = batch {
            return sqlx::query(ONE)
                .bind(one.key.to_string())
                .bind(one.from.to_string())
                .bind(one.id.to_string())
                .bind(one.holder.to_string())
                .bind(one.ttl.as_secs_f64())
                .bind(fence_bucket(&one.key))
                .bind(one.token);
        }
        sqlx::query(MANY)
            .bind(column(batch, |one| one.key.to_string()))
            .bind(column(batch, |one| one.from.to_string()))
            .bind(column(batch, |one| one.id.to_string()))
            .bind(column(batch, |one| one.holder.to_string()))
            .bind(column(batch, |one| one.ttl.as_secs_f64()))
            .bind(column(batch, |one| fence_bucket(&one.key)))
            .bind(column(batch, |one| one.token))
    }

    fn answer(batch: Vec<Self>, answer: &Answer<'_>) {
        let numbered = answer.numbered(batch.len());
        for (index, hand_over) in batch.into_iter().enumerate() {
            let won = numbered
                .row(index)
                .map(|row| read_won(row, hand_over.token))
                .transpose();
            give(hand_over.reply, won.map_err(|error| answer.unreadable(&error)));
        }
    }

    fn fail(self, error: &StoreError) {
        give(self.reply, Err(error.clone()));
    }
}
