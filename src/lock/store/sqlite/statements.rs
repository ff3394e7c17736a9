//! The SQL of one operation each. They run inside a transaction that the caller began.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::rule::{expiry, is_free, is_free_at};
use crate::lock::operation::{Attempt, Claim, HandOver, LockRow, ReleaseTarget, Won};
use crate::lock::store::is_a_date;

/// `created_at` is written as SQLAlchemy writes a `DateTime`.
const TAKE: &str = concat!(
    "INSERT INTO distributed_locks (id, lock_key, holder_id, acquired_at, expires_at, created_at) \
    VALUES (?1, ?2, ?3, ?4, ?5, strftime('%Y-%m-%d %H:%M:%f000', ?4, 'unixepoch')) \
    ON CONFLICT (lock_key) DO UPDATE SET id = excluded.id, holder_id = excluded.holder_id, \
    acquired_at = excluded.acquired_at, expires_at = excluded.expires_at, created_at = excluded.created_at \
    WHERE ",
    is_free!("distributed_locks.expires_at", "excluded.acquired_at"),
);
const GIVE: &str = "\
    UPDATE distributed_locks SET id = ?2, holder_id = ?4, acquired_at = ?5, expires_at = ?6, \
    created_at = strftime('%Y-%m-%d %H:%M:%f000', ?5, 'unixepoch') WHERE lock_key = ?3 AND id IN (?1, ?2)";
const ROW: &str =
    "SELECT lock_key, id, holder_id, acquired_at, expires_at FROM distributed_locks WHERE lock_key = ?1";
pub(super) const ROWS: &str =
    "SELECT lock_key, id, holder_id, acquired_at, expires_at FROM distributed_locks ORDER BY lock_key";

/// The largest number of characters that a message shows of an unreadable value.
const SHOWN: usize = 40;

pub(super) fn begin(connection: &Connection, writes: bool) -> rusqlite::Result<()> {
    let statement = if writes { "BEGIN IMMEDIATE" } else { "BEGIN" };
    connection.prepare_cached(statement)?.execute([]).map(drop)
}

pub(super) fn commit(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("COMMIT")?.execute([]).map(drop)
}

/// Changes whenever another connection has committed.
pub(super) fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("PRAGMA data_version")?
        .query_row([], |row| row.get(0))
}

/// The counter of fencing tokens: one statement for the first token of a transaction, and one more if there are others.
///
/// One counter serves all keys: there is one writer at a time anyway.
#[derive(Default)]
pub(super) struct Fence {
    last: Option<i64>,
    unwritten: bool,
}

impl Fence {
    /// Draws a token: more than any before by two, so that each lock can be handed over with the one between, and no less than the
    /// clock in microseconds, which makes up for a counter that was lost with the file or with an undurable commit.
    fn draw(&mut self, connection: &Connection, now: f64) -> rusqlite::Result<i64> {
        let token = match self.last {
            Some(last) => {
                self.unwritten = true;
                last.saturating_add(2)
            }
            None => {
                #[allow(
                    clippy::cast_possible_truncation,
                    reason = "the cast saturates, and the clock is far from it"
                )]
                let clock = (now * 1e6) as i64;
                connection
                    .prepare_cached(
                        "INSERT INTO arbitrageai_lock_fences (bucket, token) VALUES (0, ?1) \
                         ON CONFLICT (bucket) DO UPDATE SET token = max(token + 2, excluded.token) RETURNING token",
                    )?
                    .query_row([clock], |row| row.get(0))?
            }
        };
        self.last = Some(token);
        Ok(token)
    }

    /// Makes sure that all tokens from now on are more than this one.
    fn reach(&mut self, connection: &Connection, token: i64) -> rusqlite::Result<()> {
        let last = match self.last {
            Some(last) => {
                self.unwritten |= token > last;
                last.max(token)
            }
            None => connection
                .prepare_cached(
                    "INSERT INTO arbitrageai_lock_fences (bucket, token) VALUES (0, ?1) \
                     ON CONFLICT (bucket) DO UPDATE SET token = max(token, excluded.token) RETURNING token",
                )?
                .query_row([token], |row| row.get(0))?,
        };
        self.last = Some(last);
        Ok(())
    }

    /// Writes the counter as it is after the last token.
    pub(super) fn store(&self, connection: &Connection) -> rusqlite::Result<()> {
        let Some(token) = self.last.filter(|_| self.unwritten) else {
            return Ok(());
        };
        connection
            .prepare_cached("UPDATE arbitrageai_lock_fences SET token = ?1 WHERE bucket = 0")?
            .execute([token])
            .map(drop)
    }
}

