//! What a seed makes happen: who wants which lock when, and what goes wrong. Times are in milliseconds.

mod steps;

use super::chance::Chance;
use steps::task;

/// Whose rules the simulated database keeps where the real ones differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// An expired row stands until it is overwritten. Every answer is conclusive.
    Sqlite,
    /// An expired row stands until it is overwritten.
    Postgres,
    /// An expired row is gone.
    Redis,
}

/// What can happen to a statement on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The answer comes late.
    SlowAnswer,
    /// It is carried out, and its answer is lost.
    LostAnswer,
    /// It is lost on its way.
    LostRequest,
    /// The server is not reached, and the client knows that at once.
    Refused,
    /// The client gives it up, and it is carried out after that.
    Late,
    /// The database refuses this one operation for good.
    Poison,
    /// There is no free connection for a while.
    PoolFull,
    /// It is carried out over one connection, and again over another; the first one is the later one.
    Twice,
    /// The news of a release is lost.
    LostNews,
}

impl Fault {
    pub(super) const ALL: [Self; 9] = [
        Self::SlowAnswer,
        Self::LostAnswer,
        Self::LostRequest,
        Self::Refused,
        Self::Late,
        Self::Poison,
        Self::PoolFull,
        Self::Twice,
        Self::LostNews,
    ];
    /// What a database in the same machine can do.
    const LOCAL: [Self; 5] = [
        Self::SlowAnswer,
        Self::Refused,
        Self::Poison,
        Self::PoolFull,
        Self::LostNews,
    ];
}

/// What can happen in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Fault(Fault),
    /// An operation is carried out, or answered, before an earlier one of the same process.
    Reordered,
    Pause,
    Kill,
    Fork,
    Sleep,
    Break,
    Restart,
    LostCommits,
    ClockJump,
    CancelledAcquisition,
    ReleaseThatIsLeft,
    /// Nobody polls an acquisition for a while.
    Unpolled,
    SeveralLocks,
    ReleaseByName,
    /// By another process.
    ReleaseByNameElsewhere,
}

impl Kind {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::Reordered,
            Self::Pause,
            Self::Kill,
            Self::Fork,
            Self::Sleep,
            Self::Break,
            Self::Restart,
            Self::LostCommits,
            Self::ClockJump,
            Self::CancelledAcquisition,
            Self::ReleaseThatIsLeft,
            Self::Unpolled,
            Self::SeveralLocks,
            Self::ReleaseByName,
            Self::ReleaseByNameElsewhere,
        ];
        Fault::ALL.into_iter().map(Self::Fault).chain(others)
    }
}

/// A time in which a process's statements meet a fault.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// It keeps its fate when other windows are dropped.
    pub(super) number: u64,
    pub(super) fault: Fault,
    pub(super) process: usize,
    pub(super) from: u64,
    pub(super) until: u64,
    pub(super) percent: u64,
}

/// What happens to a whole process, or to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Pause {
        process: usize,
        lasting: u64,
    },
    Kill {
        process: usize,
    },
    /// All machines but the database's sleep.
    Sleep {
        lasting: u64,
    },
    /// An operator deletes a row.
    Break {
        key: usize,
    },
    /// The database restarts, is away for a while, and has lost the commits of so long.
    Restart {
        away: u64,
        loses: u64,
    },
    /// The database's clock is set forward or back.
    ClockJump {
        by: i64,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Happening {
    pub(super) at: u64,
    pub(super) event: Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    After(u64),
    /// At so many awaits.
    AtPoll(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Grant,
    Lease {
        renewed: bool,
        max_hold: Option<u64>,
        /// How long before the row's expiry the holder stops believing.
        margin: u64,
        /// Whether its row is looked for each second.
        is_checked: bool,
    },
    /// Leases of all keys.
    Several,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Release,
    /// The future of the release is dropped at so many awaits.
    ReleaseLeft(u64),
    Drop,
    /// It is kept until it expires (a grant), or dropped (a lease).
    Keep,
    /// A grant that is kept is released by its holder's name.
    ByName,
    /// So, by another process.
    ByNameElsewhere,
}

/// One lock taken by a task.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) wait: u64,
    pub(super) key: usize,
    pub(super) how: How,
    pub(super) ttl: u64,
    pub(super) timeout: u64,
    /// So long nobody polls the acquisition.
    pub(super) unpolled: u64,
    pub(super) cancel: Option<Cancel>,
    pub(super) hold: u64,
    /// Renewed by hand, to this time, in the middle of the holding.
    pub(super) renew: Option<u64>,
    pub(super) end: End,
}

#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) process: usize,
    pub(super) steps: Vec<Step>,
}

/// A process forks. The child, which has the next number, has nothing of its parent's.
#[derive(Clone, Debug)]
pub(super) struct Fork {
    pub(super) parent: usize,
    pub(super) at: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) flavour: Flavour,
    /// Without those that are forked.
    pub(super) processes: usize,
    pub(super) forks: Vec<Fork>,
    /// Holders of different processes have the same names.
    pub(super) shares_names: bool,
    pub(super) keys: usize,
    /// The longest way of a statement, and of its answer.
    pub(super) latency: u64,
    pub(super) tasks: Vec<Task>,
    pub(super) windows: Vec<Window>,
    pub(super) happenings: Vec<Happening>,
}

/// What a scenario's tasks do above all.
#[derive(Clone, Copy)]
struct Theme {
    /// One process's tasks hand a lease on to each other, and renew it.
    is_one_queue: bool,
    /// One of two comes while the other's release is under way.
    are_two: bool,
    /// Leases are renewed for shorter times, while statements come late.
    is_renewed_sooner: bool,
}

