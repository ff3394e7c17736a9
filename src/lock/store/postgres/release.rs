//! Deleting rows, and telling those who wait.
//!
//! In each statement the last parameter says whether it sends notifications, because a server whose
//! queue of notifications is full refuses the whole statement.

use std::sync::Arc;

use sqlx::{Row as _, ValueRef as _};
use tokio::time::Instant;

use super::rule::{is_free, now};
use super::signed_hash;
use super::verb::{Answer, Job, PgQuery, Verb, column, give};
use crate::lock::error::StoreError;
use crate::lock::operation::{Operation, Release, ReleaseTarget, Reply};

/// Whether somebody has noted lately that he waits for a key.
macro_rules! is_awaited {
    ($hash:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM arbitrageai_lock_waiters AS waiters WHERE waiters.key_hash = ",
            $hash,
            " AND waiters.until > ",
            now!(),
            ")"
        )
    };
}

/// A release that a crash undoes costs no more than the lock's time to live, so nobody waits for the
/// disk.
const ROWS: &str = concat!(
    "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::int8[]) WITH ORDINALITY AS rows (id, hash, position),
        (SELECT set_config('synchronous_commit', 'off', true)) AS limits (commit)
    WHERE limits.commit IS NOT NULL
), ours AS MATERIALIZED (
    SELECT locks.id FROM distributed_locks AS locks JOIN input ON locks.id = input.id
    ORDER BY locks.lock_key FOR UPDATE OF locks
), gone AS (
    DELETE FROM distributed_locks AS locks USING ours WHERE locks.id = ours.id RETURNING locks.id
)
SELECT input.position, CASE WHEN $3::bool AND ",
    is_awaited!("input.hash"),
    "
    THEN pg_notify('arbitrageai_locks', input.hash::text)::text END
FROM input JOIN gone ON gone.id = input.id"
);

/// [`ROWS`] for one row.
const ROW: &str = concat!(
    "\
WITH gone AS (
    DELETE FROM distributed_locks WHERE id = $1::text
        AND set_config('synchronous_commit', 'off', true) IS NOT NULL
    RETURNING id
)
SELECT 1::int8, CASE WHEN $3::bool AND ",
    is_awaited!("$2::int8"),
    "
    THEN pg_notify('arbitrageai_locks', $2::int8::text)::text END
FROM gone"
);

/// Deletes rows by key, and by holder where one is given.
const NAMED: &str = "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::text[], $3::int8[]) WITH ORDINALITY AS rows (key, holder, hash, position)
), theirs AS MATERIALIZED (
    SELECT locks.id, input.position, input.hash FROM distributed_locks AS locks
    JOIN input ON locks.lock_key = input.key AND (input.holder IS NULL OR locks.holder_id = input.holder)
    ORDER BY locks.lock_key FOR UPDATE OF locks
), gone AS (
    DELETE FROM distributed_locks AS locks USING theirs WHERE locks.id = theirs.id RETURNING locks.id
)
SELECT theirs.position, CASE WHEN $4::bool THEN pg_notify('arbitrageai_locks', theirs.hash::text)::text END
FROM theirs JOIN gone ON gone.id = theirs.id";

const ALL: &str = "\
WITH everything AS MATERIALIZED (
    SELECT id FROM distributed_locks ORDER BY lock_key FOR UPDATE
), gone AS (
    DELETE FROM distributed_locks AS locks USING everything WHERE locks.id = everything.id RETURNING locks.id
)
SELECT count(*), CASE WHEN $1::bool AND count(*) > 0 THEN pg_notify('arbitrageai_locks', '')::text END FROM gone";

/// Deletes the expired rows, except those that another transaction has locked to take them over.
const EXPIRED: &str = concat!(
    "\
WITH expired AS MATERIALIZED (
    SELECT id FROM distributed_locks WHERE ",
    is_free!("expires_at"),
    " AND lock_key LIKE 'bid:lock:_%:_%'
    ORDER BY lock_key FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM distributed_locks AS locks USING expired WHERE locks.id = expired.id RETURNING locks.id
)
SELECT count(*) FROM gone"
);

/// Whether a row was there. An earlier try, whose answer was lost, may have deleted it.
fn was_there(answer: &Answer<'_>, found: bool) -> Result<bool, StoreError> {
    if found || !answer.tried_before {
        return Ok(found);
    }
    Err(StoreError::unknown_outcome(format!(
        "{}: no answer to the release, and the row is gone",
        answer.shared.settings.describe()
    )))
}

