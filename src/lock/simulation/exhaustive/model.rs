//! The driver and the database, as far as the exploration needs them.

use std::time::Duration;

use super::{
    Asked, Clock, Executed, Id, Once, PROCESSES, Process, State, Statement, TIMEOUT, TTL, WAITERS, World,
    id_of, name, row,
};
use crate::lock::boot_time::BootTime;
use crate::lock::engine::key::{Answer, Effect, Event, Outcome, Waiter};
use crate::lock::error::StoreError;
use crate::lock::lease::time::trusted_until;

impl World {
    pub(super) fn comes(&mut self, id: Id, clock: &Clock) {
        let deadline = self.now + TIMEOUT;
        self.processes[id.process].waiters[id.waiter] = State::Waits { deadline };
        self.processes[id.process].order.push(id.waiter);
        let waiter = Waiter {
            id: name(id),
            ttl: Duration::from_millis(TTL),
            deadline: clock.now(deadline).timer,
            // One of the two is a lease, which may have it before the database has answered.
            allows_optimistic_handoff: id.waiter == 1,
            met_conflict: false,
        };
        self.tells(id.process, Event::Join(waiter), clock);
    }

    /// A waiter has got the lock, or has given up.
    pub(super) fn leaves(&mut self, id: Id, state: State, clock: &Clock) {
        self.processes[id.process].waiters[id.waiter] = state;
        self.give_up(id);
        self.tells(id.process, Event::Leave(name(id)), clock);
    }

    /// Nobody waits for the answer to an acquisition any more.
    pub(super) fn give_up(&mut self, id: Id) {
        for statement in &mut self.statements {
            if statement.of == id && statement.asked == Asked::Acquire {
                statement.is_given_up = true;
            }
        }
    }

    pub(super) fn kills(&mut self, process: usize) {
        self.once = Once::Nothing;
        self.processes[process].is_killed = true;
        self.processes[process].waiters = [State::Ended; WAITERS];
        for statement in &mut self.statements {
            statement.is_given_up |= statement.of.process == process;
        }
    }

    pub(super) fn asks(&mut self, of: Id, asked: Asked) {
        if asked == Asked::Acquire {
            let is_asking = |statement: &Statement| {
                statement.asked == asked && statement.of.process == of.process && !statement.is_given_up
            };
            if self.statements.iter().any(is_asking) {
                self.violated("at most one request per key and process is under way");
            }
        }
        self.statements.push(Statement {
            of,
            asked,
            sent: self.now,
            executed: None,
            is_given_up: false,
            is_late: false,
            is_slow: false,
        });
    }

    /// Tells a process's machine, and carries out what it answers.
    pub(super) fn tells(&mut self, process: usize, event: Event, clock: &Clock) {
        let releasing = match &event {
            Event::Release { id, .. } => Some(id_of(id)),
            _ => None,
        };
        let effects = self.processes[process].key.on(clock.now(self.now), event);
        for effect in effects {
            match effect {
                Effect::Ask(id) => self.asks(id_of(&id), Asked::Acquire),
                Effect::Tell(id, outcome) => {
                    let id = id_of(&id);
                    self.fails_to_get(id, &outcome);
                    self.leaves(id, State::Ended, clock);
                }
                Effect::Remove(id, _) => {
                    let id = id_of(&id);
                    self.processes[process].waiters[id.waiter] = State::Ended;
                    self.give_up(id);
                }
                Effect::HandOff { to, is_optimistic } => {
                    if let Some(from) = releasing {
                        self.hands_off(from, id_of(&to), is_optimistic, clock);
                    }
                }
                Effect::Delete => {
                    if let Some(of) = releasing {
                        self.asks(of, Asked::Release);
                    }
                }
                Effect::Rearm(_) | Effect::Watch(_) | Effect::Count(..) => {}
            }
        }
    }

    pub(super) fn fails_to_get(&mut self, id: Id, outcome: &Outcome) {
        if let State::Waits { deadline } = self.processes[id.process].waiters[id.waiter] {
            if self.now < deadline {
                self.violated("no timeout early");
            }
            if self.now > deadline + 1000 {
                self.violated("no timeout late");
            }
        }
        if let (Outcome::Failed(_) | Outcome::NoAnswer(_), Once::Cancel | Once::Kill) = (outcome, self.once) {
            self.violated("nobody fails without a fault");
        }
    }

