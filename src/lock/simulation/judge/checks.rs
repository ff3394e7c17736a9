//! The invariants that are looked at after every step.

use std::sync::Arc;

use super::super::adapter::Verb;
use super::super::context;
use super::super::database::Database;
use super::{
    GIVEN_BACK_WITHIN, Judge, LATEST_END, LONGEST_ENTANGLED, LONGEST_FREE, LOOK_TAKES, OfProcess,
    REPORTED_AFTER_SLEEP_WITHIN, REPORTED_WITHIN, Waiter,
};

impl Judge {
    /// Everything that must hold now.
    pub(in crate::lock::simulation) fn checks(&mut self, database: &Database, keys: &[Arc<str>], now: u64) {
        self.one_believer(keys);
        for index in 0..self.believers.len() {
            self.belief_is_covered(index, database, now);
            self.loss_is_reported(index, database, now);
        }
        if !self.waiters.is_empty() {
            for key in keys {
                self.free_key_is_taken(key, database, now);
            }
            self.what_nobody_picks_up_is_given_back(database, now);
            self.nobody_waits_for_each_other(database, now);
        }
    }

    /// A process heard of the end of a release, and nobody has asked for the key since.
    pub(in crate::lock::simulation) fn release_woke_nobody(
        &mut self,
        process: usize,
        key: &Arc<str>,
        heard_at: u64,
        now: u64,
    ) {
        let of_process = &self.processes[process];
        let mut others = self
            .believers
            .iter()
            .filter(|one| one.process == process && one.key == *key);
        let mut queue = self
            .waiters
            .iter()
            .filter(|one| one.process == process && one.keys.contains(key));
        let verbs = [Verb::Acquire, Verb::Release, Verb::HandOver];
        let is_unsure = of_process.killed
            || of_process.paused
            || of_process.resumed_at >= heard_at
            || self.has_met_a_fault(process, key, &verbs, 0)
            || others.any(|one| one.belief.is_held())
            || queue
                .clone()
                .any(|one| one.keys.len() > 1 || one.unpolled_until > one.joined);
        let waits = |one: &&Waiter| one.joined < heard_at && one.deadline > now;
        if let Some(waiter) = queue.find(waits).filter(|_| !is_unsure) {
            let what = format!(
                "{} waits for {key}, which was released at {heard_at} ms",
                waiter.number
            );
            self.violated("the end of a release wakes the next waiter", what);
        }
    }

    /// Whoever is not polled loses what was won for it.
    fn what_nobody_picks_up_is_given_back(&mut self, database: &Database, now: u64) {
        let longest = GIVEN_BACK_WITHIN + 6 * self.latency;
        let owner = self.waiters.iter().find(|waiter| {
            let process = &self.processes[waiter.process];
            let since = (waiter.deadline.max(process.disturbed_until)).max(process.resumed_at);
            let row = waiter.keys.first().and_then(|key| database.rows.get(key));
            // A statement that comes late may write the row when its waiter is long gone.
            let is_in_doubt = waiter.keys.iter().any(|key| {
                self.has_met_a_fault(
                    waiter.process,
                    key,
                    &[Verb::Acquire, Verb::HandOver],
                    waiter.joined,
                )
            });
            waiter.unpolled_until > now
                && !is_in_doubt
                && now > since.max(self.slept_at.unwrap_or(0)) + longest
                && !process.paused
                && row.is_some_and(|row| {
                    row.process == waiter.process
                        && row.holder == waiter.holder
                        && row.expires_at > database.clock(now)
                        && !self.given.contains(&row.id)
                })
        });
        if let Some(owner) = owner {
            let what = format!("{} has had a lock since {} ms", owner.number, owner.deadline);
            self.violated("what nobody picks up is given back", what);
        }
    }

    /// Those who take several locks take them in the same order.
    fn nobody_waits_for_each_other(&mut self, database: &Database, now: u64) {
        let has = |waiter: &Waiter, key: &Arc<str>| {
            database.rows.get(key).is_some_and(|row| {
                row.process == waiter.process
                    && row.holder == waiter.holder
                    && row.expires_at > database.clock(now)
                    && !self.given.contains(&row.id)
            })
        };
        let has_one = |waiter: &Waiter| waiter.keys.iter().any(|key| has(waiter, key));
        let waiters = self.waiters.iter();
        let halfway =
            waiters.filter(|waiter| waiter.keys.len() > 1 && waiter.deadline > now && has_one(waiter));
        let numbers: Vec<usize> = halfway.map(|waiter| waiter.number).collect();
        let since = match self.entangled_since {
            Some(since) if numbers.len() > 1 => since,
            _ => now,
        };
        self.entangled_since = (numbers.len() > 1).then_some(since);
        let disturbed = self
            .processes
            .iter()
            .map(|one| one.disturbed_until.max(one.resumed_at))
            .max();
        let is_paused = self.processes.iter().any(|one| one.paused);
        if now > since.max(disturbed.unwrap_or(0)) + LONGEST_ENTANGLED && !is_paused {
            let what = format!("{numbers:?} have one of two locks each since {since} ms");
            self.violated("nobody waits for each other", what);
        }
    }

    pub(super) fn one_believer(&mut self, keys: &[Arc<str>]) {
        for key in keys {
            let mut first: Option<usize> = None;
            for believer in &self.believers {
                if believer.key != *key || believer.is_excused || !believer.belief.is_held() {
                    continue;
                }
                if let Some(other) = first {
                    let what = format!("{other} and {} believe that they hold {key}", believer.number);
                    self.violated("no two holders believe at once", what);
                    return;
                }
                first = Some(believer.number);
            }
        }
    }

