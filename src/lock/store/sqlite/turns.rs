//! Fairness between processes: who has had a lock while another process waited lets that one go first.
//!
//! A process that releases a lock for which it has more waiters asks for it again within
//! microseconds, while another process finds out about the release after a millisecond or more. So a
//! process that has waited for a while makes a note of it in the database, and whoever has released
//! the lock since does not take it again before the other one had time to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::rule::is_free;
use super::statements;

/// Waits that are shorter are not noted, since each note is a write.
const NOTED_AFTER: f64 = 0.3;
/// How often a note is renewed, in seconds. The engine looks at the locks it waits for at least
/// every 0.3 s, so that the worker wakes up often enough.
const RENEWED_AFTER: f64 = 1.0;
/// How long a note counts, in seconds: its writer may have been killed.
const NOTE_LASTS: f64 = 2.5;
/// How long a lock is left to those who wait for it elsewhere. They learn of its release within
/// milliseconds; on a machine that is overloaded it takes longer.
const YIELDS_FOR: Duration = Duration::from_millis(200);
/// How long a release is remembered, in seconds: after that, a lock that nobody took is anybody's.
const REMEMBERED_FOR: f64 = 2.0;
/// Fewer releases are not worth sweeping.
const LEAST_SWEPT: usize = 1024;

/// What one process waits for, and what it has had.
pub(super) struct Turns {
    /// Tells this process's notes from those of others.
    process: String,
    waiting: HashMap<Arc<str>, Waiting>,
    /// Notes of waits that are over.
    withdrawn: Vec<Arc<str>>,
    /// When locks were released here, by the wall clock.
    released: HashMap<Arc<str>, f64>,
    /// The number of releases from which the old ones are removed.
    sweep_at: usize,
    /// Since when locks have been left to others.
    yielding: HashMap<Arc<str>, Instant>,
    /// A state of the database in which no other process had a note: see [`statements::data_version`].
    unnoted_at: Option<i64>,
    /// The state of the database in the transaction that is under way, which keeps others from
    /// changing it, once it has been asked for.
    version: Option<i64>,
}

struct Waiting {
    since: f64,
    noted_at: Option<f64>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            process: Uuid::new_v4().to_string(),
            waiting: HashMap::new(),
            withdrawn: Vec::new(),
            released: HashMap::new(),
            sweep_at: LEAST_SWEPT,
            yielding: HashMap::new(),
            unnoted_at: None,
            version: None,
        }
    }

    pub(super) fn waits(&mut self, key: Arc<str>, now: f64) {
        self.waiting.entry(key).or_insert(Waiting {
            since: now,
            noted_at: None,
        });
    }

    pub(super) fn waits_no_more(&mut self, key: &Arc<str>) {
        if let Some(waiting) = self.waiting.remove(key)
            && waiting.noted_at.is_some()
        {
            self.withdrawn.push(Arc::clone(key));
        }
    }

    /// The keys that are waited for.
    pub(super) fn awaited(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.waiting.keys()
    }

    pub(super) fn released(&mut self, key: &Arc<str>, now: f64) {
        if self.released.len() >= self.sweep_at {
            self.released
                .retain(|_, released| (0.0..REMEMBERED_FOR).contains(&(now - *released)));
            let remembered = &self.released;
            self.yielding.retain(|key, _| remembered.contains_key(key));
            // All of them may be recent: a sweep costs little only if many releases share it.
            self.sweep_at = (remembered.len() * 2).max(LEAST_SWEPT);
        }
        self.released.insert(Arc::clone(key), now);
        self.yielding.remove(key);
    }

    /// Another transaction begins, or a failed one is repeated.
    pub(super) fn transaction_begins(&mut self) {
        self.version = None;
    }

    /// Whether a free lock is left to another process, which has waited for it since before this
    /// process released it.
    pub(super) fn yields(
        &mut self,
        connection: &Connection,
        key: &Arc<str>,
        now: f64,
    ) -> rusqlite::Result<bool> {
        let Some(released) = self.released.get(key) else {
            return Ok(false);
        };
        let is_recent = (0.0..REMEMBERED_FOR).contains(&(now - released));
        let has_time = |since: &Instant| since.elapsed() < YIELDS_FOR;
        if !is_recent || !self.yielding.get(key).is_none_or(has_time) {
            return Ok(false);
        }
        if self.version.is_none() {
            self.version = Some(statements::data_version(connection)?);
        }
        let version = self.version;
        if self.unnoted_at == version {
            return Ok(false);
        }
        let are_noted: bool = connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM arbitrageai_lock_waiters WHERE process <> ?1)")?
            .query_row([&self.process], |row| row.get(0))?;
        self.unnoted_at = version.filter(|_| !are_noted);
        let another_waits = are_noted
            && connection
                .prepare_cached(concat!(
                    "SELECT EXISTS (SELECT 1 FROM arbitrageai_lock_waiters \
                     WHERE lock_key = ?1 AND process <> ?2 AND since < ?3 AND until > ?4) \
                     AND NOT EXISTS (SELECT 1 FROM distributed_locks WHERE lock_key = ?1 AND ",
                    is_free!("expires_at", "?4"),
                    " IS NOT TRUE)"
                ))?
                .query_row(params![key, self.process, released, now], |row| row.get(0))?;
        if another_waits {
            self.yielding.entry(Arc::clone(key)).or_insert_with(Instant::now);
        }
        Ok(another_waits)
    }

    /// Writes the notes that are due, and deletes those of waits that are over.
    pub(super) fn note(&mut self, connection: &Connection, now: f64) -> rusqlite::Result<()> {
        let due: Vec<_> = self
            .waiting
            .iter_mut()
            .filter(|(_, wait)| wait.is_due(now))
            .collect();
        if due.is_empty() && self.withdrawn.is_empty() {
            return Ok(());
        }
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        for key in &self.withdrawn {
            connection
                .prepare_cached("DELETE FROM arbitrageai_lock_waiters WHERE lock_key = ?1 AND process = ?2")?
                .execute(params![key, self.process])?;
        }
        if due.iter().any(|(_, waiting)| waiting.noted_at.is_none()) {
            // Of processes that were killed.
            connection
                .prepare_cached("DELETE FROM arbitrageai_lock_waiters WHERE until < ?1")?
                .execute([now - NOTE_LASTS])?;
        }
        for (key, waiting) in &due {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO arbitrageai_lock_waiters (lock_key, process, since, until) \
                     VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![key, self.process, waiting.since, now + NOTE_LASTS])?;
        }
        transaction.commit()?;
        for (_, waiting) in due {
            waiting.noted_at = Some(now);
        }
        self.withdrawn.clear();
        Ok(())
    }
}