/// Takes the row if it is free or expired. The inner error says why the expiry of the existing row
/// can't be read.
pub(super) fn acquire(
    connection: &Connection,
    claim: &Claim,
    now: f64,
    fence: &mut Fence,
) -> rusqlite::Result<Result<Attempt, String>> {
    let expires_at = expiry(now, claim.ttl);
    let taken = connection.prepare_cached(TAKE)?.execute(params![
        &*claim.id,
        &*claim.key,
        &*claim.holder,
        now,
        expires_at
    ])?;
    if taken == 0 {
        let found = connection
            .prepare_cached(ROW)?
            .query_row([&*claim.key], |row| Ok((unreadable_end(row)?, read(row, now)?)))
            .optional()?;
        return Ok(match found {
            Some((Some(what), _)) => Err(what),
            Some((None, row)) => Ok(Attempt::Held((!is_free_at(row.expires_at, now)).then_some(row))),
            None => Ok(Attempt::Held(None)),
        });
    }
    let token = fence.draw(connection, now)?;
    Ok(Ok(Attempt::Won(Won {
        token,
        acquired_at: now,
        expires_at,
    })))
}

pub(super) fn renew(
    connection: &Connection,
    id: &str,
    ttl: Duration,
    now: f64,
) -> rusqlite::Result<Option<f64>> {
    let expires_at = expiry(now, ttl);
    let renewed = connection
        .prepare_cached(concat!(
            "UPDATE distributed_locks SET expires_at = ?2 WHERE id = ?1 AND NOT ",
            is_free!("expires_at", "?3")
        ))?
        .execute(params![id, expires_at, now])?;
    Ok((renewed > 0).then_some(expires_at))
}

pub(super) fn hand_over(
    connection: &Connection,
    HandOver {
        from,
        id,
        key,
        holder,
        ttl,
        token,
        ..
    }: &HandOver,
    now: f64,
    fence: &mut Fence,
) -> rusqlite::Result<Option<Won>> {
    let expires_at = expiry(now, *ttl);
    let given = connection
        .prepare_cached(GIVE)?
        .execute(params![&**from, &**id, &**key, &**holder, now, expires_at])?;
    if given == 0 {
        return Ok(None);
    }
    fence.reach(connection, *token)?;
    Ok(Some(Won {
        token: *token,
        acquired_at: now,
        expires_at,
    }))
}

pub(super) fn release(connection: &Connection, target: &ReleaseTarget) -> rusqlite::Result<bool> {
    let deleted = match target {
        ReleaseTarget::Row { id, .. } => connection
            .prepare_cached("DELETE FROM distributed_locks WHERE id = ?1")?
            .execute([&**id])?,
        ReleaseTarget::Holder { key, holder } => connection
            .prepare_cached("DELETE FROM distributed_locks WHERE lock_key = ?1 AND holder_id = ?2")?
            .execute([&**key, &**holder])?,
        ReleaseTarget::Key { key } => connection
            .prepare_cached("DELETE FROM distributed_locks WHERE lock_key = ?1")?
            .execute([&**key])?,
    };
    Ok(deleted > 0)
}

/// The key's row, if it has one that is not expired.
pub(super) fn observe(connection: &Connection, key: &str, now: f64) -> rusqlite::Result<Option<LockRow>> {
    Ok(row(connection, key, now)?.filter(|row| !is_free_at(row.expires_at, now)))
}

fn row(connection: &Connection, key: &str, now: f64) -> rusqlite::Result<Option<LockRow>> {
    connection
        .prepare_cached(ROW)?
        .query_row([key], |row| read(row, now))
        .optional()
}

