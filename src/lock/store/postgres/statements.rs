//! The SQL, many rows in one statement each.
//!
//! Every statement locks the rows in the order of their keys, and after them the counters of
//! fencing tokens in the order of their numbers, so that no two statements can deadlock. A
//! statement waits for a row that a foreign transaction has locked for `lock_timeout` at most. The
//! statements set `lock_timeout` themselves, for sessions with another value. For a lock on the
//! whole table that is too late, see [`super::limits`].
//!
//! In a statement that can send a notification, the last parameter says whether it does, because a
//! server whose queue of notifications is full refuses the whole statement.

/// Takes the rows that are free or expired, by the server's clock at that moment (not the transaction's start).
///
/// A held row is not touched at all: `seen` leaves it out before the insert would lock it. A row of the same id is ours
/// from an earlier try whose answer was lost. The counters are asked only after all rows have been won, since `GROUP BY`
/// needs them all: a token drawn earlier would tell the order of coming, not of holding. For the same reason the caller is told
/// the time after the row was won: an insert may have waited, with the times of its coming, until another had come and gone.
/// Tokens leave one out: it is the one with which the lock can be handed over without asking.
pub(super) const ACQUIRE: &str = "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::int4[])
        WITH ORDINALITY AS rows (key, id, holder, ttl, bucket, position),
        (SELECT set_config('lock_timeout', '800', true)) AS limits (waiting)
    WHERE limits.waiting IS NOT NULL
), seen AS MATERIALIZED (
    SELECT locks.lock_key, locks.id, locks.holder_id, locks.acquired_at, locks.expires_at
    FROM distributed_locks AS locks JOIN input ON locks.lock_key = input.key
), won AS (
    INSERT INTO distributed_locks AS locks (id, lock_key, holder_id, acquired_at, expires_at, created_at)
    SELECT input.id, input.key, input.holder, clock.now, clock.now + input.ttl, clock_timestamp() AT TIME ZONE 'UTC'
    FROM input, LATERAL (SELECT extract(epoch FROM clock_timestamp())::float8 + 0 * input.position AS now) AS clock
    WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.lock_key = input.key AND seen.id <> input.id
        AND seen.expires_at > extract(epoch FROM clock_timestamp())::float8)
    ORDER BY input.key
    ON CONFLICT (lock_key) DO UPDATE SET id = excluded.id, holder_id = excluded.holder_id,
        acquired_at = extract(epoch FROM clock_timestamp())::float8,
        expires_at = extract(epoch FROM clock_timestamp())::float8 + (excluded.expires_at - excluded.acquired_at),
        created_at = clock_timestamp() AT TIME ZONE 'UTC'
    WHERE locks.expires_at <= extract(epoch FROM clock_timestamp())::float8 OR locks.id = excluded.id
    RETURNING locks.lock_key, extract(epoch FROM clock_timestamp())::float8 AS acquired_at, locks.expires_at
), fence AS (
    INSERT INTO arbitrageai_lock_fences AS fences (bucket, token)
    SELECT input.bucket, (max(won.acquired_at) * 1000000)::int8
    FROM won JOIN input ON input.key = won.lock_key
    GROUP BY input.bucket ORDER BY input.bucket
    ON CONFLICT (bucket) DO UPDATE SET token = greatest(fences.token + 2, excluded.token)
    RETURNING fences.bucket, fences.token
)
SELECT input.position, won.acquired_at, won.expires_at, fence.token,
    seen.id, seen.holder_id, seen.acquired_at, seen.expires_at,
    seen.expires_at - extract(epoch FROM clock_timestamp())::float8
FROM input LEFT JOIN won ON won.lock_key = input.key
    LEFT JOIN fence ON fence.bucket = input.bucket AND won.lock_key IS NOT NULL
    LEFT JOIN seen ON seen.lock_key = input.key";