/// How long the disturbed part of a scenario takes at most, after which only what was begun goes on.
const SPAN: u64 = 12_000;

impl Scenario {
    pub(super) fn of(seed: u64) -> Self {
        let mut chance = Chance::of(seed);
        let (mut scenario, theme) = Self::without_tasks(seed, &mut chance);
        let most_tasks = if theme.are_two { 2 } else { 6 };
        for _ in 0..chance.between(2, most_tasks) {
            let task = scenario.task(&mut chance, theme);
            scenario.tasks.push(task);
        }
        let windows = chance.one_of(&[0, 1, 2, 3, 5, 8]);
        for number in 0..windows {
            let window = scenario.window(&mut chance, number);
            scenario.windows.push(window);
        }
        for _ in 0..chance.one_of(&[0, 0, 0, 1, 1, 2]) {
            let happening = scenario.happening(&mut chance);
            scenario.happenings.push(happening);
        }
        let is_handed_on_late = |chance: &mut Chance| theme.is_one_queue && chance.percent(40);
        let is_remote = scenario.flavour != Flavour::Sqlite;
        if is_remote && (theme.is_renewed_sooner || is_handed_on_late(&mut chance)) {
            // Statements that come late, while the leases are handed on or renewed.
            scenario.windows.push(Window {
                number: windows,
                fault: if theme.is_renewed_sooner {
                    Fault::Late
                } else {
                    chance.one_of(&[Fault::Late, Fault::Twice])
                },
                process: chance.index(scenario.processes),
                from: 0,
                until: SPAN,
                percent: 35,
            });
        }
        scenario
    }

    fn without_tasks(seed: u64, chance: &mut Chance) -> (Self, Theme) {
        let flavour = chance.one_of(&[
            Flavour::Sqlite,
            Flavour::Postgres,
            Flavour::Postgres,
            Flavour::Redis,
        ]);
        let processes = chance.one_of(&[1, 2, 2, 2, 3]);
        let keys = chance.one_of(&[1, 1, 2]);
        let latency = chance.one_of(&[0, 1, 1, 3, 20]);
        let is_one_queue = chance.percent(20);
        let (processes, keys) = if is_one_queue { (1, 1) } else { (processes, keys) };
        let mut forks = Vec::new();
        if !is_one_queue && chance.percent(12) {
            forks.push(Fork {
                parent: chance.index(processes),
                at: chance.between(0, SPAN / 3),
            });
        }
        let is_renewed_sooner = flavour != Flavour::Sqlite && !is_one_queue && chance.percent(15);
        let are_two = is_one_queue && chance.percent(25);
        let scenario = Self {
            seed,
            flavour,
            processes,
            forks,
            shares_names: chance.percent(50),
            keys,
            latency: if are_two { 20 } else { latency },
            tasks: Vec::new(),
            windows: Vec::new(),
            happenings: Vec::new(),
        };
        let theme = Theme {
            is_one_queue,
            are_two,
            is_renewed_sooner,
        };
        (scenario, theme)
    }

    fn task(&self, chance: &mut Chance, theme: Theme) -> Task {
        let mut task = task(chance, self.all_processes(), self.keys, self.latency);
        for step in &mut task.steps {
            if theme.are_two {
                step.meets_the_other(chance);
            } else if theme.is_one_queue {
                step.hands_on(chance);
            } else if theme.is_renewed_sooner {
                step.renewed_sooner(chance, self.latency);
            }
        }
        task
    }

    /// How many processes there are, with those that are forked.
    pub(super) fn all_processes(&self) -> usize {
        self.processes + self.forks.len()
    }

    /// The fork by which a process begins.
    pub(super) fn fork_of(&self, process: usize) -> Option<&Fork> {
        self.forks.get(process.checked_sub(self.processes)?)
    }

    fn window(&self, chance: &mut Chance, number: u64) -> Window {
        let from = if chance.percent(40) {
            0
        } else {
            chance.between(0, SPAN / 2)
        };
        let fault = match self.flavour {
            Flavour::Sqlite => chance.one_of(&Fault::LOCAL),
            Flavour::Postgres | Flavour::Redis => chance.one_of(&Fault::ALL),
        };
        Window {
            number,
            fault,
            process: chance.index(self.all_processes()),
            from,
            until: from + chance.one_of(&[50, 500, 2000, 6000]),
            percent: chance.one_of(&[15, 50, 100]),
        }
    }

    fn happening(&self, chance: &mut Chance) -> Happening {
        let process = chance.index(self.processes);
        let key = chance.index(self.keys);
        let event = match chance.between(0, 9) {
            0..=3 => Event::Pause {
                process,
                lasting: chance.one_of(&[10, 300, 1500, 5000]),
            },
            4 => Event::Kill { process },
            5 => Event::Sleep {
                lasting: chance.one_of(&[300, 2000, 20_000]),
            },
            6 | 7 => Event::Break { key },
            8 => Event::Restart {
                away: chance.one_of(&[0, 100, 1000, 9000]),
                loses: match self.flavour {
                    Flavour::Sqlite => 0,
                    Flavour::Postgres => chance.one_of(&[0, 0, 50, 1000]),
                    Flavour::Redis => chance.one_of(&[0, 1000, u64::MAX]),
                },
            },
            _ => Event::ClockJump {
                by: chance.one_of(&[-5000, -500, 500, 3000, 60_000]),
            },
        };
        Happening {
            at: chance.between(0, SPAN),
            event,
        }
    }
}
