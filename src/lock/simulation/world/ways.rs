//! The ways of statements to the database, and of answers back: what is lost, late or repeated.

use std::sync::Arc;

use super::super::adapter::{self, Verb};
use super::super::chance::Chance;
use super::super::database::{Outcome, brief};
use super::super::plants::{Plant, is_planted};
use super::super::scenario::{Fault, Flavour, Kind};
use super::{Coming, LATEST, PATIENCE, Request, State, Waiting, Way};
use crate::lock::error::StoreError;
use crate::lock::operation::Operation;
use crate::lock::store::key_hash;

/// What may happen to a statement on its way. The last one sends it a second time.
const ON_THE_WAY: [Fault; 6] = [
    Fault::SlowAnswer,
    Fault::LostAnswer,
    Fault::LostRequest,
    Fault::Refused,
    Fault::Late,
    Fault::Twice,
];

/// A statement on its way, for several operations.
struct Sent {
    process: usize,
    verb: Verb,
    gathered: Vec<usize>,
    requests: Vec<Request>,
    at: u64,
    /// How long it travels, and its answer.
    there: u64,
    back: u64,
    /// How long its sender waits for the answer.
    patience: u64,
}

impl State {
    /// Which fault a process's statement meets now.
    pub(super) fn fault(&mut self, process: usize, numbers: &[u64], of: &[Fault], now: u64) -> Option<Fault> {
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
        self.met(Kind::Fault(fault));
        Some(fault)
    }

