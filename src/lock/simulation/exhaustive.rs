//! Every order of events, for two processes with two waiters each on one key, and one fault.
//!
//! The machines are the real ones ([`Key`]); the driver and the database around them are small models. Time goes in steps. In
//! a step everything that is under way may happen in any order: statements are executed and answered, holders release, waiters
//! come. A fault may happen once, at any point. The search is breadth-first, so what it finds first is shortest.

mod fingerprint;
mod model;

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fingerprint::Fingerprint;
use tokio::time::Instant;

use crate::lock::boot_time::BootTime;
use crate::lock::engine::key::{Event, Key, Now, Row};
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

/// Takes what may happen next: its name, and what it does to the world.
type Add<'a> = dyn FnMut(&dyn Fn() -> String, &dyn Fn(&mut World)) + 'a;

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
    static NAMES: LazyLock<[[Arc<str>; WAITERS]; PROCESSES]> =
        LazyLock::new(|| [["p0w0".into(), "p0w1".into()], ["p1w0".into(), "p1w1".into()]]);
    Arc::clone(&NAMES[id.process][id.waiter])
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
    let mut seen: HashSet<Fingerprint, BuildHasherDefault<Fingerprint>> = HashSet::default();
    // Each with the place of its predecessor, for the way to a violation.
    let mut ways: Vec<(usize, String)> = vec![(0, String::new())];
    let mut open = VecDeque::from([(0, first)]);
    let mut violation = None;
    while let Some((place, world)) = open.pop_front() {
        world.nexts(&clock, &mut |what, next| {
            if violation.is_some() || !seen.insert(Fingerprint::of(&next)) {
                return;
            }
            ways.push((place, what()));
            match next.violation {
                Some(name) => violation = Some((name, way(&ways))),
                None => open.push_back((ways.len() - 1, next)),
            }
        });
        if violation.is_some() {
            break;
        }
    }
    Found {
        states: seen.len(),
        violation,
    }
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

    /// Everything that can happen next, each with what names it.
    fn nexts(&self, clock: &Clock, found: &mut dyn FnMut(&dyn Fn() -> String, Self)) {
        let mut add = |what: &dyn Fn() -> String, change: &dyn Fn(&mut Self)| {
            let mut next = self.clone();
            change(&mut next);
            next.checks();
            found(&|| format!("{:>5} ms  {}", self.now, what()), next);
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
                add(&|| format!("p{process} is killed"), &|world| world.kills(process));
            }
            if self.now <= self.beginning + STEP && self.once == Once::Pause {
                add(&|| format!("p{process} pauses"), &|world| {
                    (world.once, world.processes[process].is_paused) = (Once::Nothing, true);
                });
            }
        }
        for index in 0..self.statements.len() {
            self.nexts_of_statement(index, clock, &mut add);
        }
        if self.may_time_go_on(clock) {
            add(&|| "time goes on".into(), &|world| world.time_goes_on(clock));
        }
    }

    fn nexts_of(&self, id: Id, clock: &Clock, add: &mut Add<'_>) {
        let process = &self.processes[id.process];
        match process.waiters[id.waiter] {
            // The second one comes after the first.
            State::Absent if self.now <= self.beginning && process.order.len() == id.waiter => {
                add(&|| format!("{} comes", name(id)), &|world| world.comes(id, clock));
            }
            State::Waits { .. } if self.once == Once::Cancel => {
                add(&|| format!("{} is cancelled", name(id)), &|world| {
                    world.once = Once::Nothing;
                    world.leaves(id, State::Ended, clock);
                });
            }
            State::Holds { leaves: false, .. } => {
                add(&|| format!("{} releases", name(id)), &|world| {
                    world.releases(id, clock)
                });
            }
            _ => {}
        }
    }

    fn nexts_of_statement(&self, index: usize, clock: &Clock, add: &mut Add<'_>) {
        let statement = &self.statements[index];
        let what = || format!("{:?} of {}", statement.asked, name(statement.of));
        let process = &self.processes[statement.of.process];
        if statement.executed.is_none() {
            add(&|| format!("{} is executed", what()), &|world| {
                world.executes(index)
            });
        } else if !process.is_paused && !statement.is_slow {
            add(&|| format!("{} is answered", what()), &|world| {
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
            Once::LostRequest if is_new => add(&|| format!("{} is lost", what()), &|world| {
                fails(world, true, false)
            }),
            Once::LostAnswer if !is_new => {
                add(&|| format!("{}: its answer is lost", what()), &|world| {
                    fails(world, true, false)
                });
            }
            Once::Refused if is_new => add(&|| format!("{} is refused", what()), &|world| {
                fails(world, false, false)
            }),
            Once::Late if is_new => add(&|| format!("{} is given up", what()), &|world| {
                fails(world, true, true)
            }),
            Once::Slow if !is_new => add(&|| format!("{}: its answer is slow", what()), &|world| {
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
            let found = self.standing().map(|(of, until)| row(of, until, self.now));
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
