//! The simulated database: what a statement does to the rows. It keeps the promises that the real ones keep.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::scenario::Flavour;
use crate::lock::error::StoreError;
use crate::lock::operation::{LockRow, ReleaseTarget, Won};

/// What the database's clock shows when a run begins, in Unix seconds.
const BEGINNING: f64 = 1_700_000_000.0;

/// A statement as it travels to the server.
#[derive(Clone, Debug)]
pub(super) enum Statement {
    Acquire {
        id: Arc<str>,
        key: Arc<str>,
        holder: Arc<str>,
        ttl: Duration,
    },
    Renew {
        id: Arc<str>,
        key: Arc<str>,
        ttl: Duration,
    },
    Release(ReleaseTarget),
    HandOver {
        from: Arc<str>,
        id: Arc<str>,
        key: Arc<str>,
        holder: Arc<str>,
        ttl: Duration,
        token: i64,
    },
    Observe(Vec<Arc<str>>),
    /// What no lock needs: not simulated.
    Other,
}

/// What the server answers.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Won(Won),
    Held(Option<LockRow>),
    Renewed(Option<f64>),
    Released(bool),
    HandedOver(Option<Won>),
    Rows(Vec<LockRow>),
    Other,
}

impl fmt::Display for Statement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acquire { id, key, ttl, .. } => write!(formatter, "acquire {key} as {id} for {ttl:?}"),
            Self::Renew { id, key, ttl } => write!(formatter, "renew {key} of {id} for {ttl:?}"),
            Self::Release(ReleaseTarget::Row { id, key }) => write!(formatter, "release {key} of {id}"),
            Self::Release(target) => write!(formatter, "release {target:?}"),
            Self::HandOver {
                from,
                id,
                key,
                ttl,
                token,
                ..
            } => write!(
                formatter,
                "hand {key} over from {from} to {id} for {ttl:?} with {}",
                after_beginning(*token)
            ),
            Self::Observe(keys) => write!(formatter, "look at {keys:?}"),
            Self::Other => formatter.write_str("something else"),
        }
    }
}

/// A token, as a number that can be read.
pub(super) fn after_beginning(token: i64) -> i64 {
    #[allow(clippy::cast_possible_truncation, reason = "exact")]
    let beginning = (BEGINNING * 1e6) as i64;
    token - beginning
}