/// A release of one acquisition's row.
pub(super) struct RowRelease {
    id: Arc<str>,
    hash: i64,
    until: Instant,
    reply: Reply<bool>,
}

/// A release of whatever stands under a key.
pub(super) struct NamedRelease {
    key: Arc<str>,
    holder: Option<Arc<str>>,
    until: Instant,
    reply: Reply<bool>,
}

impl Verb for RowRelease {
    const NOTIFIES: bool = true;

    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::Operation(Operation::Release(Release {
                target: ReleaseTarget::Row { id, key },
                until,
                reply,
            })) => Ok(Self {
                hash: signed_hash(&key),
                id,
                until,
                reply,
            }),
            other => Err(other),
        }
    }

    fn until(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn query(batch: &[Self], notify: bool) -> PgQuery {
        if let [one] = batch {
            return sqlx::query(ROW)
                .bind(one.id.to_string())
                .bind(one.hash)
                .bind(notify);
        }
        sqlx::query(ROWS)
            .bind(column(batch, |one| one.id.to_string()))
            .bind(column(batch, |one| one.hash))
            .bind(notify)
    }

    fn answer(batch: Vec<Self>, answer: &Answer<'_>) {
        let numbered = answer.numbered(batch.len());
        for (index, release) in batch.into_iter().enumerate() {
            let row = numbered.row(index);
            let notified = row.is_some_and(|row| row.try_get_raw(1).is_ok_and(|value| !value.is_null()));
            answer.shared.released(release.hash, notified);
            give(release.reply, was_there(answer, row.is_some()));
        }
    }

    fn fail(self, error: &StoreError) {
        give(self.reply, Err(error.clone()));
    }
}

impl Verb for NamedRelease {
    const NOTIFIES: bool = true;

    fn of(job: Job) -> Result<Self, Job> {
        let Job::Operation(Operation::Release(Release { target, until, reply })) = job else {
            return Err(job);
        };
        let (key, holder) = match target {
            ReleaseTarget::Holder { key, holder } => (key, Some(holder)),
            ReleaseTarget::Key { key } => (key, None),
            target @ ReleaseTarget::Row { .. } => {
                return Err(Job::Operation(Operation::Release(Release {
                    target,
                    until,
                    reply,
                })));
            }
        };
        Ok(Self {
            key,
            holder,
            until,
            reply,
        })
    }

    fn until(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn query(batch: &[Self], notify: bool) -> PgQuery {
        sqlx::query(NAMED)
            .bind(column(batch, |one| one.key.to_string()))
            .bind(column(batch, |one| one.holder.as_ref().map(ToString::to_string)))
            .bind(column(batch, |one| signed_hash(&one.key)))
            .bind(notify)
    }

    fn answer(batch: Vec<Self>, answer: &Answer<'_>) {
        let numbered = answer.numbered(batch.len());
        for (index, release) in batch.into_iter().enumerate() {
            give(release.reply, was_there(answer, numbered.row(index).is_some()));
        }
    }

    fn fail(self, error: &StoreError) {
        give(self.reply, Err(error.clone()));
    }
}

/// Deletes all rows, or the expired ones.
pub(super) struct Deletion<const EXPIRED_ONLY: bool>(Reply<u64>);

pub(super) type Clear = Deletion<false>;
pub(super) type Sweep = Deletion<true>;

impl<const EXPIRED_ONLY: bool> Verb for Deletion<EXPIRED_ONLY> {
    const NOTIFIES: bool = !EXPIRED_ONLY;

    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::Operation(Operation::Clear { reply, .. }) if !EXPIRED_ONLY => Ok(Self(reply)),
            Job::Operation(Operation::Sweep { reply, .. }) if EXPIRED_ONLY => Ok(Self(reply)),
            other => Err(other),
        }
    }

    fn query(_batch: &[Self], notify: bool) -> PgQuery {
        if EXPIRED_ONLY {
            sqlx::query(EXPIRED)
        } else {
            sqlx::query(ALL).bind(notify)
        }
    }

    fn answer(batch: Vec<Self>, answer: &Answer<'_>) {
        for deletion in batch {
            give(deletion.0, answer.count());
        }
    }

    fn fail(self, error: &StoreError) {
        give(self.0, Err(error.clone()));
    }
}