/// [`ACQUIRE`] for one row. Most requests come alone, and going through arrays takes the server as long again as the rest.
pub(super) const ACQUIRE_ONE: &str = "\
WITH seen AS MATERIALIZED (
    SELECT id, holder_id, acquired_at, expires_at FROM distributed_locks WHERE lock_key = $1::text
), won AS (
    INSERT INTO distributed_locks AS locks (id, lock_key, holder_id, acquired_at, expires_at, created_at)
    SELECT $2::text, $1::text, $3::text, clock.now, clock.now + $4::float8, clock_timestamp() AT TIME ZONE 'UTC'
    FROM (SELECT extract(epoch FROM clock_timestamp())::float8 AS now
        WHERE set_config('lock_timeout', '800', true) IS NOT NULL) AS clock
    WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.id <> $2::text
        AND seen.expires_at > extract(epoch FROM clock_timestamp())::float8)
    ON CONFLICT (lock_key) DO UPDATE SET id = excluded.id, holder_id = excluded.holder_id,
        acquired_at = extract(epoch FROM clock_timestamp())::float8,
        expires_at = extract(epoch FROM clock_timestamp())::float8 + (excluded.expires_at - excluded.acquired_at),
        created_at = clock_timestamp() AT TIME ZONE 'UTC'
    WHERE locks.expires_at <= extract(epoch FROM clock_timestamp())::float8 OR locks.id = excluded.id
    RETURNING extract(epoch FROM clock_timestamp())::float8 AS acquired_at, locks.expires_at
), fence AS (
    INSERT INTO arbitrageai_lock_fences AS fences (bucket, token)
    SELECT $5::int4, (won.acquired_at * 1000000)::int8 FROM won
    ON CONFLICT (bucket) DO UPDATE SET token = greatest(fences.token + 2, excluded.token)
    RETURNING fences.token
)
SELECT 1::int8, won.acquired_at, won.expires_at, fence.token,
    seen.id, seen.holder_id, seen.acquired_at, seen.expires_at,
    seen.expires_at - extract(epoch FROM clock_timestamp())::float8
FROM (SELECT) AS answer LEFT JOIN won ON true LEFT JOIN fence ON true LEFT JOIN seen ON true";

/// Gives rows that are ours to other acquisitions of this process: nobody else finds them free in between. Their tokens are given; the
/// counters are brought up to them. A row that has its new id already was given in an earlier try whose answer was lost; or this one comes
/// late, when its holder believes in a later end: it ends no sooner.
pub(super) const HAND_OVER: &str = "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::int4[], $7::int8[])
        WITH ORDINALITY AS rows (key, previous, id, holder, ttl, bucket, token, position),
        (SELECT set_config('lock_timeout', '800', true)) AS limits (waiting)
    WHERE limits.waiting IS NOT NULL
), ours AS MATERIALIZED (
    SELECT input.* FROM distributed_locks AS locks
    JOIN input ON locks.lock_key = input.key AND locks.id IN (input.previous, input.id)
    ORDER BY locks.lock_key FOR UPDATE OF locks
), won AS (
    UPDATE distributed_locks AS locks SET id = ours.id, holder_id = ours.holder,
        acquired_at = extract(epoch FROM clock_timestamp())::float8,
        expires_at = greatest(extract(epoch FROM clock_timestamp())::float8 + ours.ttl,
            CASE WHEN locks.id = ours.id AND locks.expires_at < 'infinity' THEN locks.expires_at END),
        created_at = clock_timestamp() AT TIME ZONE 'UTC'
    FROM ours WHERE locks.lock_key = ours.key AND locks.id IN (ours.previous, ours.id)
    RETURNING ours.position, ours.bucket, ours.token, locks.acquired_at, locks.expires_at
), fence AS (
    INSERT INTO arbitrageai_lock_fences AS fences (bucket, token)
    SELECT won.bucket, max(won.token) FROM won GROUP BY won.bucket ORDER BY won.bucket
    ON CONFLICT (bucket) DO UPDATE SET token = greatest(fences.token, excluded.token)
)
SELECT position, acquired_at, expires_at FROM won";

