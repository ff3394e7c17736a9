//! The invariants that are looked at after every step.

use std::sync::Arc;

use super::super::adapter::Verb;
use super::super::context;
use super::super::database::Database;
use super::{
    Judge, LATEST_END, LONGEST_FREE, LOOK_TAKES, OfProcess, REPORTED_AFTER_SLEEP_WITHIN, REPORTED_WITHIN,
    Waiter,
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
                && now > self.looked_for_since(gone_at, process) + looks_every + LOOK_TAKES
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
            waiter.key == *key
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
        let before = |other: &&Waiter| other.process == waiter.process && other.key == waiter.key;
        self.waiters.iter().filter(before).any(|other| {
            other.unpolled_until > other.joined
                && other.unpolled_until.min(other.deadline) + 2 * LATEST_END > now
        }) || self.believers.iter().any(|believer| {
            believer.process == waiter.process && believer.key == waiter.key && believer.belief.is_held()
        })
    }
}
