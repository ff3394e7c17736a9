//! What happens to whole processes, and to the database.

use std::sync::Arc;

use super::super::adapter::{self, Verb};
use super::super::context;
use super::super::scenario::{Event, Flavour, Kind};
use super::{Coming, Deed, State};
use crate::lock::error::StoreError;

impl State {
    pub(super) fn happens(&mut self, event: Event, now: u64) -> Deed {
        if self.calm {
            return Deed::Nothing;
        }
        self.writes(|| format!("{event:?}"));
        self.met(match event {
            Event::Pause { .. } => Kind::Pause,
            Event::Kill { .. } => Kind::Kill,
            Event::Sleep { .. } => Kind::Sleep,
            Event::Break { .. } => Kind::Break,
            Event::Restart { loses: 0, .. } => Kind::Restart,
            Event::Restart { .. } => Kind::LostCommits,
            Event::ClockJump { .. } => Kind::ClockJump,
        });
        match event {
            Event::Pause { process, lasting } => {
                let client = &mut self.clients[process];
                if !client.process.is_killed() {
                    client.process.pause();
                    client.paused_until = client.paused_until.max(now + lasting);
                    let until = client.paused_until;
                    let of_process = &mut self.judge.processes[process];
                    (of_process.paused, of_process.resumed_at) = (true, until);
                    self.schedule(until, Coming::Resumption(process));
                }
            }
            Event::Kill { process } => {
                let client = &mut self.clients[process];
                client.process.kill();
                client.watched.clear();
                let waiting = std::mem::take(&mut client.waiting);
                let operations = waiting.into_values().map(|waiting| waiting.operation).collect();
                let process_killed = Arc::clone(&client.process);
                self.judge.killed(process);
                return Deed::Drop(process_killed, operations);
            }
            Event::Sleep { lasting } => {
                context::machine_slept(std::time::Duration::from_millis(lasting));
                self.database.set_clock(i64::try_from(lasting).unwrap(), now);
                self.judge.slept(now);
            }
            Event::Break { key } => {
                let key = Arc::clone(&self.keys[key]);
                let of = self.database.rows.get(&key).map(|row| row.process);
                self.judge.broken(&key, of, true, now);
                self.database.execute(&adapter::breaking(&key), usize::MAX, now);
                self.spreads_news(now);
            }
            Event::Restart { away, loses } => self.restarts(away, loses, now),
            Event::ClockJump { by } => {
                for (key, row) in self.database.rows.clone() {
                    self.judge.broken(&key, Some(row.process), false, now);
                }
                self.database.set_clock(by, now);
            }
        }
        Deed::Nothing
    }

    pub(super) fn restarts(&mut self, away: u64, loses: u64, now: u64) {
        self.away_until = now + away;
        if loses > 0 {
            self.may_have_strays = true;
            let before = self.database.rows.clone();
            for key in self.database.lose_commits(now.saturating_sub(loses), now) {
                let of = before.get(&key).map(|row| row.process);
                let is_gone = !self.database.rows.contains_key(&key);
                self.judge.broken(&key, of, is_gone, now);
                if let Some(row) = self.database.rows.get(&key) {
                    self.judge.broken(&key, Some(row.process), false, now);
                }
            }
        }
        self.judge.all_disturbed(now + away + 10);
        if self.scenario.flavour == Flavour::Sqlite {
            return;
        }
        for process in 0..self.clients.len() {
            let operations: Vec<(usize, Verb)> = self.clients[process]
                .waiting
                .iter()
                .map(|(number, waiting)| (*number, waiting.verb))
                .collect();
            for (operation, verb) in operations {
                self.meets(process, verb, Some(&[operation]), now + 1);
                let unknown = StoreError::unknown_outcome("the server restarts");
                self.fails(process, &[operation], now, unknown);
            }
        }
    }
}
