//! The world around the engines: the ways to the database, which lose, delay and repeat, and what happens to processes.

mod happenings;
mod ways;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::adapter::{self, Verb};
use super::chance::Chance;
use super::context::{self, Process};
use super::database::{Database, Outcome, Statement, brief};
use super::judge::Judge;
use super::scenario::{Event, Fault, Kind, Scenario};
use crate::lock::error::StoreError;
use crate::lock::operation::Operation;
use crate::lock::store::{Listener, Store, key_hash};

/// For how long a client waits for an answer at most.
const PATIENCE: u64 = 5000;
/// When a process hears of the end of a release, its next waiter asks so soon. The poller takes longer.
const NEXT_ASKS_WITHIN: u64 = 15;
/// How long after it was given up a statement may still be carried out.
const LATEST: u64 = 6000;

/// What comes at a time.
enum Coming {
    /// What a process gathered is sent, as one statement.
    Sending(usize, Verb, u64),
    /// A statement reaches the server.
    Arrival(Vec<Request>, Way),
    /// An answer reaches the client.
    Answer(usize, usize, Result<Outcome, StoreError>),
    News(usize, u64),
    Happening(Event),
    Resumption(usize),
    Look,
    /// A process has heard of the end of a release a little while ago.
    Released(usize, Arc<str>, u64),
}

/// One operation's part of a statement.
#[derive(Clone)]
struct Request {
    process: usize,
    /// The place of the operation among those that wait for their answers.
    operation: usize,
    statement: Statement,
    is_poison: bool,
}

#[derive(Clone, Copy)]
struct Way {
    answer_takes: Option<u64>,
}

