//! The world around the engines: the ways to the database, which lose, delay and repeat, and what happens to processes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::adapter::{self, KNOWN, Verb};
use super::chance::Chance;
use super::context::{self, Process};
use super::database::{Database, Outcome, Statement, brief};
use super::judge::Judge;
use super::plants::{Plant, is_planted};
use super::scenario::{Event, Fault, Flavour, Scenario};
use crate::lock::error::StoreError;
use crate::lock::operation::Operation;
use crate::lock::store::{Listener, Store, key_hash};

/// For how long a client waits for an answer at most.
const PATIENCE: u64 = 5000;
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
    /// Nothing but a look at what must hold.
    Look,
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

/// How an answer travels.
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
    /// Of how many statements of an acquisition nobody knows what came of them.
    doubts: BTreeMap<Arc<str>, u32>,
    pub(super) met: BTreeMap<Fault, u64>,
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
        let clients = (0..scenario.processes).map(|number| Client {
            process: Process::new(number),
            listener: None,
            waiting: BTreeMap::new(),
            gathered: BTreeMap::new(),
            watched: Vec::new(),
            paused_until: 0,
            full_until: BTreeMap::new(),
            statements: BTreeMap::new(),
            operations: BTreeMap::new(),
        });
        let mut state = State {
            database: Database::new(scenario.flavour),
            judge: Judge::new(scenario.processes, scenario.latency),
            keys,
            clients: clients.collect(),
            coming: BinaryHeap::new(),
            numbers: 0,
            chance: Chance::for_each(scenario.seed, &[1]),
            away_until: 0,
            calm: false,
            may_have_strays: false,
            kept: Vec::new(),
            doubts: BTreeMap::new(),
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

    pub(super) fn checks(&mut self, now: u64) {
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

    /// Whether a hand-over under way takes the row of an acquisition that was in doubt.
    fn hands_a_doubt_over(&self, process: usize, verb: Verb) -> bool {
        let client = &self.clients[process];
        let gathered = client.gathered.get(&verb).into_iter().flatten();
        let mut statements = gathered.filter_map(|number| Some(&client.waiting.get(number)?.statement));
        statements.any(|statement| match statement {
            Statement::HandOver { from, .. } => self.doubts.contains_key(from),
            _ => false,
        })
    }

    fn are_in_doubt<'a>(&mut self, statements: impl Iterator<Item = &'a Statement>) {
        for statement in statements {
            if let Statement::Acquire { id, .. } | Statement::HandOver { id, .. } = statement {
                *self.doubts.entry(Arc::clone(id)).or_default() += 1;
            }
        }
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
        }
        Deed::Nothing
    }

    /// Which fault a process's statement meets now.
    fn fault(&mut self, process: usize, numbers: &[u64], of: &[Fault], now: u64) -> Option<Fault> {
        if self.calm {
            return None;
        }
        let seed = self.scenario.seed;
        let met = self.scenario.windows.iter().find(|window| {
            let is_open = window.process == process && (window.from..window.until).contains(&now);
            is_open && of.contains(&window.fault) && {
                let mut all = vec![window.number];
                all.extend_from_slice(numbers);
                Chance::for_each(seed, &all).percent(window.percent)
            }
        })?;
        let fault = met.fault;
        *self.met.entry(fault).or_default() += 1;
        Some(fault)
    }

    fn takes(&mut self, process: usize, operation: Operation, now: u64) {
        let (verb, statement) = adapter::statement(&operation);
        let key = statement.key().cloned();
        self.writes(|| format!("p{process} asks: {statement}"));
        self.judge.processes[process].statements += 1;
        let count = self.clients[process]
            .operations
            .entry((verb, key.clone()))
            .or_default();
        *count += 1;
        let numbers = [
            process as u64,
            verb as u64,
            key.as_deref().map_or(0, key_hash),
            *count,
        ];
        let hands_a_doubt_over = matches!(
            &statement, Statement::HandOver { from, .. } if self.doubts.contains_key(from)
        );
        let is_spared = KNOWN.looks_delete_what_was_handed_on && hands_a_doubt_over;
        let may_be_refused = verb != Verb::Other && !is_spared;
        let is_poison = may_be_refused && self.fault(process, &numbers, &[Fault::Poison], now).is_some();
        if let Some(until) = self.clients[process].full_until.get(&verb).copied()
            && until >= now
        {
            self.judge.fault(process, key.as_ref(), verb, until);
        }
        self.numbers += 1;
        let number = usize::try_from(self.numbers).unwrap();
        let client = &mut self.clients[process];
        let gathered = client.gathered.entry(verb).or_default();
        let is_first = gathered.is_empty();
        gathered.push(number);
        client.waiting.insert(
            number,
            Waiting {
                operation,
                verb,
                key,
                statement,
                is_poison,
            },
        );
        if is_first {
            self.schedule(now, Coming::Sending(process, verb, 0));
        }
    }

    /// What was gathered goes to the server, or meets a fault.
    fn sends(&mut self, process: usize, verb: Verb, delayed: u64, now: u64) {
        let client = &mut self.clients[process];
        if client.process.is_killed() {
            return;
        }
        let count = client.statements.entry(verb).or_default();
        *count += 1;
        let numbers = [process as u64, 100 + verb as u64, *count];
        let way = [
            Fault::SlowAnswer,
            Fault::LostAnswer,
            Fault::LostRequest,
            Fault::Refused,
            Fault::Late,
            Fault::Twice,
        ];
        let mut chance = Chance::for_each(self.scenario.seed, &numbers);
        let is_spared = KNOWN.looks_delete_what_was_handed_on && self.hands_a_doubt_over(process, verb);
        if delayed == 0 && !is_spared && self.fault(process, &numbers, &[Fault::PoolFull], now).is_some() {
            let delay = chance.one_of(&[20, 200, 1500]);
            self.meets(process, verb, None, now + delay);
            self.clients[process].full_until.insert(verb, now + delay);
            self.writes(|| format!("p{process} has no free connection for {delay} ms"));
            self.schedule(now + delay, Coming::Sending(process, verb, delay));
            return;
        }
        let gathered = self.clients[process].gathered.remove(&verb).unwrap_or_default();
        if verb == Verb::Acquire {
            self.one_request_is_under_way(process);
        }
        let request = |number: &usize| {
            let waiting = self.clients[process].waiting.get(number)?;
            Some(Request {
                process,
                operation: *number,
                statement: waiting.statement.clone(),
                is_poison: waiting.is_poison,
            })
        };
        let requests: Vec<Request> = gathered.iter().filter_map(request).collect();
        let latency = self.scenario.latency;
        let (there, back) = (chance.between(0, latency), chance.between(0, latency));
        if now < self.away_until && !self.calm {
            self.meets(process, verb, Some(&gathered), now + latency);
            self.fails(
                process,
                &gathered,
                now + latency,
                StoreError::transient("refused"),
            );
            return;
        }
        let may_be_repeated = verb != Verb::Acquire || !KNOWN.second_tries_forget_a_doubt;
        let way = &way[..way.len() - usize::from(!may_be_repeated)];
        let way = if is_spared { &[] } else { way };
        let fault = self.fault(process, &numbers, way, now);
        let waiting = &self.clients[process].waiting;
        let patience = gathered
            .iter()
            .filter_map(|number| Some(adapter::patience(&waiting.get(number)?.operation)))
            .fold(chance.one_of(&[100, 600, 2000, PATIENCE]), u64::min)
            .max(20);
        let unknown = || StoreError::unknown_outcome("the connection was lost");
        if let Some(Fault::LostAnswer | Fault::LostRequest | Fault::Late) = fault {
            self.are_in_doubt(requests.iter().map(|request| &request.statement));
        }
        let arrival = |answer_takes| Coming::Arrival(requests.clone(), Way { answer_takes });
        match fault {
            None => {
                let arrival = arrival(Some(back));
                self.schedule(now + there, arrival);
            }
            Some(Fault::SlowAnswer) => {
                let slow = chance.one_of(&[50, 400, 2500]);
                let arrival = arrival(Some(slow));
                self.schedule(now + there, arrival);
                self.meets(process, verb, Some(&gathered), now + there + slow);
            }
            Some(Fault::LostAnswer) => {
                let arrival = arrival(None);
                self.schedule(now + there, arrival);
                self.meets(process, verb, Some(&gathered), now + patience);
                self.fails(process, &gathered, now + patience, unknown());
            }
            Some(Fault::LostRequest) => {
                self.meets(process, verb, Some(&gathered), now + patience);
                self.fails(process, &gathered, now + patience, unknown());
            }
            Some(Fault::Late) => {
                let late = chance.one_of(&[1, 50, 700, 2500, LATEST]);
                let arrival = arrival(None);
                self.schedule(now + patience + late, arrival);
                self.meets(process, verb, Some(&gathered), now + patience);
                self.fails(process, &gathered, now + patience, unknown());
            }
            Some(Fault::Twice) => {
                let (second, late) = (chance.one_of(&[100, 1000]), chance.one_of(&[1, 50, 700, 2500]));
                let (first, again) = (arrival(None), arrival(Some(back)));
                self.schedule(now + second + there, again);
                self.schedule(now + second + there + late, first);
                self.meets(process, verb, Some(&gathered), now + second + there + back);
            }
            Some(_) => {
                self.meets(process, verb, Some(&gathered), now + latency);
                self.fails(
                    process,
                    &gathered,
                    now + latency,
                    StoreError::transient("refused"),
                );
            }
        }
        if fault.is_some() {
            self.writes(|| {
                format!("p{process}'s statement ({verb:?}) meets {fault:?}, patience {patience} ms")
            });
        }
    }

    /// One request for each key at most, besides those that nobody waits for any more.
    fn one_request_is_under_way(&mut self, process: usize) {
        for key in &self.keys {
            let waiting = self.clients[process].waiting.values();
            let asked = waiting.filter(|other| {
                other.verb == Verb::Acquire
                    && other.key.as_ref() == Some(key)
                    && !adapter::is_abandoned(&other.operation)
            });
            if asked.count() > 1 {
                let what = format!("p{process} asks for {key} while it is asking");
                self.judge
                    .violated("at most one request per key and process is under way", what);
            }
        }
    }

    /// Tells the judge of a fault, which explains what comes of it.
    fn meets(&mut self, process: usize, verb: Verb, operations: Option<&[usize]>, until: u64) {
        let client = &self.clients[process];
        let numbers: Vec<usize> = match operations {
            Some(operations) => operations.to_vec(),
            None => client.gathered.get(&verb).cloned().unwrap_or_default(),
        };
        let keys: Vec<_> = numbers
            .iter()
            .filter_map(|number| client.waiting.get(number)?.key.clone())
            .collect();
        self.judge.fault(process, None, verb, until);
        for key in keys {
            self.judge.fault(process, Some(&key), verb, until);
        }
    }

    fn fails(&mut self, process: usize, operations: &[usize], at: u64, error: StoreError) {
        for operation in operations {
            self.schedule(at, Coming::Answer(process, *operation, Err(error.clone())));
        }
    }

    fn executes(&mut self, requests: Vec<Request>, way: Way, now: u64) {
        if now < self.away_until {
            // What arrives is lost. A client at a server has heard that; a local database refuses it now.
            if self.scenario.flavour == Flavour::Sqlite {
                for request in &requests {
                    let (process, operation) = (request.process, request.operation);
                    let verb = self.clients[process]
                        .waiting
                        .get(&operation)
                        .map(|waiting| waiting.verb);
                    self.meets(process, verb.unwrap_or(Verb::Other), Some(&[operation]), now + 1);
                    self.fails(process, &[operation], now, StoreError::transient("refused"));
                }
            }
            return;
        }
        let any_is_poison = requests.iter().any(|request| request.is_poison);
        for request in requests {
            let Request {
                process, operation, ..
            } = request;
            let is_refused = request.is_poison || any_is_poison && is_planted(Plant::SharedFailure);
            let outcome = if is_refused {
                if request.is_poison {
                    let verb = self.clients[process]
                        .waiting
                        .get(&operation)
                        .map(|waiting| waiting.verb);
                    let verb = verb.unwrap_or(Verb::Other);
                    self.judge.fault(process, request.statement.key(), verb, now + 1);
                    if let Some(key) = request.statement.key() {
                        self.judge.refused(process, key, now);
                    }
                }
                Err(StoreError::permanent("this row is refused"))
            } else {
                let outcome = self.database.execute(&request.statement, process, now);
                if let (Outcome::Won(_), Some(key)) = (&outcome, request.statement.key()) {
                    self.judge.won_anew(process, key);
                }
                Ok(outcome)
            };
            self.writes(|| {
                format!(
                    "  executed for p{process}: {} -> {}",
                    request.statement,
                    brief(&outcome)
                )
            });
            if let Some(takes) = way.answer_takes {
                self.schedule(now + takes, Coming::Answer(process, operation, outcome));
            }
        }
        self.spreads_news(now);
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
        let process = Arc::clone(&client.process);
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

    fn happens(&mut self, event: Event, now: u64) -> Deed {
        if self.calm {
            return Deed::Nothing;
        }
        self.writes(|| format!("{event:?}"));
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

    fn restarts(&mut self, away: u64, loses: u64, now: u64) {
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
                let statement = self.clients[process].waiting[&operation].statement.clone();
                self.are_in_doubt(std::iter::once(&statement));
                let unknown = StoreError::unknown_outcome("the server restarts");
                self.fails(process, &[operation], now, unknown);
            }
        }
    }
}

/// A process's connection to the world.
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
