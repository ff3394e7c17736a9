//! Every order of events, for two processes with two waiters each on one key, and one fault.
//!
//! The machines are the real ones ([`Key`]); the driver and the database around them are small models. Time goes in steps. In
//! a step everything that is under way may happen in any order: statements are executed and answered, holders release, waiters
//! come. A fault may happen once, at any point. The search is breadth-first, so what it finds first is shortest.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::boot_time::BootTime;
use crate::lock::engine::key::{Answer, Effect, Event, Key, Now, Outcome, Row, Waiter};
use crate::lock::error::StoreError;
use crate::lock::lease::time::trusted_until;
use crate::lock::operation::LockRow;

const PROCESSES: usize = 2;
const WAITERS: usize = 2;
/// All times are multiples of it, in milliseconds.
const STEP: u64 = 500;
const TTL: u64 = 1500;
const TIMEOUT: u64 = 1000;
/// So long after the beginning everybody has ended.
const END: u64 = 2500;

/// What may happen once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Once {
    Nothing,
    LostRequest,
    LostAnswer,
    Refused,
    /// It is executed after the client has given it up.
    Late,
    /// Its answer takes another step.
    Slow,
    Cancel,
    Kill,
    LostNews,
    /// A holder's process does not run for a step.
    Pause,
}

pub(super) const ALL: [Once; 10] = [
    Once::Nothing,
    Once::LostRequest,
    Once::LostAnswer,
    Once::Refused,
    Once::Late,
    Once::Slow,
    Once::Cancel,
    Once::Kill,
    Once::LostNews,
    Once::Pause,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Id {
    process: usize,
    waiter: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asked {
    Acquire,
    Release,
    /// To the other waiter of the process.
    HandOff {
        to: usize,
        in_memory: bool,
    },
}

/// A statement, from its sending to its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Statement {
    of: Id,
    asked: Asked,
    sent: u64,
    /// What came of it, once it has been executed. For an acquisition and a hand-off: whether it succeeded, or the other row.
    executed: Option<Executed>,
    /// Nobody waits for its answer.
    is_given_up: bool,
    /// Its client has heard that it failed.
    is_late: bool,
    is_slow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Executed {
    Done,
    NotDone(Option<(Id, u64)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Absent,
    Waits {
        deadline: u64,
    },
    /// It believes until then, unless it leaves.
    Holds {
        until: u64,
        leaves: bool,
    },
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    key: Key,
    waiters: [State; WAITERS],
    /// Who came when.
    order: Vec<usize>,
    is_killed: bool,
    is_paused: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    now: u64,
    processes: [Process; PROCESSES],
    statements: Vec<Statement>,
    /// Whose row stands there, and until when.
    row: Option<(Id, u64)>,
    once: Once,
    beginning: u64,
    violation: Option<&'static str>,
}

pub(super) struct Found {
    pub(super) states: usize,
    pub(super) violation: Option<(&'static str, Vec<String>)>,
}

struct Clock {
    timer: Instant,
    belief: BootTime,
}

impl Clock {
    fn now(&self, now: u64) -> Now {
        Now {
            timer: self.timer + Duration::from_millis(now),
            belief: self.belief(now),
        }
    }

    fn belief(&self, now: u64) -> BootTime {
        self.belief + Duration::from_millis(now)
    }
}

fn name(id: Id) -> Arc<str> {
    const NAMES: [[&str; WAITERS]; PROCESSES] = [["p0w0", "p0w1"], ["p1w0", "p1w1"]];
    NAMES[id.process][id.waiter].into()
}

fn id_of(name: &str) -> Id {
    let digit = |at: usize| usize::from(name.as_bytes()[at] - b'0');
    Id {
        process: digit(1),
        waiter: digit(3),
    }
}

#[allow(clippy::cast_precision_loss, reason = "small numbers")]
fn row(of: Id, until: u64, now: u64) -> Row {
    Row::of(&LockRow {
        key: "k".into(),
        id: name(of).to_string(),
        holder: String::new(),
        acquired_at: 0.0,
        expires_at: until as f64 / 1000.0,
        expires_in: (until - now) as f64 / 1000.0,
    })
}

/// Explores everything that can happen.
///
/// Until `beginning` waiters come, and processes die or pause.
pub(super) fn explore(once: Once, beginning: u64) -> Found {
    let clock = Clock {
        timer: Instant::now(),
        belief: BootTime::now(),
    };
    let process = || Process {
        key: Key::default(),
        waiters: [State::Absent; WAITERS],
        order: Vec::new(),
        is_killed: false,
        is_paused: false,
    };
    let first = World {
        now: 0,
        processes: [process(), process()],
        statements: Vec::new(),
        row: None,
        once,
        beginning,
        violation: None,
    };
    let mut seen = HashSet::new();
    // Each with the place of its predecessor, for the way to a violation.
    let mut ways: Vec<(usize, String)> = vec![(0, String::new())];
    let mut open = VecDeque::from([(0, first)]);
    while let Some((place, world)) = open.pop_front() {
        for (what, next) in world.nexts(&clock) {
            if !seen.insert(fingerprint(&next)) {
                continue;
            }
            ways.push((place, what));
            if let Some(name) = next.violation {
                return Found {
                    states: seen.len(),
                    violation: Some((name, way(&ways))),
                };
            }
            open.push_back((ways.len() - 1, next));
        }
    }
    Found {
        states: seen.len(),
        violation: None,
    }
}

fn fingerprint(world: &World) -> (u64, u64) {
    let (mut one, mut other) = (DefaultHasher::new(), DefaultHasher::new());
    world.hash(&mut one);
    1_u8.hash(&mut other);
    world.hash(&mut other);
    (one.finish(), other.finish())
}

fn way(ways: &[(usize, String)]) -> Vec<String> {
    let mut way = Vec::new();
    let mut at = ways.len() - 1;
    while at > 0 {
        way.push(ways[at].1.clone());
        at = ways[at].0;
    }
    way.reverse();
    way
}

impl World {
    fn violated(&mut self, name: &'static str) {
        self.violation.get_or_insert(name);
    }

    /// Everything that can happen next.
    fn nexts(&self, clock: &Clock) -> Vec<(String, Self)> {
        let mut nexts = Vec::new();
        let mut add = |what: String, change: &dyn Fn(&mut Self)| {
            let mut next = self.clone();
            change(&mut next);
            next.checks();
            nexts.push((format!("{:>5} ms  {what}", self.now), next));
        };
        for process in 0..PROCESSES {
            if self.processes[process].is_killed || self.processes[process].is_paused {
                continue;
            }
            for waiter in 0..WAITERS {
                let id = Id { process, waiter };
                self.nexts_of(id, clock, &mut add);
            }
            if self.now <= self.beginning && self.once == Once::Kill {
                add(format!("p{process} is killed"), &|world| world.kills(process));
            }
            if self.now <= self.beginning + STEP && self.once == Once::Pause {
                add(format!("p{process} pauses"), &|world| {
                    (world.once, world.processes[process].is_paused) = (Once::Nothing, true);
                });
            }
        }
        for index in 0..self.statements.len() {
            self.nexts_of_statement(index, clock, &mut add);
        }
        if self.may_time_go_on(clock) {
            add("time goes on".into(), &|world| world.time_goes_on(clock));
        }
        nexts
    }

    fn nexts_of(&self, id: Id, clock: &Clock, add: &mut dyn FnMut(String, &dyn Fn(&mut Self))) {
        let process = &self.processes[id.process];
        match process.waiters[id.waiter] {
            // The second one comes after the first.
            State::Absent if self.now <= self.beginning && process.order.len() == id.waiter => {
                add(format!("{} comes", name(id)), &|world| world.comes(id, clock));
            }
            State::Waits { .. } if self.once == Once::Cancel => {
                add(format!("{} is cancelled", name(id)), &|world| {
                    world.once = Once::Nothing;
                    world.leaves(id, State::Ended, clock);
                });
            }
            State::Holds { leaves: false, .. } => {
                add(format!("{} releases", name(id)), &|world| {
                    world.releases(id, clock)
                });
            }
            _ => {}
        }
    }

    fn nexts_of_statement(
        &self,
        index: usize,
        clock: &Clock,
        add: &mut dyn FnMut(String, &dyn Fn(&mut Self)),
    ) {
        let statement = &self.statements[index];
        let what = format!("{:?} of {}", statement.asked, name(statement.of));
        let process = &self.processes[statement.of.process];
        if statement.executed.is_none() {
            add(format!("{what} is executed"), &|world| world.executes(index));
        } else if !process.is_paused && !statement.is_slow {
            add(format!("{what} is answered"), &|world| {
                world.answers(index, clock)
            });
        }
        if statement.is_given_up || process.is_killed || process.is_paused {
            return;
        }
        let is_new = statement.executed.is_none();
        let fails = |world: &mut Self, in_doubt: bool, remains: bool| {
            world.once = Once::Nothing;
            world.fails(index, in_doubt, remains, clock);
        };
        match self.once {
            Once::LostRequest if is_new => add(format!("{what} is lost"), &|world| fails(world, true, false)),
            Once::LostAnswer if !is_new => {
                add(format!("{what}: its answer is lost"), &|world| {
                    fails(world, true, false)
                });
            }
            Once::Refused if is_new => add(format!("{what} is refused"), &|world| fails(world, false, false)),
            Once::Late if is_new => add(format!("{what} is given up"), &|world| fails(world, true, true)),
            Once::Slow if !is_new => add(format!("{what}: its answer is slow"), &|world| {
                world.once = Once::Nothing;
                world.statements[index].is_slow = true;
            }),
            _ => {}
        }
    }

    /// Time goes on when all that is under way has happened, and all timers have fired, unless a statement is late or slow.
    fn may_time_go_on(&self, clock: &Clock) -> bool {
        self.now < self.beginning + END
            && self.statements.iter().all(|statement| {
                let process = &self.processes[statement.of.process];
                statement.is_given_up
                    || statement.is_slow
                    || statement.executed.is_some() && process.is_paused
            })
            && self
                .processes
                .iter()
                .all(|process| process.is_killed || process.is_paused || !process.is_due(clock, self.now))
    }

    fn time_goes_on(&mut self, clock: &Clock) {
        self.now += STEP;
        for statement in &mut self.statements {
            statement.is_slow = false;
        }
        for process in 0..PROCESSES {
            self.processes[process].is_paused = false;
            self.timers(process, clock);
        }
        if self.now == self.beginning + END {
            self.has_ended();
        }
    }

    /// Timers fire, and the poller looks.
    fn timers(&mut self, process: usize, clock: &Clock) {
        if self.processes[process].is_killed {
            return;
        }
        if self.processes[process].key.is_awaited() {
            let found = self.row.filter(|(_, until)| *until > self.now);
            let found = found.map(|(of, until)| row(of, until, self.now));
            self.tells(process, Event::Observed(found), clock);
        }
        let now = clock.now(self.now);
        if self.processes[process]
            .key
            .overdue_at()
            .is_some_and(|due| due <= now.timer)
        {
            self.tells(process, Event::RemoveOverdue, clock);
        }
        for waiter in 0..WAITERS {
            let id = Id { process, waiter };
            if let State::Waits { deadline } = self.processes[process].waiters[waiter] {
                let deadline = clock.now(deadline).timer;
                if self.processes[process].key.wake_at(now, &name(id), deadline) <= now.timer {
                    self.tells(process, Event::Due(name(id)), clock);
                }
            }
        }
    }

    fn comes(&mut self, id: Id, clock: &Clock) {
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
    fn leaves(&mut self, id: Id, state: State, clock: &Clock) {
        self.processes[id.process].waiters[id.waiter] = state;
        self.give_up(id);
        self.tells(id.process, Event::Leave(name(id)), clock);
    }

    /// Nobody waits for the answer to an acquisition any more.
    fn give_up(&mut self, id: Id) {
        for statement in &mut self.statements {
            if statement.of == id && statement.asked == Asked::Acquire {
                statement.is_given_up = true;
            }
        }
    }

    fn kills(&mut self, process: usize) {
        self.once = Once::Nothing;
        self.processes[process].is_killed = true;
        self.processes[process].waiters = [State::Ended; WAITERS];
        for statement in &mut self.statements {
            statement.is_given_up |= statement.of.process == process;
        }
    }

    fn asks(&mut self, of: Id, asked: Asked) {
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
    fn tells(&mut self, process: usize, event: Event, clock: &Clock) {
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

    fn fails_to_get(&mut self, id: Id, outcome: &Outcome) {
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

    fn releases(&mut self, id: Id, clock: &Clock) {
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

    fn hands_off(&mut self, from: Id, to: Id, in_memory: bool, clock: &Clock) {
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

    fn receives(&mut self, id: Id, until: u64, told: Option<BootTime>, clock: &Clock) {
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

    fn executes(&mut self, index: usize) {
        let Statement { of, asked, .. } = self.statements[index];
        let standing = self.row.filter(|(_, until)| *until > self.now);
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

    fn answers(&mut self, index: usize, clock: &Clock) {
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

    fn hand_off_is_answered(
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

    fn spreads_news(&mut self, from: usize, clock: &Clock) {
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
    fn fails(&mut self, index: usize, in_doubt: bool, remains: bool, clock: &Clock) {
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

    fn checks(&mut self) {
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
    fn has_ended(&mut self) {
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

impl Process {
    fn ends(&mut self, id: Id) {
        if let State::Holds { .. } = self.waiters[id.waiter] {
            self.waiters[id.waiter] = State::Ended;
        }
    }

    /// Whether a timer is due.
    fn is_due(&self, clock: &Clock, now: u64) -> bool {
        let at = clock.now(now);
        self.key.overdue_at().is_some_and(|due| due <= at.timer)
    }
}
