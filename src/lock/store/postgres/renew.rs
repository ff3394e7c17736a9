//! Moving the expiry of rows that are still ours and not expired.

use sqlx::Row as _;
use tokio::time::Instant;

use super::rule::{expiry, is_free, now};
use super::verb::{Answer, Job, PgQuery, Verb, column, give};
use crate::lock::error::StoreError;
use crate::lock::operation::{Operation, Renew};

const MANY: &str = concat!(
    "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::float8[]) WITH ORDINALITY AS rows (id, ttl, position)
), ours AS MATERIALIZED (
    SELECT locks.id FROM distributed_locks AS locks JOIN input ON locks.id = input.id
    ORDER BY locks.lock_key FOR UPDATE OF locks
)
UPDATE distributed_locks AS locks SET expires_at = ",
    expiry!("input.ttl"),
    "
FROM input, ours
WHERE locks.id = ours.id AND ours.id = input.id AND ",
    is_free!("locks.expires_at"),
    " IS FALSE
RETURNING input.position, locks.expires_at"
);

const ONE: &str = concat!(
    "UPDATE distributed_locks SET expires_at = ",
    expiry!("$2::float8"),
    " WHERE id = $1::text AND ",
    is_free!("expires_at"),
    " IS FALSE RETURNING 1::int8, expires_at"
);

impl Verb for Renew {
    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::Operation(Operation::Renew(renew)) => Ok(renew),
            other => Err(other),
        }
    }

    fn until(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn query(batch: &[Self], _notify: bool) -> PgQuery {
        if let [renew] = batch {
            return sqlx::query(ONE)
                .bind(renew.id.to_string())
                .bind(renew.ttl.as_secs_f64());
        }
        sqlx::query(MANY)
            .bind(column(batch, |renew| renew.id.to_string()))
            .bind(column(batch, |renew| renew.ttl.as_secs_f64()))
    }

    fn answer(batch: Vec<Self>, answer: &Answer<'_>) {
        let numbered = answer.numbered(batch.len());
        for (index, renew) in batch.into_iter().enumerate() {
            let expiry = numbered.row(index).map(|row| row.try_get(1)).transpose();
            give(renew.reply, expiry.map_err(|error| answer.unreadable(&error)));
        }
    }

    fn fail(self, error: &StoreError) {
        give(self.reply, Err(error.clone()));
    }
}