    pub(super) fn takes(&mut self, process: usize, operation: Operation, now: u64) {
        let (verb, statement) = adapter::statement(&operation);
        let key = statement.key().cloned();
        self.writes(|| format!("p{process} asks: {statement}"));
        self.judge.processes[process].statements += 1;
        let count = self.clients[process]
            .operations
            .entry((verb, key.clone()))
            .or_default();
        *count += 1;
        if let (Verb::Acquire | Verb::HandOver, Some(key)) = (verb, &key) {
            self.clients[process].asked_at.insert(Arc::clone(key), now);
        }
        let count = self.clients[process]
            .operations
            .get(&(verb, key.clone()))
            .copied()
            .unwrap_or(0);
        let numbers = [
            process as u64,
            verb as u64,
            key.as_deref().map_or(0, key_hash),
            count,
        ];
        let is_poison = verb != Verb::Other && self.fault(process, &numbers, &[Fault::Poison], now).is_some();
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
    pub(super) fn sends(&mut self, process: usize, verb: Verb, delayed: u64, now: u64) {
        let client = &mut self.clients[process];
        if client.process.is_killed() {
            return;
        }
        let count = client.statements.entry(verb).or_default();
        *count += 1;
        let numbers = [process as u64, 100 + verb as u64, *count];
        let mut chance = Chance::for_each(self.scenario.seed, &numbers);
        if delayed == 0 && self.fault(process, &numbers, &[Fault::PoolFull], now).is_some() {
            let delay = chance.one_of(&[20, 200, 1500]);
            self.meets(process, verb, None, now + delay);
            self.clients[process].full_until.insert(verb, now + delay);
            self.writes(|| format!("p{process} has no free connection for {delay} ms"));
            self.schedule(now + delay, Coming::Sending(process, verb, delay));
            return;
        }
        let gathered = self.clients[process].gathered.remove(&verb).unwrap_or_default();
        match verb {
            Verb::Acquire => self.one_request_is_under_way(process),
            Verb::Renew | Verb::Observe => self.few_are_under_way(process, verb),
            Verb::Release | Verb::HandOver | Verb::Other => {}
        }
        let latency = self.scenario.latency;
        let mut sent = Sent {
            process,
            verb,
            requests: self.requests(process, &gathered),
            gathered,
            at: now,
            there: chance.between(0, latency),
            back: chance.between(0, latency),
            patience: PATIENCE,
        };
        if now < self.away_until && !self.calm {
            self.is_refused(&sent);
            return;
        }
        // Before a store sends an acquisition or a renewal again, it ends the first try at the server,
        // or it answers that the outcome is unknown.
        let may_be_repeated = !matches!(verb, Verb::Acquire | Verb::Renew);
        let way = &ON_THE_WAY[..ON_THE_WAY.len() - usize::from(!may_be_repeated)];
        let fault = self.fault(process, &numbers, way, now);
        let waiting = &self.clients[process].waiting;
        sent.patience = sent
            .gathered
            .iter()
            .filter_map(|number| Some(adapter::patience(&waiting.get(number)?.operation)))
            .fold(chance.one_of(&[100, 600, 2000, PATIENCE]), u64::min)
            .max(20);
        self.travels(&sent, fault, &mut chance);
        if fault.is_some() {
            let patience = sent.patience;
            self.writes(|| {
                format!("p{process}'s statement ({verb:?}) meets {fault:?}, patience {patience} ms")
            });
        }
    }

    fn requests(&self, process: usize, gathered: &[usize]) -> Vec<Request> {
        let request = |number: &usize| {
            let waiting = self.clients[process].waiting.get(number)?;
            Some(Request {
                process,
                operation: *number,
                statement: waiting.statement.clone(),
                is_poison: waiting.is_poison,
            })
        };
        gathered.iter().filter_map(request).collect()
    }

    /// Settles when a statement arrives, and what its sender hears and when.
    fn travels(&mut self, sent: &Sent, fault: Option<Fault>, chance: &mut Chance) {
        let arrival = |answer_takes| Coming::Arrival(sent.requests.clone(), Way { answer_takes });
        let arrives = sent.at + sent.there;
        match fault {
            None => self.schedule(arrives, arrival(Some(sent.back))),
            Some(Fault::SlowAnswer) => {
                let slow = chance.one_of(&[50, 400, 2500]);
                self.schedule(arrives, arrival(Some(slow)));
                self.meets(sent.process, sent.verb, Some(&sent.gathered), arrives + slow);
            }
            Some(Fault::LostAnswer) => {
                self.schedule(arrives, arrival(None));
                self.has_no_answer(sent);
            }
            Some(Fault::LostRequest) => self.has_no_answer(sent),
            Some(Fault::Late) => {
                let late = chance.one_of(&[1, 50, 700, 2500, LATEST]);
                self.schedule(sent.at + sent.patience + late, arrival(None));
                self.has_no_answer(sent);
            }
            Some(Fault::Twice) => {
                let (second, late) = (chance.one_of(&[100, 1000]), chance.one_of(&[1, 50, 700, 2500]));
                let again = arrives + second;
                self.schedule(again, arrival(Some(sent.back)));
                self.schedule(again + late, arrival(None));
                self.meets(sent.process, sent.verb, Some(&sent.gathered), again + sent.back);
            }
            Some(_) => self.is_refused(sent),
        }
    }

    /// Its sender gives it up when its patience is over.
    fn has_no_answer(&mut self, sent: &Sent) {
        let (process, at) = (sent.process, sent.at + sent.patience);
        self.meets(process, sent.verb, Some(&sent.gathered), at);
        let error = StoreError::unknown_outcome("the connection was lost");
        self.fails(process, &sent.gathered, at, error);
    }

    fn is_refused(&mut self, sent: &Sent) {
        let (process, at) = (sent.process, sent.at + self.scenario.latency);
        self.meets(process, sent.verb, Some(&sent.gathered), at);
        self.fails(process, &sent.gathered, at, StoreError::transient("refused"));
    }

    /// One request for each key at most, besides those that nobody waits for any more.
    pub(super) fn one_request_is_under_way(&mut self, process: usize) {
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

    /// At most one renewal of each lease; two looks: the poller's, and that at the leases.
    pub(super) fn few_are_under_way(&mut self, process: usize, verb: Verb) {
        let waiting = self.clients[process].waiting.values();
        let of_verb = waiting.filter(|other| other.verb == verb && !adapter::is_abandoned(&other.operation));
        let mut ids: Vec<_> = of_verb.map(|other| other.statement.id()).collect();
        ids.sort_unstable();
        let most = if verb == Verb::Observe { 2 } else { 1 };
        if let Some(same) = ids
            .chunk_by(|one, other| one == other)
            .find(|same| same.len() > most)
        {
            let what = format!("p{process}: {} of {verb:?} {:?}", same.len(), same[0]);
            self.judge.violated("statements under way are bounded", what);
        }
    }

    /// Tells the judge of a fault, which explains what comes of it.
    pub(super) fn meets(&mut self, process: usize, verb: Verb, operations: Option<&[usize]>, until: u64) {
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

    pub(super) fn fails(&mut self, process: usize, operations: &[usize], at: u64, error: StoreError) {
        for operation in operations {
            self.schedule(at, Coming::Answer(process, *operation, Err(error.clone())));
        }
    }

    pub(super) fn executes(&mut self, requests: Vec<Request>, way: Way, now: u64) {
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
            self.overtakes(process, operation, 0);
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
}