/// [`HAND_OVER`] for one row.
pub(super) const HAND_OVER_ONE: &str = "\
WITH won AS (
    UPDATE distributed_locks SET id = $3::text, holder_id = $4::text,
        acquired_at = extract(epoch FROM clock_timestamp())::float8,
        expires_at = greatest(extract(epoch FROM clock_timestamp())::float8 + $5::float8,
            CASE WHEN id = $3::text AND expires_at < 'infinity' THEN expires_at END),
        created_at = clock_timestamp() AT TIME ZONE 'UTC'
    WHERE lock_key = $1::text AND id IN ($2::text, $3::text) AND set_config('lock_timeout', '800', true) IS NOT NULL
    RETURNING acquired_at, expires_at
), fence AS (
    INSERT INTO arbitrageai_lock_fences AS fences (bucket, token)
    SELECT $6::int4, $7::int8 FROM won
    ON CONFLICT (bucket) DO UPDATE SET token = greatest(fences.token, excluded.token)
)
SELECT 1::int8, acquired_at, expires_at FROM won";

/// Moves the expiry of rows that are still ours and not expired.
pub(super) const RENEW: &str = "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::float8[]) WITH ORDINALITY AS rows (id, ttl, position),
        (SELECT set_config('lock_timeout', '800', true)) AS limits (waiting)
    WHERE limits.waiting IS NOT NULL
), ours AS MATERIALIZED (
    SELECT locks.id FROM distributed_locks AS locks JOIN input ON locks.id = input.id
    ORDER BY locks.lock_key FOR UPDATE OF locks
)
UPDATE distributed_locks AS locks SET expires_at = extract(epoch FROM clock_timestamp())::float8 + input.ttl
FROM input, ours
WHERE locks.id = ours.id AND ours.id = input.id
    AND locks.expires_at > extract(epoch FROM clock_timestamp())::float8
RETURNING input.position, locks.expires_at";

/// [`RENEW`] for one row.
pub(super) const RENEW_ONE: &str = "\
UPDATE distributed_locks SET expires_at = extract(epoch FROM clock_timestamp())::float8 + $2::float8
WHERE id = $1::text AND expires_at > extract(epoch FROM clock_timestamp())::float8
    AND set_config('lock_timeout', '800', true) IS NOT NULL
RETURNING 1::int8, expires_at";

/// Deletes rows by id, and tells those who wait. A release that a crash undoes costs no more than the lock's time to live:
/// nobody waits for the disk.
pub(super) const RELEASE_ROWS: &str = "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::int8[]) WITH ORDINALITY AS rows (id, hash, position),
        (SELECT set_config('lock_timeout', '800', true), set_config('synchronous_commit', 'off', true))
            AS limits (waiting, commit)
    WHERE limits.waiting IS NOT NULL AND limits.commit IS NOT NULL
), ours AS MATERIALIZED (
    SELECT locks.id FROM distributed_locks AS locks JOIN input ON locks.id = input.id
    ORDER BY locks.lock_key FOR UPDATE OF locks
), gone AS (
    DELETE FROM distributed_locks AS locks USING ours WHERE locks.id = ours.id RETURNING locks.id
)
SELECT input.position, CASE WHEN $3::bool AND EXISTS (SELECT 1 FROM arbitrageai_lock_waiters AS waiters
        WHERE waiters.key_hash = input.hash AND waiters.until > extract(epoch FROM clock_timestamp())::float8)
    THEN pg_notify('arbitrageai_locks', input.hash::text)::text END
FROM input JOIN gone ON gone.id = input.id";

/// [`RELEASE_ROWS`] for one row.
pub(super) const RELEASE_ONE: &str = "\
WITH gone AS (
    DELETE FROM distributed_locks WHERE id = $1::text AND set_config('lock_timeout', '800', true) IS NOT NULL
        AND set_config('synchronous_commit', 'off', true) IS NOT NULL
    RETURNING id
)
SELECT 1::int8, CASE WHEN $3::bool AND EXISTS (SELECT 1 FROM arbitrageai_lock_waiters AS waiters
        WHERE waiters.key_hash = $2::int8 AND waiters.until > extract(epoch FROM clock_timestamp())::float8)
    THEN pg_notify('arbitrageai_locks', $2::int8::text)::text END
FROM gone";