/// The rows that were looked at last. While nobody writes they need not be read again, however often they are looked at.
#[derive(Default)]
pub(super) struct Seen {
    /// What changes with every commit of another connection, and with every change by this one.
    state: Option<(i64, u64)>,
    rows: HashMap<Arc<str>, Option<LockRow>>,
}

impl Seen {
    /// The rows of these keys that are not expired.
    pub(super) fn observe(
        &mut self,
        connection: &Connection,
        keys: &[Arc<str>],
        now: f64,
    ) -> rusqlite::Result<Vec<LockRow>> {
        let state = Some((data_version(connection)?, connection.total_changes()));
        if self.state != state {
            self.rows.clear();
            self.state = state;
        }
        let mut found = Vec::new();
        for key in keys {
            let seen = match self.rows.entry(Arc::clone(key)) {
                Entry::Occupied(seen) => seen.into_mut(),
                Entry::Vacant(place) => place.insert(row(connection, key, now)?),
            };
            if let Some(row) = seen
                && !is_free_at(row.expires_at, now)
            {
                let expires_in = row.expires_at - now;
                found.push(LockRow {
                    expires_in,
                    ..row.clone()
                });
            }
        }
        Ok(found)
    }
}

pub(super) fn list(connection: &Connection, now: f64) -> rusqlite::Result<Vec<LockRow>> {
    connection
        .prepare_cached(ROWS)?
        .query_map([], |row| read(row, now))?
        .collect()
}

pub(super) fn count(connection: &Connection, now: f64) -> rusqlite::Result<u64> {
    let count: i64 = connection
        .prepare_cached(concat!(
            "SELECT count(*) FROM distributed_locks WHERE ",
            is_free!("expires_at", "?1"),
            " IS NOT TRUE"
        ))?
        .query_row([now], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

pub(super) fn clear(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("DELETE FROM distributed_locks")?
        .execute([])
        .map(|deleted| deleted as u64)
}

/// Deletes the expired rows.
pub(super) fn sweep(connection: &Connection, now: f64) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(concat!(
            "DELETE FROM distributed_locks WHERE ",
            is_free!("expires_at", "?1"),
            " AND lock_key GLOB 'bid:lock:?*:?*'"
        ))?
        .execute([now])
        .map(|deleted| deleted as u64)
}

/// Reads a row. Columns of SQLite accept values of any type, whatever their declared type is, so an
/// unexpected value never makes the reading fail. A row whose expiry can't be read never expires.
fn read(row: &Row<'_>, now: f64) -> rusqlite::Result<LockRow> {
    let expires_at = number(row.get_ref(4)?).unwrap_or(f64::INFINITY);
    Ok(LockRow {
        key: text(row.get_ref(0)?).into(),
        id: text(row.get_ref(1)?),
        holder: text(row.get_ref(2)?),
        acquired_at: number(row.get_ref(3)?)
            .filter(|time| is_a_date(*time))
            .unwrap_or(0.0),
        expires_at,
        expires_in: expires_at - now,
    })
}

/// Describes the value in the column `expires_at`, if that value is no number.
fn unreadable_end(row: &Row<'_>) -> rusqlite::Result<Option<String>> {
    let value = row.get_ref(4)?;
    Ok(match value {
        ValueRef::Null => Some("its expires_at is NULL".to_owned()),
        ValueRef::Text(_) => {
            let shown: String = text(value).chars().take(SHOWN).collect();
            Some(format!("its expires_at is the text {shown:?}"))
        }
        ValueRef::Blob(_) => Some("its expires_at is a blob".to_owned()),
        ValueRef::Integer(_) | ValueRef::Real(_) => None,
    })
}

fn number(value: ValueRef<'_>) -> Option<f64> {
    match value {
        #[allow(clippy::cast_precision_loss, reason = "the integer is a time")]
        ValueRef::Integer(number) => Some(number as f64),
        ValueRef::Real(number) => Some(number),
        _ => None,
    }
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Null => String::new(),
    }
}