    /// Whoever believes has a row, for at least as long.
    pub(super) fn belief_is_covered(&mut self, index: usize, database: &Database, now: u64) {
        let believer = &self.believers[index];
        if !believer.belief.is_held() || believer.is_excused {
            return;
        }
        let remaining = believer.belief.remaining();
        let row = database.rows.get(&believer.key);
        let left = row
            .filter(|row| row.process == believer.process)
            .map_or(-1, |row| row.expires_at - database.clock(now));
        let (number, key) = (believer.number, Arc::clone(&believer.key));
        if left < i64::try_from(remaining.as_micros()).unwrap() - 1 {
            let what = format!("{number} believes in {key} for {remaining:?}; its row lasts {left} µs");
            self.violated("a belief has a row for as long", what);
        }
        let boot = context::boot_time().unwrap_or_default();
        let until = (boot + remaining).as_micros();
        let believer = &mut self.believers[index];
        let before = std::mem::replace(&mut believer.trusted_until, until);
        if until + 1000 < before && !believer.is_shortened {
            let what =
                format!("{number}: from {before} to {until} µs, though nobody asked for a shorter time");
            self.violated("no renewal takes back a longer one", what);
        }
    }

    pub(super) fn loss_is_reported(&mut self, index: usize, database: &Database, now: u64) {
        let believer = &mut self.believers[index];
        if believer.belief.is_released() {
            return;
        }
        let row = database.rows.get(&believer.key);
        if row.is_some_and(|row| row.id == *believer.belief.row()) {
            // A late statement may have written it again.
            believer.row_gone_at = None;
        }
        if believer.ended_at.is_none() && !believer.belief.is_held() {
            believer.ended_at = Some(now);
            self.loss_has_a_cause(index, database, now);
        }
        let believer = &self.believers[index];
        if believer.reported {
            return;
        }
        let process = &self.processes[believer.process];
        let (number, is_lease) = (believer.number, believer.is_lease);
        if process.paused {
            return;
        }
        if believer.belief.is_held() {
            if let (Some(gone_at), Some(looks_every)) = (believer.row_gone_at, believer.looks_every)
                && now > self.looked_for_since(gone_at, process) + looks_every + LOOK_TAKES + 6 * self.latency
            {
                let what = format!("{number}: its row is gone, and {now} ms is late");
                self.violated("a loss is reported within its bound", what);
            }
            return;
        }
        let Some(ended_at) = believer.ended_at else { return };
        let within = match self.slept_at {
            Some(_) => REPORTED_AFTER_SLEEP_WITHIN,
            None => REPORTED_WITHIN,
        };
        if is_lease && now > ended_at.max(process.resumed_at) + within {
            let what = format!("{number}: it ended at {ended_at} ms, and at {now} ms nobody knows");
            self.violated("a loss is reported at once", what);
        }
    }

    /// Since when nothing has kept a process from finding that a row has gone.
    pub(super) fn looked_for_since(&self, gone_at: u64, process: &OfProcess) -> u64 {
        let undisturbed = process.disturbed_until.max(process.resumed_at);
        gone_at.max(undisturbed).max(self.slept_at.unwrap_or(0))
    }

    pub(super) fn loss_has_a_cause(&mut self, index: usize, database: &Database, now: u64) {
        let believer = &self.believers[index];
        let row = database.rows.get(&believer.key);
        let stands =
            row.is_some_and(|row| row.id == *believer.belief.row() && row.expires_at > database.clock(now));
        if stands && !believer.belief.remaining().is_zero() && !believer.is_excused {
            let what = format!("{} is lost at {now} ms, though its row stands", believer.number);
            self.violated("no loss is reported that is none", what);
            return;
        }
        let (process, key, since) = (believer.process, &believer.key, believer.since);
        let met = self.has_met_a_fault(
            process,
            key,
            &[Verb::Renew, Verb::HandOver, Verb::Acquire],
            since.saturating_sub(15_000),
        );
        let stood_still = self.processes[process].resumed_at >= since.max(1) || self.slept_at.is_some();
        if believer.is_renewed && !believer.is_excused && !believer.is_shortened && !met && !stood_still {
            let what = format!("lease {} was lost at {now} ms without a fault", believer.number);
            self.violated("one operation's fault changes no other's outcome", what);
        }
    }

    pub(super) fn free_key_is_taken(&mut self, key: &Arc<str>, database: &Database, now: u64) {
        let Some(free_since) = database.free_since(key, now) else {
            return;
        };
        let longest = LONGEST_FREE + 6 * self.latency;
        let starving = self.waiters.iter().find(|waiter| {
            let process = &self.processes[waiter.process];
            let since = free_since
                .max(waiter.joined)
                .max(waiter.unpolled_until)
                .max(process.disturbed_until)
                .max(process.resumed_at)
                .max(self.slept_at.unwrap_or(0));
            waiter.waits_for(key)
                && !process.paused
                && waiter.deadline > now
                && now > since + longest
                && !self.is_blocked(waiter, now)
        });
        if let Some(waiter) = starving {
            let number = waiter.number;
            let what = format!("{key} has been free since {free_since} ms, and {number} waits at {now} ms");
            self.violated("a free key with a waiter is granted", what);
        }
    }

    /// Somebody before it is not polled, so that its process may not have taken the lock.
    pub(super) fn is_blocked(&self, waiter: &Waiter, now: u64) -> bool {
        let before = |other: &&Waiter| other.process == waiter.process && other.waits_for_one(&waiter.keys);
        self.waiters.iter().filter(before).any(|other| {
            other.unpolled_until > other.joined
                && other.unpolled_until.min(other.deadline) + 2 * LATEST_END > now
        }) || self.believers.iter().any(|believer| {
            believer.process == waiter.process && waiter.waits_for(&believer.key) && believer.belief.is_held()
        })
    }
}