/// Deletes rows by key, and by holder where one is given.
pub(super) const RELEASE_NAMED: &str = "\
WITH input AS MATERIALIZED (
    SELECT rows.* FROM unnest($1::text[], $2::text[], $3::int8[]) WITH ORDINALITY AS rows (key, holder, hash, position),
        (SELECT set_config('lock_timeout', '800', true)) AS limits (waiting)
    WHERE limits.waiting IS NOT NULL
), theirs AS MATERIALIZED (
    SELECT locks.id, input.position, input.hash FROM distributed_locks AS locks
    JOIN input ON locks.lock_key = input.key AND (input.holder IS NULL OR locks.holder_id = input.holder)
    ORDER BY locks.lock_key FOR UPDATE OF locks
), gone AS (
    DELETE FROM distributed_locks AS locks USING theirs WHERE locks.id = theirs.id RETURNING locks.id
)
SELECT theirs.position, CASE WHEN $4::bool THEN pg_notify('arbitrageai_locks', theirs.hash::text)::text END
FROM theirs JOIN gone ON gone.id = theirs.id";

pub(super) const CLEAR: &str = "\
WITH everything AS MATERIALIZED (
    SELECT id FROM distributed_locks ORDER BY lock_key FOR UPDATE
), gone AS (
    DELETE FROM distributed_locks AS locks USING everything WHERE locks.id = everything.id RETURNING locks.id
)
SELECT count(*), CASE WHEN $1::bool AND count(*) > 0 THEN pg_notify('arbitrageai_locks', '')::text END FROM gone";

/// Deletes the expired rows, except those that another transaction has locked to take them over.
pub(super) const SWEEP: &str = "\
WITH expired AS MATERIALIZED (
    SELECT id FROM distributed_locks
    WHERE expires_at <= extract(epoch FROM clock_timestamp())::float8 AND lock_key LIKE 'bid:lock:_%:_%'
    ORDER BY lock_key FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM distributed_locks AS locks USING expired WHERE locks.id = expired.id RETURNING locks.id
)
SELECT count(*) FROM gone";

/// Who holds which of these keys.
pub(super) const OBSERVE: &str = "\
SELECT lock_key, id, holder_id, acquired_at, expires_at, expires_at - extract(epoch FROM clock_timestamp())::float8
FROM distributed_locks
WHERE lock_key = ANY ($1::text[]) AND (expires_at <= extract(epoch FROM clock_timestamp())::float8) IS NOT TRUE";

pub(super) const LIST: &str = "\
SELECT lock_key, id, holder_id, acquired_at, expires_at, expires_at - extract(epoch FROM clock_timestamp())::float8
FROM distributed_locks ORDER BY lock_key";

/// Counts the rows that have not expired. A row whose expiry is NULL or NaN never expires.
pub(super) const COUNT: &str = "\
SELECT count(*) FROM distributed_locks
WHERE (expires_at <= extract(epoch FROM clock_timestamp())::float8) IS NOT TRUE";

/// Notes that somebody waits, and sweeps notes that nobody has written for long. Lost notes cost no more than a poll.
pub(super) const NOTE_WAITERS: &str = "\
WITH input AS MATERIALIZED (
    SELECT DISTINCT rows.hash FROM unnest($1::int8[]) AS rows (hash),
        (SELECT set_config('synchronous_commit', 'off', true)) AS limits (commit)
    WHERE limits.commit IS NOT NULL
), old AS MATERIALIZED (
    SELECT key_hash FROM arbitrageai_lock_waiters
    WHERE until < extract(epoch FROM clock_timestamp())::float8 - 60 LIMIT 1000 FOR UPDATE SKIP LOCKED
), swept AS (
    DELETE FROM arbitrageai_lock_waiters AS waiters USING old
    WHERE waiters.key_hash = old.key_hash AND old.key_hash NOT IN (SELECT hash FROM input)
)
INSERT INTO arbitrageai_lock_waiters AS waiters (key_hash, until)
SELECT hash, extract(epoch FROM clock_timestamp())::float8 + $2 FROM input ORDER BY hash
ON CONFLICT (key_hash) DO UPDATE SET until = greatest(waiters.until, excluded.until)";
