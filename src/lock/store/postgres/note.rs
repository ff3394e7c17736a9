//! Noting that somebody waits, so that a release notifies. A lost note costs no more than a poll.

use super::NOTE_LASTS;
use super::rule::now;
use super::verb::{Answer, Job, PgQuery, Verb, column};
use crate::lock::error::StoreError;

/// Also deletes notes that nobody has written for long.
const NOTE: &str = concat!(
    "\
WITH input AS MATERIALIZED (
    SELECT DISTINCT rows.hash FROM unnest($1::int8[]) AS rows (hash),
        (SELECT set_config('synchronous_commit', 'off', true)) AS limits (commit)
    WHERE limits.commit IS NOT NULL
), old AS MATERIALIZED (
    SELECT key_hash FROM arbitrageai_lock_waiters WHERE until < ",
    now!(),
    " - 60 LIMIT 1000 FOR UPDATE SKIP LOCKED
), swept AS (
    DELETE FROM arbitrageai_lock_waiters AS waiters USING old
    WHERE waiters.key_hash = old.key_hash AND old.key_hash NOT IN (SELECT hash FROM input)
)
INSERT INTO arbitrageai_lock_waiters AS waiters (key_hash, until)
SELECT hash, ",
    now!(),
    " + $2 FROM input ORDER BY hash
ON CONFLICT (key_hash) DO UPDATE SET until = greatest(waiters.until, excluded.until)"
);

/// Somebody waits for the key of this hash.
pub(super) struct Note(i64);

impl Verb for Note {
    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::Note(hash) => Ok(Self(hash)),
            other => Err(other),
        }
    }

    fn query(batch: &[Self], _notify: bool) -> PgQuery {
        sqlx::query(NOTE)
            .bind(column(batch, |note| note.0))
            .bind(NOTE_LASTS.as_secs_f64())
    }

    fn answer(_batch: Vec<Self>, _answer: &Answer<'_>) {}

    fn fail(self, _error: &StoreError) {}
}