    pub(super) fn releases(&mut self, id: Id, clock: &Clock) {
        let State::Holds { until, .. } = self.processes[id.process].waiters[id.waiter] else {
            return;
        };
        let is_believed = until > self.now;
        self.processes[id.process].waiters[id.waiter] = State::Holds { until, leaves: true };
        let is_on_its_way = self.statements.iter().any(|statement| {
            matches!(statement.asked, Asked::HandOff { to, .. } if to == id.waiter)
                && statement.of.process == id.process
        });
        let event = if is_on_its_way {
            Event::Leaving(name(id))
        } else {
            Event::Release {
                id: name(id),
                may_be_handed_off: is_believed,
                is_clock_known: true,
            }
        };
        self.tells(id.process, event, clock);
    }

    pub(super) fn hands_off(&mut self, from: Id, to: Id, in_memory: bool, clock: &Clock) {
        let State::Holds { until, .. } = self.processes[from.process].waiters[from.waiter] else {
            return;
        };
        let to_waiter = to.waiter;
        self.asks(
            from,
            Asked::HandOff {
                to: to_waiter,
                in_memory,
            },
        );
        if in_memory {
            let until = until.min(self.now + TTL);
            self.receives(to, until, None, clock);
        }
    }

    pub(super) fn receives(&mut self, id: Id, until: u64, told: Option<BootTime>, clock: &Clock) {
        let process = &self.processes[id.process];
        let State::Waits { .. } = process.waiters[id.waiter] else {
            return;
        };
        let passed_over = process
            .order
            .iter()
            .take_while(|waiter| **waiter != id.waiter)
            .any(
                |waiter| matches!(process.waiters[*waiter], State::Waits { deadline } if deadline > self.now),
            );
        if passed_over {
            self.violated("first come, first served within a process");
        }
        let answer = Answer::Won { until: told };
        self.tells(id.process, Event::Answered(name(id), answer), clock);
        self.leaves(id, State::Holds { until, leaves: false }, clock);
    }

    /// The row, unless it is free.
    pub(super) fn standing(&self) -> Option<(Id, u64)> {
        self.row.filter(|(_, until)| *until > self.now)
    }

    pub(super) fn executes(&mut self, index: usize) {
        let Statement { of, asked, .. } = self.statements[index];
        let standing = self.standing();
        let executed = match asked {
            Asked::Acquire => match standing {
                Some((by, _)) if by != of => Executed::NotDone(standing),
                _ => {
                    // A late statement of the same acquisition ends its own row no sooner.
                    let own_end = standing.map_or(0, |(_, until)| until);
                    self.row = Some((of, own_end.max(self.now + TTL)));
                    Executed::Done
                }
            },
            Asked::Release => match self.row {
                Some((by, _)) if by == of => {
                    self.row = None;
                    Executed::Done
                }
                _ => Executed::NotDone(None),
            },
            Asked::HandOff { to, .. } => {
                let to = Id { waiter: to, ..of };
                match self.row {
                    Some((by, until)) if by == of || by == to => {
                        let until = if by == to {
                            until.max(self.now + TTL)
                        } else {
                            self.now + TTL
                        };
                        self.row = Some((to, until));
                        Executed::Done
                    }
                    _ => Executed::NotDone(None),
                }
            }
        };
        let statement = &mut self.statements[index];
        if !statement.is_late && !self.processes[of.process].is_killed {
            statement.executed = Some(executed);
            return;
        }
        let is_acquisition = statement.asked == Asked::Acquire;
        self.statements.remove(index);
        // Whoever was in doubt looks for the row until it cannot come any more.
        let is_over = self.processes[of.process].waiters[of.waiter] == State::Ended;
        if is_acquisition && is_over && !self.processes[of.process].is_killed {
            self.asks(of, Asked::Release);
        }
    }

    pub(super) fn answers(&mut self, index: usize, clock: &Clock) {
        let statement = self.statements.remove(index);
        let Some(executed) = statement.executed else {
            return;
        };
        let of = statement.of;
        match (statement.asked, executed) {
            _ if self.processes[of.process].is_killed => {}
            (Asked::Acquire, Executed::Done) if statement.is_given_up => {
                let holds = matches!(self.processes[of.process].waiters[of.waiter], State::Holds { .. });
                // The claim is dropped, and gives its row back.
                if !holds {
                    self.asks(of, Asked::Release);
                }
            }
            (Asked::Acquire, _) if statement.is_given_up => {}
            (Asked::Acquire, Executed::Done) => {
                let told = trusted_until(clock.belief(statement.sent), Duration::from_millis(TTL));
                self.receives(of, statement.sent + TTL, Some(told), clock);
            }
            (Asked::Acquire, Executed::NotDone(by)) => {
                let by = by.map(|(by, until)| row(by, until.max(self.now), self.now));
                self.tells(of.process, Event::Answered(name(of), Answer::Held(by)), clock);
            }
            (Asked::Release, executed) => {
                self.processes[of.process].ends(of);
                self.tells(of.process, Event::Ended(name(of)), clock);
                if executed == Executed::Done {
                    self.spreads_news(of.process, clock);
                }
            }
            (Asked::HandOff { to, in_memory }, executed) => {
                let to = Id { waiter: to, ..of };
                self.processes[of.process].ends(of);
                self.hand_off_is_answered(of, to, in_memory, executed, statement.sent, clock);
            }
        }
    }