/// An answer, for a history.
pub(super) fn brief(outcome: &Result<Outcome, StoreError>) -> String {
    let row = |row: &LockRow| format!("{}, {:.3} s left", row.id, row.expires_in);
    let won = |won: &Won| {
        let (until, token) = (won.expires_at - BEGINNING, after_beginning(won.token));
        format!("until {until:.3} with {token}")
    };
    match outcome {
        Ok(Outcome::Won(it)) => format!("won {}", won(it)),
        Ok(Outcome::Held(by)) => format!("held by {}", by.as_ref().map_or("nobody".into(), row)),
        Ok(Outcome::Renewed(until)) => format!("renewed {:?}", until.map(|until| until - BEGINNING)),
        Ok(Outcome::Released(released)) => format!("released {released}"),
        Ok(Outcome::HandedOver(it)) => it.as_ref().map_or("not ours".into(), won),
        Ok(Outcome::Rows(rows)) => rows.iter().map(row).collect::<Vec<_>>().join("; "),
        Ok(Outcome::Other) => String::new(),
        Err(error) => format!("error: {}", error.message),
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: Arc<str>,
    pub(super) holder: Arc<str>,
    /// The process whose statement wrote it.
    pub(super) process: usize,
    /// Microseconds since the beginning, by the database's clock.
    pub(super) acquired_at: i64,
    pub(super) expires_at: i64,
}

impl Row {
    /// When it becomes free, by the database's clock.
    fn free_at(&self) -> i64 {
        self.expires_at
    }
}

/// What a commit changed, to be undone when it is lost.
struct Commit {
    at: u64,
    key: Arc<str>,
    row: Option<Row>,
    token: Option<i64>,
}

pub(super) struct Database {
    flavour: Flavour,
    pub(super) rows: BTreeMap<Arc<str>, Row>,
    /// The last fencing token of each key.
    fences: BTreeMap<Arc<str>, i64>,
    /// How far its clock has been set, in microseconds.
    set_by: i64,
    set_at: u64,
    commits: Vec<Commit>,
    /// Since when a key has had no row.
    pub(super) deleted_at: BTreeMap<Arc<str>, u64>,
    /// Of how many keys a row was deleted: news for who waits.
    pub(super) news: Vec<Arc<str>>,
}

fn microseconds(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap()
}

#[allow(clippy::cast_precision_loss, reason = "a run takes minutes")]
fn shown(time: i64) -> f64 {
    BEGINNING + time as f64 / 1e6
}

impl Database {
    pub(super) fn new(flavour: Flavour) -> Self {
        Self {
            flavour,
            rows: BTreeMap::new(),
            fences: BTreeMap::new(),
            set_by: 0,
            set_at: 0,
            commits: Vec::new(),
            deleted_at: BTreeMap::new(),
            news: Vec::new(),
        }
    }

    /// The database's clock, in microseconds since the beginning.
    pub(super) fn clock(&self, now: u64) -> i64 {
        i64::try_from(now * 1000).unwrap() + self.set_by
    }

    pub(super) fn set_clock(&mut self, by: i64, now: u64) {
        self.set_at = now;
        self.set_by += by * 1000;
    }

    /// Since when (in the run's milliseconds) nothing stands in the way of an acquisition; None while something does.
    pub(super) fn free_since(&self, key: &Arc<str>, now: u64) -> Option<u64> {
        match self.rows.get(key) {
            Some(row) => {
                let free_for = self.clock(now) - row.free_at();
                let since = now.saturating_sub(u64::try_from(free_for / 1000).unwrap_or(0));
                (free_for >= 0).then(|| since.max(self.set_at))
            }
            None => Some(self.deleted_at.get(key).copied().unwrap_or(0)),
        }
    }

    fn is_free(&self, key: &Arc<str>, now: u64) -> bool {
        self.free_since(key, now).is_some()
    }

    fn write(&mut self, now: u64, key: &Arc<str>, row: Option<Row>) {
        if row.is_none() {
            self.deleted_at.insert(Arc::clone(key), now);
        }
        let token = self.fences.get(key).copied();
        let before = match row {
            Some(row) => self.rows.insert(Arc::clone(key), row),
            None => self.rows.remove(key),
        };
        self.commits.push(Commit {
            at: now,
            key: Arc::clone(key),
            row: before,
            token,
        });
    }

    /// Forgets the commits since then; the keys that they changed.
    pub(super) fn lose_commits(&mut self, since: u64, now: u64) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        while let Some(commit) = self.commits.pop_if(|commit| commit.at >= since) {
            match commit.row {
                Some(row) => {
                    self.rows.insert(Arc::clone(&commit.key), row);
                }
                None => {
                    self.rows.remove(&commit.key);
                    self.deleted_at.insert(Arc::clone(&commit.key), now);
                }
            }
            match commit.token {
                Some(token) => self.fences.insert(Arc::clone(&commit.key), token),
                None => self.fences.remove(&commit.key),
            };
            if !changed.contains(&commit.key) {
                changed.push(commit.key);
            }
        }
        changed
    }

    pub(super) fn execute(&mut self, statement: &Statement, process: usize, now: u64) -> Outcome {
        if self.flavour == Flavour::Redis {
            let clock = self.clock(now);
            self.rows.retain(|key, row| {
                let stands = row.free_at() > clock;
                if !stands {
                    self.deleted_at.insert(Arc::clone(key), now);
                }
                stands
            });
        }
        match statement {
            Statement::Acquire { id, key, holder, ttl } => {
                self.acquire((id, key, holder), *ttl, process, now)
            }
            Statement::Renew { id, key, ttl } => Outcome::Renewed(self.renew(id, key, *ttl, now)),
            Statement::Release(target) => Outcome::Released(self.release(target, now)),
            Statement::HandOver {
                from,
                id,
                key,
                holder,
                ttl,
                token,
            } => {
                let given = self.hand_over((from, id, key, holder), *ttl, *token, process, now);
                Outcome::HandedOver(given)
            }
            Statement::Observe(keys) => {
                Outcome::Rows(keys.iter().filter_map(|key| self.standing(key, now)).collect())
            }
            Statement::Other => Outcome::Other,
        }
    }

    fn acquire(
        &mut self,
        (id, key, holder): (&Arc<str>, &Arc<str>, &Arc<str>),
        ttl: Duration,
        process: usize,
        now: u64,
    ) -> Outcome {
        let is_ours = self.flavour != Flavour::Sqlite && self.rows.get(key).is_some_and(|row| row.id == *id);
        if !is_ours && !self.is_free(key, now) {
            return Outcome::Held(self.standing(key, now));
        }
        let clock = self.clock(now);
        // A late statement of the same acquisition finds its own row, and ends it no sooner.
        let own_end = self
            .rows
            .get(key)
            .filter(|_| is_ours)
            .map_or(i64::MIN, |row| row.expires_at);
        let row = Row {
            id: Arc::clone(id),
            holder: Arc::clone(holder),
            process,
            acquired_at: clock,
            expires_at: own_end.max(clock + microseconds(ttl)),
        };
        let won = (shown(row.acquired_at), shown(row.expires_at));
        self.write(now, key, Some(row));
        #[allow(clippy::cast_possible_truncation, reason = "far from it")]
        let time = (shown(clock) * 1e6) as i64;
        let last = self.fences.get(key).copied().unwrap_or(0);
        let token = (last + 2).max(time);
        self.fences.insert(Arc::clone(key), token);
        Outcome::Won(Won {
            token,
            acquired_at: won.0,
            expires_at: won.1,
        })
    }

    fn renew(&mut self, id: &Arc<str>, key: &Arc<str>, ttl: Duration, now: u64) -> Option<f64> {
        let clock = self.clock(now);
        let row = self.rows.get(key)?;
        if row.id != *id || row.free_at() <= clock {
            return None;
        }
        let renewed = Row {
            expires_at: clock + microseconds(ttl),
            ..row.clone()
        };
        let expires_at = renewed.expires_at;
        self.write(now, key, Some(renewed));
        Some(shown(expires_at))
    }

    fn release(&mut self, target: &ReleaseTarget, now: u64) -> bool {
        let key = target.key();
        let Some(row) = self.rows.get(key) else {
            return false;
        };
        let is_meant = match target {
            ReleaseTarget::Row { id, .. } => row.id == *id,
            ReleaseTarget::Holder { holder, .. } => row.holder == *holder,
            ReleaseTarget::Key { .. } => true,
        };
        if is_meant {
            self.write(now, key, None);
            self.news.push(Arc::clone(key));
        }
        is_meant
    }

    fn hand_over(
        &mut self,
        (from, id, key, holder): (&Arc<str>, &Arc<str>, &Arc<str>, &Arc<str>),
        ttl: Duration,
        token: i64,
        process: usize,
        now: u64,
    ) -> Option<Won> {
        let row = self.rows.get(key)?;
        if row.id != *from && row.id != *id {
            return None;
        }
        let clock = self.clock(now);
        let mut expires_at = clock + microseconds(ttl);
        let may_shorten = self.flavour == Flavour::Sqlite
            || super::plants::is_planted(super::plants::Plant::HandOffThatShortensALease);
        if row.id == *id && !may_shorten {
            expires_at = expires_at.max(row.expires_at);
        }
        let given = Row {
            id: Arc::clone(id),
            holder: Arc::clone(holder),
            process,
            acquired_at: clock,
            expires_at,
        };
        self.write(now, key, Some(given));
        let last = self.fences.entry(Arc::clone(key)).or_insert(0);
        *last = (*last).max(token);
        Some(Won {
            token,
            acquired_at: shown(clock),
            expires_at: shown(expires_at),
        })
    }

    /// The row of a key, unless it is free.
    fn standing(&self, key: &Arc<str>, now: u64) -> Option<LockRow> {
        let row = self.rows.get(key)?;
        let clock = self.clock(now);
        (row.free_at() > clock).then(|| LockRow {
            key: Arc::clone(key),
            id: row.id.to_string(),
            holder: row.holder.to_string(),
            acquired_at: shown(row.acquired_at),
            expires_at: shown(row.expires_at),
            expires_in: shown(row.expires_at - clock) - BEGINNING,
        })
    }
}