impl Waiting {
    fn is_due(&self, now: f64) -> bool {
        match self.noted_at {
            None => now - self.since >= NOTED_AFTER,
            // Also when the clock was set back.
            Some(noted_at) => !(0.0..RENEWED_AFTER).contains(&(now - noted_at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    /// A database, and two processes that use it, each with a connection.
    struct Two {
        _folder: tempfile::TempDir,
        connection: Connection,
        other: Connection,
        busy: Turns,
        waiting: Turns,
        key: Arc<str>,
    }

    impl Two {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let open = || Connection::open(folder.path().join("locks.db")).unwrap();
            let (connection, other) = (open(), open());
            schema::prepare(&connection).unwrap();
            Self {
                _folder: folder,
                connection,
                other,
                busy: Turns::new(),
                waiting: Turns::new(),
                key: "k".into(),
            }
        }

        fn note(&mut self, now: f64) -> i64 {
            self.waiting.note(&self.other, now).unwrap();
            let count = "SELECT count(*) FROM arbitrageai_lock_waiters";
            self.connection.query_row(count, [], |row| row.get(0)).unwrap()
        }

        fn busy_yields(&mut self, now: f64) -> bool {
            self.busy.transaction_begins();
            self.busy.yields(&self.connection, &self.key, now).unwrap()
        }
    }

    #[test]
    fn who_released_a_lock_while_another_waited_yields_for_a_while() {
        let mut two = Two::new();
        two.waiting.waits(Arc::clone(&two.key), 100.0);
        assert_eq!(two.note(100.1), 0, "a short wait is not noted");
        assert_eq!(two.note(100.4), 1);
        assert!(!two.busy_yields(100.5), "it has not had the lock");
        two.busy.released(&two.key, 100.6);
        assert!(two.busy_yields(100.6));
        let own = two.waiting.yields(&two.other, &two.key, 100.6).unwrap();
        assert!(!own, "a process yields to others only");
        std::thread::sleep(YIELDS_FOR);
        assert!(!two.busy_yields(100.7), "the other one had its time");
        two.busy.released(&two.key, 100.9);
        assert!(two.busy_yields(100.9));
    }

    #[test]
    fn nobody_yields_to_one_who_came_later_or_has_gone() {
        let mut two = Two::new();
        two.busy.released(&two.key, 99.9);
        two.waiting.waits(Arc::clone(&two.key), 100.0);
        assert_eq!(two.note(100.5), 1);
        assert!(!two.busy_yields(100.6), "it came after the release");
        two.busy.released(&two.key, 100.7);
        assert!(two.busy_yields(100.7));
        two.busy.released(&two.key, 103.05);
        assert!(!two.busy_yields(103.1), "its note is too old: it was killed");
        assert_eq!(two.note(103.2), 1, "the note is renewed");
        two.busy.released(&two.key, 103.3);
        assert!(two.busy_yields(103.3));
        let key = Arc::clone(&two.key);
        two.waiting.waits_no_more(&key);
        assert_eq!(two.note(103.4), 0);
        assert!(!two.busy_yields(103.4));
    }

    #[test]
    fn a_lock_that_is_held_is_left_to_nobody() {
        let mut two = Two::new();
        two.waiting.waits(Arc::clone(&two.key), 100.0);
        two.note(100.5);
        two.busy.released(&two.key, 100.6);
        let held = "INSERT INTO distributed_locks VALUES ('1', 'k', 'h', 100, 200, NULL)";
        two.connection.execute_batch(held).unwrap();
        assert!(!two.busy_yields(100.6));
    }

    #[test]
    fn a_clock_that_is_set_back_ends_no_turn_for_ever() {
        let mut two = Two::new();
        two.waiting.waits(Arc::clone(&two.key), 1000.0);
        assert_eq!(two.note(1000.5), 1);
        two.busy.released(&two.key, 1000.6);
        assert!(!two.busy_yields(10.0), "the release is in the future");
        assert_eq!(two.note(10.0), 1);
    }
}