    pub(super) fn hand_off_is_answered(
        &mut self,
        of: Id,
        to: Id,
        in_memory: bool,
        executed: Executed,
        sent: u64,
        clock: &Clock,
    ) {
        let until = sent + TTL;
        let told = trusted_until(clock.belief(sent), Duration::from_millis(TTL));
        if !in_memory {
            self.tells(of.process, Event::Ended(name(of)), clock);
            let waits = matches!(self.processes[to.process].waiters[to.waiter], State::Waits { .. });
            match executed {
                Executed::Done if waits => self.receives(to, until, Some(told), clock),
                Executed::Done => self.asks(to, Asked::Release),
                Executed::NotDone(_) if waits => {
                    self.tells(of.process, Event::Answered(name(to), Answer::Held(None)), clock);
                }
                Executed::NotDone(_) => {}
            }
            return;
        }
        let State::Holds {
            leaves,
            until: trusted,
        } = self.processes[to.process].waiters[to.waiter]
        else {
            return;
        };
        if executed != Executed::Done {
            self.processes[to.process].waiters[to.waiter] = State::Ended;
            return self.tells(to.process, Event::Ended(name(to)), clock);
        }
        let until = until.max(trusted);
        self.processes[to.process].waiters[to.waiter] = State::Holds { until, leaves };
        self.tells(
            to.process,
            Event::Extended {
                id: name(to),
                until: told,
            },
            clock,
        );
        if leaves {
            let event = Event::Release {
                id: name(to),
                may_be_handed_off: until > self.now,
                is_clock_known: true,
            };
            self.tells(to.process, event, clock);
        }
    }

    pub(super) fn spreads_news(&mut self, from: usize, clock: &Clock) {
        let other = 1 - from;
        if self.once == Once::LostNews {
            self.once = Once::Nothing;
        } else if !self.processes[other].is_killed
            && !self.processes[other].is_paused
            && self.processes[other].key.has_waiters()
        {
            self.tells(other, Event::MayBeFree, clock);
        }
    }

    /// A statement fails; if it `remains`, it is executed all the same, some time.
    pub(super) fn fails(&mut self, index: usize, in_doubt: bool, remains: bool, clock: &Clock) {
        let statement = self.statements[index].clone();
        if remains {
            (self.statements[index].is_given_up, self.statements[index].is_late) = (true, true);
        } else {
            self.statements.remove(index);
        }
        let of = statement.of;
        let error = if in_doubt {
            StoreError::unknown_outcome("lost")
        } else {
            StoreError::transient("refused")
        };
        let failed = |error| Answer::Failed { error, jitter: 1000 };
        match statement.asked {
            Asked::Acquire
                if matches!(self.processes[of.process].waiters[of.waiter], State::Waits { .. }) =>
            {
                self.tells(of.process, Event::Answered(name(of), failed(error)), clock);
            }
            // The claim in doubt is cleaned up.
            Asked::Acquire => self.asks(of, Asked::Release),
            Asked::Release => self.asks(of, Asked::Release),
            Asked::HandOff { in_memory: true, .. } => self.asks(of, statement.asked),
            Asked::HandOff { to, .. } => {
                let to = Id { waiter: to, ..of };
                if matches!(self.processes[of.process].waiters[to.waiter], State::Waits { .. }) {
                    self.tells(of.process, Event::Answered(name(to), failed(error)), clock);
                }
                self.asks(of, Asked::Release);
            }
        }
    }

    pub(super) fn checks(&mut self) {
        let now = self.now;
        let mut believers = 0;
        for process in 0..PROCESSES {
            for waiter in 0..WAITERS {
                let State::Holds { until, leaves: false } = self.processes[process].waiters[waiter] else {
                    continue;
                };
                if until <= now {
                    continue;
                }
                believers += 1;
                let is_covered = self
                    .row
                    .is_some_and(|(by, row)| by.process == process && row >= until);
                if !is_covered {
                    self.violated("a belief has a row for as long");
                }
            }
        }
        if believers > 1 {
            self.violated("no two holders believe at once");
        }
    }

    /// At the end nobody waits any more, and no row stands that nobody has had given.
    pub(super) fn has_ended(&mut self) {
        let waits = |process: &Process| {
            process
                .waiters
                .iter()
                .any(|waiter| matches!(waiter, State::Waits { .. }))
        };
        if self.processes.iter().any(waits) {
            self.violated("every wait ends");
        }
    }
}