struct Scheduled {
    at: u64,
    number: u64,
    coming: Coming,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// An operation that waits for its answer.
struct Waiting {
    operation: Operation,
    verb: Verb,
    key: Option<Arc<str>>,
    statement: Statement,
    is_poison: bool,
}

/// The client's side of one process.
struct Client {
    process: Arc<Process>,
    listener: Option<Arc<dyn Listener>>,
    waiting: BTreeMap<usize, Waiting>,
    gathered: BTreeMap<Verb, Vec<usize>>,
    watched: Vec<Arc<str>>,
    paused_until: u64,
    /// Until when there is no free connection for statements of a kind.
    full_until: BTreeMap<Verb, u64>,
    statements: BTreeMap<Verb, u64>,
    operations: BTreeMap<(Verb, Option<Arc<str>>), u64>,
    /// When each key was asked for last.
    asked_at: BTreeMap<Arc<str>, u64>,
    /// The latest operations that were carried out and answered.
    latest: [usize; 2],
}

pub(super) struct State {
    pub(super) scenario: Scenario,
    pub(super) database: Database,
    pub(super) judge: Judge,
    pub(super) keys: Vec<Arc<str>>,
    clients: Vec<Client>,
    coming: BinaryHeap<Reverse<Scheduled>>,
    numbers: u64,
    chance: Chance,
    away_until: u64,
    /// No more faults.
    calm: bool,
    /// Keys whose rows may be nobody's, since the database lost commits.
    pub(super) may_have_strays: bool,
    /// Rows that are left until they expire, on purpose.
    pub(super) kept: Vec<Arc<str>>,
    pub(super) met: BTreeMap<Kind, u64>,
    pub(super) history: Option<String>,
}

pub(super) struct World {
    state: Mutex<State>,
    sooner: Notify,
}

/// What an event does after the world has been unlocked.
enum Deed {
    Nothing,
    Tell(Arc<Process>, Operation, Result<Outcome, StoreError>),
    Call(Arc<Process>, Arc<dyn Listener>, u64),
    Resume(Arc<Process>),
    Drop(Arc<Process>, Vec<Operation>),
}

impl World {
    pub(super) fn new(scenario: Scenario, with_history: bool) -> Arc<Self> {
        let keys: Vec<Arc<str>> = (0..scenario.keys)
            .map(|number| Arc::from(format!("k{number}")))
            .collect();
        let mut clients: Vec<Client> = Vec::new();
        for number in 0..scenario.all_processes() {
            let fork = scenario.fork_of(number);
            let parent = fork.map(|fork| Arc::clone(&clients[fork.parent].process));
            clients.push(Client {
                process: Process::new(number, parent),
                listener: None,
                waiting: BTreeMap::new(),
                gathered: BTreeMap::new(),
                watched: Vec::new(),
                paused_until: 0,
                full_until: BTreeMap::new(),
                statements: BTreeMap::new(),
                operations: BTreeMap::new(),
                asked_at: BTreeMap::new(),
                latest: [0, 0],
            });
        }
        let mut state = State {
            database: Database::new(scenario.flavour),
            judge: Judge::new(scenario.all_processes(), scenario.latency),
            keys,
            clients,
            coming: BinaryHeap::new(),
            numbers: 0,
            chance: Chance::for_each(scenario.seed, &[1]),
            away_until: 0,
            calm: false,
            may_have_strays: false,
            kept: Vec::new(),
            met: BTreeMap::new(),
            history: with_history.then(String::new),
            scenario,
        };
        for happening in state.scenario.happenings.clone() {
            state.schedule(happening.at, Coming::Happening(happening.event));
        }
        Arc::new(Self {
            state: Mutex::new(state),
            sooner: Notify::new(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn process(&self, number: usize) -> Arc<Process> {
        Arc::clone(&self.state().clients[number].process)
    }

    pub(super) fn listens(&self, process: usize, listener: Arc<dyn Listener>) {
        self.state().clients[process].listener = Some(listener);
    }

    pub(super) fn forgets_listeners(&self) {
        let listeners: Vec<_> = self
            .state()
            .clients
            .iter_mut()
            .map(|client| client.listener.take())
            .collect();
        drop(listeners);
    }

    /// Lets come what comes, until the run ends or something is violated.
    pub(super) async fn goes_on(self: Arc<Self>) {
        loop {
            let next = self.state().coming.peek().map(|Reverse(next)| next.at);
            match next {
                Some(at) if at <= context::milliseconds() => self.steps(),
                Some(at) => tokio::select! {
                    biased;
                    () = self.sooner.notified() => {}
                    () = sleep_until(context::at(at)) => {}
                },
                None => self.sooner.notified().await,
            }
        }
    }

    fn steps(&self) {
        let deed = {
            let mut state = self.state();
            let now = context::milliseconds();
            let Some(Reverse(next)) = state.coming.pop() else {
                return;
            };
            let deed = state.comes(next.coming, now);
            state.checks(now);
            deed
        };
        match deed {
            Deed::Nothing => {}
            Deed::Tell(process, operation, outcome) => {
                process.does(|| adapter::tell(operation, outcome));
            }
            Deed::Call(process, listener, hash) => process.does(|| listener.changed(hash)),
            Deed::Resume(process) => process.resume(),
            Deed::Drop(process, operations) => process.does(|| drop(operations)),
        }
    }

    /// Notes a step of a task, and looks at what must hold.
    pub(super) fn notes(&self, what: impl FnOnce() -> String) {
        self.state().writes(what);
    }
}

impl State {
    pub(super) fn writes(&mut self, what: impl FnOnce() -> String) {
        if let Some(history) = &mut self.history {
            let _ = writeln!(history, "{:>7} ms  {}", context::milliseconds(), what());
        }
    }

    pub(super) fn met(&mut self, kind: Kind) {
        *self.met.entry(kind).or_default() += 1;
    }

    /// Notes if an operation overtakes an earlier one on its way to the server (0) or back (1).
    fn overtakes(&mut self, process: usize, operation: usize, way: usize) {
        let latest = &mut self.clients[process].latest[way];
        let is_overtaken = operation < *latest;
        *latest = operation.max(*latest);
        if is_overtaken {
            self.met(Kind::Reordered);
        }
    }

    pub(super) fn checks(&mut self, now: u64) {
        if let Some(misdeed) = context::misdeed() {
            self.judge
                .violated("every task waits or ends", misdeed.to_owned());
        }
        let Self {
            judge,
            database,
            keys,
            ..
        } = self;
        if judge.violation.is_none() {
            judge.checks(database, keys, now);
        }
    }

    /// From now on nothing goes wrong.
    pub(super) fn calms_down(&mut self) {
        self.calm = true;
        self.away_until = 0;
    }

    fn schedule(&mut self, at: u64, coming: Coming) {
        self.numbers += 1;
        self.coming.push(Reverse(Scheduled {
            at,
            number: self.numbers,
            coming,
        }));
    }

    pub(super) fn looks_at(&mut self, at: u64) {
        self.schedule(at, Coming::Look);
    }

    fn comes(&mut self, coming: Coming, now: u64) -> Deed {
        match coming {
            Coming::Sending(process, verb, delayed) => self.sends(process, verb, delayed, now),
            Coming::Arrival(requests, way) => self.executes(requests, way, now),
            Coming::Answer(process, operation, outcome) => {
                return self.answers(process, operation, outcome, now);
            }
            Coming::News(process, hash) => return self.tells_news(process, hash, now),
            Coming::Happening(event) => return self.happens(event, now),
            Coming::Resumption(process) => {
                let client = &self.clients[process];
                if now >= client.paused_until && !client.process.is_killed() {
                    let of_process = &mut self.judge.processes[process];
                    (of_process.paused, of_process.resumed_at) = (false, now);
                    let resumed = Arc::clone(&client.process);
                    self.writes(|| format!("p{process} runs again"));
                    return Deed::Resume(resumed);
                }
            }
            Coming::Look => {}
            Coming::Released(process, key, heard_at) => {
                let client = &self.clients[process];
                let asked_at = client.asked_at.get(&key).copied();
                let is_asking = client.waiting.values().any(|waiting| {
                    matches!(waiting.verb, Verb::Acquire | Verb::HandOver)
                        && waiting.key.as_ref() == Some(&key)
                });
                if !is_asking && asked_at.is_none_or(|at| at < heard_at) {
                    self.judge.release_woke_nobody(process, &key, heard_at, now);
                }
            }
        }
        Deed::Nothing
    }

    fn spreads_news(&mut self, now: u64) {
        for key in std::mem::take(&mut self.database.news) {
            for process in 0..self.clients.len() {
                let client = &self.clients[process];
                if client.process.is_killed() || !client.watched.contains(&key) {
                    continue;
                }
                self.numbers += 1;
                let numbers = [process as u64, 7, self.numbers];
                let lost = self.fault(process, &numbers, &[Fault::LostNews], now).is_some();
                if lost || self.chance.percent(5) {
                    continue;
                }
                let takes = self.chance.between(0, self.scenario.latency + 2);
                self.schedule(now + takes, Coming::News(process, key_hash(&key)));
            }
        }
    }

    fn answers(
        &mut self,
        process: usize,
        operation: usize,
        outcome: Result<Outcome, StoreError>,
        now: u64,
    ) -> Deed {
        let client = &mut self.clients[process];
        if now < client.paused_until {
            let later = client.paused_until;
            self.schedule(later, Coming::Answer(process, operation, outcome));
            return Deed::Nothing;
        }
        let Some(waiting) = client.waiting.remove(&operation) else {
            return Deed::Nothing;
        };
        let (number, process) = (process, Arc::clone(&client.process));
        self.overtakes(number, operation, 1);
        if let (Verb::Release, Some(key), Ok(Outcome::Released(true))) =
            (waiting.verb, &waiting.key, &outcome)
        {
            self.schedule(
                now + NEXT_ASKS_WITHIN,
                Coming::Released(number, Arc::clone(key), now),
            );
        }
        self.writes(|| {
            format!(
                "  p{} hears of {}: {}",
                process.number,
                waiting.statement,
                brief(&outcome)
            )
        });
        Deed::Tell(process, waiting.operation, outcome)
    }

    fn tells_news(&mut self, process: usize, hash: u64, now: u64) -> Deed {
        let client = &self.clients[process];
        if now < client.paused_until {
            let later = client.paused_until;
            self.schedule(later, Coming::News(process, hash));
            return Deed::Nothing;
        }
        match &client.listener {
            Some(listener) if !client.process.is_killed() => {
                Deed::Call(Arc::clone(&client.process), Arc::clone(listener), hash)
            }
            _ => Deed::Nothing,
        }
    }
}

pub(super) struct Connection {
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
}

impl Store for Connection {
    fn submit(&self, operation: Operation) {
        if self.process.is_killed() {
            self.process.does(|| drop(operation));
            return;
        }
        let now = context::milliseconds();
        self.world.state().takes(self.process.number, operation, now);
        self.world.sooner.notify_one();
    }

    fn watch(&self, key: &Arc<str>, waiting: bool) {
        let mut state = self.world.state();
        let watched = &mut state.clients[self.process.number].watched;
        if waiting {
            watched.push(Arc::clone(key));
        } else if let Some(position) = watched.iter().position(|other| other == key) {
            watched.swap_remove(position);
        }
    }

    fn close(&self) {}
}
