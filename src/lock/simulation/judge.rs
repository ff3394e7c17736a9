//! What must hold at every step, whatever happens.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::adapter::{Belief, Ended, Verb};

/// A waiter ends at its deadline, or up to so many milliseconds later.
const LATEST_END: u64 = 1000;
/// How long a free key may stay free while an undisturbed process waits for it: a poll (0.3 s), the pause of a backoff (0.5 s), and
/// the ways of the statements.
const LONGEST_FREE: u64 = 1000;
/// A loss that is known is reported within so many milliseconds.
const REPORTED_WITHIN: u64 = 5;
/// Timers stand still while the machine sleeps, so that a loss is found at the next look at the leases.
const REPORTED_AFTER_SLEEP_WITHIN: u64 = 1000;
/// How often the loss check looks.
pub(super) const LOSS_CHECK: u64 = 1000;
/// So much later than the next look at its row is due, a loss is reported at the latest; to which the ways of the statement are
/// added.
const LOOK_TAKES: u64 = 100;
/// What was won for somebody who does not pick it up is given back so much later than the deadline.
const GIVEN_BACK_WITHIN: u64 = 1500;
/// Two that take several locks may wait for each other for so long: one of them is just being answered.
const LONGEST_ENTANGLED: u64 = 1500;

#[derive(Clone, Debug)]
pub(super) struct Violation {
    /// Which invariant.
    pub(super) name: &'static str,
    pub(super) what: String,
}

/// Who asks for a lock, or for several.
pub(super) struct Asker {
    pub(super) process: usize,
    pub(super) keys: Vec<Arc<str>>,
    pub(super) holder: Arc<str>,
}

/// A lock that was given to somebody.
pub(super) struct Given {
    pub(super) key: Arc<str>,
    pub(super) belief: Belief,
    pub(super) token: i64,
    /// How often the database is asked about its row, if it is.
    pub(super) looks_every: Option<u64>,
    /// It is renewed without end.
    pub(super) is_renewed: bool,
    pub(super) is_lease: bool,
}

/// Someone who waits for a lock.
struct Waiter {
    number: usize,
    process: usize,
    holder: Arc<str>,
    /// One, or several that are taken one after another.
    keys: Vec<Arc<str>>,
    joined: u64,
    deadline: u64,
    /// Until then nobody polls it.
    unpolled_until: u64,
}

/// Someone who has been given a lock.
pub(super) struct Believer {
    number: usize,
    process: usize,
    key: Arc<str>,
    belief: Belief,
    since: u64,
    /// How often the database is asked about its row, if it is.
    looks_every: Option<u64>,
    /// It is renewed without end.
    is_renewed: bool,
    is_lease: bool,
    /// The database broke its word to it, or an operator took its row.
    is_excused: bool,
    /// The holder itself had it for a shorter time.
    is_shortened: bool,
    row_gone_at: Option<u64>,
    /// In microseconds.
    trusted_until: u128,
    ended_at: Option<u64>,
    reported: bool,
}

#[derive(Clone, Default)]
pub(super) struct OfProcess {
    pub(super) killed: bool,
    pub(super) paused: bool,
    pub(super) resumed_at: u64,
    /// Until then some of its statements met a fault.
    pub(super) disturbed_until: u64,
    pub(super) statements: u64,
}

pub(super) struct Judge {
    pub(super) violation: Option<Violation>,
    waiters: Vec<Waiter>,
    pub(super) believers: Vec<Believer>,
    tokens: BTreeMap<Arc<str>, i64>,
    /// The rows that somebody was given.
    pub(super) given: BTreeSet<Arc<str>>,
    pub(super) processes: Vec<OfProcess>,
    /// When a statement about a key last met a fault.
    faults: BTreeMap<(usize, Arc<str>, Verb), u64>,
    /// When the database last refused one for good.
    refusals: BTreeMap<(usize, Arc<str>), u64>,
    /// Processes whose belief in a key the database has broken; until they win it anew.
    tainted: Vec<(usize, Arc<str>)>,
    slept_at: Option<u64>,
    /// Since when two that take several locks have waited for each other.
    entangled_since: Option<u64>,
    number: usize,
    latency: u64,
}

impl Waiter {
    /// Whether it waits for this key, and no other.
    fn waits_for(&self, key: &Arc<str>) -> bool {
        matches!(&*self.keys, [only] if only == key)
    }

    fn waits_for_one(&self, keys: &[Arc<str>]) -> bool {
        keys.iter().any(|key| self.waits_for(key))
    }
}

impl Judge {
    pub(super) fn new(processes: usize, latency: u64) -> Self {
        Self {
            violation: None,
            waiters: Vec::new(),
            believers: Vec::new(),
            tokens: BTreeMap::new(),
            given: BTreeSet::new(),
            processes: vec![OfProcess::default(); processes],
            faults: BTreeMap::new(),
            refusals: BTreeMap::new(),
            tainted: Vec::new(),
            slept_at: None,
            entangled_since: None,
            number: 0,
            latency,
        }
    }

    pub(super) fn violated(&mut self, name: &'static str, what: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { name, what });
        }
    }

    /// A statement meets a fault, whose consequences end then.
    pub(super) fn fault(&mut self, process: usize, key: Option<&Arc<str>>, verb: Verb, until: u64) {
        let of_process = &mut self.processes[process];
        of_process.disturbed_until = of_process.disturbed_until.max(until);
        if let Some(key) = key {
            let latest = self.faults.entry((process, Arc::clone(key), verb)).or_default();
            *latest = (*latest).max(until);
        }
    }

    pub(super) fn refused(&mut self, process: usize, key: &Arc<str>, now: u64) {
        self.refusals.insert((process, Arc::clone(key)), now);
    }

    pub(super) fn all_disturbed(&mut self, until: u64) {
        for process in &mut self.processes {
            process.disturbed_until = process.disturbed_until.max(until);
        }
    }

    fn has_met_a_fault(&self, process: usize, key: &Arc<str>, verbs: &[Verb], since: u64) -> bool {
        verbs.iter().any(|verb| {
            self.faults
                .get(&(process, Arc::clone(key), *verb))
                .is_some_and(|at| *at >= since)
        })
    }

    /// The machines slept: what is believed goes on, timers do not.
    pub(super) fn slept(&mut self, now: u64) {
        self.slept_at = Some(now);
    }

    /// The database breaks its word about a key, or an operator does.
    pub(super) fn broken(&mut self, key: &Arc<str>, of: Option<usize>, row_is_gone: bool, now: u64) {
        let mut tainted: Vec<usize> = of.into_iter().collect();
        for believer in &mut self.believers {
            if believer.key == *key {
                believer.is_excused = true;
                if row_is_gone {
                    believer.row_gone_at = Some(now);
                }
                tainted.push(believer.process);
            }
        }
        for process in tainted {
            self.tainted.push((process, Arc::clone(key)));
        }
    }

    /// A process won a key at the database.
    pub(super) fn won_anew(&mut self, process: usize, key: &Arc<str>) {
        self.tainted
            .retain(|(other, tainted)| *other != process || tainted != key);
    }

    fn is_tainted(&self, process: usize, key: &Arc<str>) -> bool {
        self.tainted
            .iter()
            .any(|(other, tainted)| *other == process && tainted == key)
    }

    pub(super) fn joins(&mut self, asker: Asker, now: u64, timeout: u64, unpolled: u64) -> usize {
        self.number += 1;
        self.waiters.push(Waiter {
            number: self.number,
            process: asker.process,
            holder: asker.holder,
            keys: asker.keys,
            joined: now,
            deadline: now + timeout,
            unpolled_until: now + unpolled,
        });
        self.number
    }

    /// A waiter left without being asked whether it had the lock.
    pub(super) fn left(&mut self, number: usize, now: u64) {
        if let Some(waiter) = self.takes_out(number) {
            self.held_up(&waiter, now);
        }
    }

    fn takes_out(&mut self, number: usize) -> Option<Waiter> {
        let position = self.waiters.iter().position(|waiter| waiter.number == number)?;
        Some(self.waiters.remove(position))
    }

    fn is_in_time(&mut self, waiter: &Waiter, now: u64, outcome: &str) {
        let resumed = self.processes[waiter.process].resumed_at;
        let latest = waiter.deadline.max(resumed).max(waiter.unpolled_until) + LATEST_END;
        if now > latest {
            let late = now - waiter.deadline;
            let what = format!("waiter {}: {outcome} {late} ms after its deadline", waiter.number);
            self.violated("no timeout late", what);
        }
    }

    /// A waiter that nobody polls holds up those behind it.
    fn held_up(&mut self, waiter: &Waiter, now: u64) {
        if waiter.unpolled_until > waiter.joined {
            let of_process = &mut self.processes[waiter.process];
            let held_up_until = now.min(waiter.deadline + LATEST_END + 1);
            of_process.disturbed_until = of_process.disturbed_until.max(held_up_until);
        }
    }

    pub(super) fn fails(&mut self, number: usize, how: &Ended, now: u64) {
        let Some(waiter) = self.takes_out(number) else {
            return;
        };
        self.is_in_time(&waiter, now, "failed");
        self.held_up(&waiter, now);
        let refused = waiter.keys.iter().any(|key| {
            let of_key = (waiter.process, Arc::clone(key));
            let at = self.refusals.get(&of_key);
            at.is_some_and(|at| *at >= waiter.joined.saturating_sub(1))
        });
        if now < waiter.deadline && !(matches!(how, Ended::Backend(_)) && refused) {
            let early = waiter.deadline - now;
            let what = format!("waiter {number}: {how:?} {early} ms before its deadline");
            self.violated("no timeout early", what);
        }
        let met = [Verb::Acquire, Verb::HandOver];
        let since = waiter.joined.saturating_sub(15_000);
        let has_met_a_fault = |key| self.has_met_a_fault(waiter.process, key, &met, since);
        if let Ended::Backend(error) = how
            && !waiter.keys.iter().any(has_met_a_fault)
        {
            let what = format!("waiter {number} failed without a fault of its own: {error}");
            self.violated("one operation's fault changes no other's outcome", what);
        }
    }

    /// A waiter has been given what it asked for: the numbers of its holdings.
    pub(super) fn granted(&mut self, number: usize, given: Vec<Given>, now: u64) -> Vec<usize> {
        let Some(waiter) = self.takes_out(number) else {
            return Vec::new();
        };
        self.is_in_time(&waiter, now, "won");
        self.held_up(&waiter, now);
        let passed_over = self.waiters.iter().find(|other| {
            other.number < number
                && other.process == waiter.process
                && other.deadline > now
                && other.unpolled_until <= now
                && other.waits_for_one(&waiter.keys)
        });
        if let Some(other) = passed_over
            && waiter.keys.len() == 1
        {
            let what = format!("waiter {} came before waiter {number}, which won", other.number);
            self.violated("first come, first served within a process", what);
        }
        let believes = given.into_iter().map(|given| self.believes(&waiter, given, now));
        believes.collect()
    }

    fn believes(&mut self, waiter: &Waiter, given: Given, now: u64) -> usize {
        let Given {
            key, belief, token, ..
        } = given;
        self.number += 1;
        let number = self.number;
        let is_excused = self.is_tainted(waiter.process, &key);
        self.given.insert(Arc::clone(belief.row()));
        let last = self.tokens.get(&key).copied().unwrap_or(i64::MIN);
        if belief.is_held() && !is_excused {
            if token <= last {
                let what = format!("{number} holds with token {token}, after one with {last}");
                self.violated("tokens grow in the order of holding", what);
            }
            self.tokens.insert(Arc::clone(&key), token.max(last));
        }
        self.believers.push(Believer {
            number,
            process: waiter.process,
            key,
            since: now,
            looks_every: given.looks_every,
            is_renewed: given.is_renewed,
            is_lease: given.is_lease,
            is_excused,
            // While nobody polled its acquisition, nobody renewed it.
            is_shortened: waiter.unpolled_until > waiter.joined,
            row_gone_at: None,
            trusted_until: 0,
            ended_at: None,
            reported: false,
            belief,
        });
        number
    }

    pub(super) fn believer(&mut self, number: usize) -> Option<&mut Believer> {
        self.believers
            .iter_mut()
            .find(|believer| believer.number == number)
    }

    /// The holder asks for another time itself.
    pub(super) fn renews(&mut self, number: usize, ttl: u64) {
        let Some(believer) = self.believer(number) else {
            return;
        };
        if u128::from(ttl) * 1000 < believer.belief.remaining().as_micros() {
            believer.is_shortened = true;
        }
        // The next renewal is due at the end of that time.
        if believer.looks_every.is_some_and(|time| time != LOSS_CHECK) {
            believer.looks_every = None;
        }
    }

    pub(super) fn reported(&mut self, number: usize) {
        if let Some(believer) = self.believer(number) {
            believer.reported = true;
        }
    }

    /// The holder gives it up; how long it might still believe in it, if it does.
    pub(super) fn releases(&mut self, number: usize) -> Option<Duration> {
        let believer = self.believer(number)?;
        believer.belief.is_held().then(|| believer.belief.remaining())
    }

    pub(super) fn released(
        &mut self,
        number: usize,
        believed: Option<Duration>,
        outcome: &Result<bool, Ended>,
        loss: Option<&str>,
    ) {
        let Some(position) = self.believers.iter().position(|one| one.number == number) else {
            return;
        };
        let believer = self.believers.swap_remove(position);
        let met = self.has_met_a_fault(
            believer.process,
            &believer.key,
            &[Verb::Release, Verb::HandOver],
            believer.since,
        );
        if let (Some(_), false, Some(loss)) = (believed, believer.is_excused, loss) {
            let what = format!("lease {number} was held and released, and reports a loss: {loss}");
            self.violated("no loss is reported that is none", what);
        }
        let is_gone = believer.row_gone_at.is_some();
        if is_gone && !met && matches!(outcome, Ok(true)) {
            let what = format!("lease {number}: its row was gone, and its release says that it was there");
            self.violated("a loss is reported by the release", what);
        }
        if believer.is_lease && is_gone && !met && matches!(outcome, Ok(false)) && loss.is_none() {
            let what = format!("lease {number}: its row was gone, and its release reports no loss");
            self.violated("a loss is reported by the release", what);
        }
        let took_little = Duration::from_millis(100 + 4 * self.latency);
        let stood_still =
            self.processes[believer.process].resumed_at >= believer.since.max(1) || self.slept_at.is_some();
        if believed.is_some_and(|left| left > took_little)
            && matches!(outcome, Ok(false))
            && !believer.is_excused
            && !met
            && !stood_still
        {
            let what = format!("{number} was held, and its release found nothing");
            self.violated("a release finds what is held", what);
        }
        if let Err(error) = outcome
            && !met
        {
            let what = format!("the release of {number} failed without a fault of its own: {error:?}");
            self.violated("one operation's fault changes no other's outcome", what);
        }
    }

    /// The holder has dropped it.
    pub(super) fn dropped(&mut self, number: usize) {
        self.believers.retain(|believer| believer.number != number);
    }

    pub(super) fn killed(&mut self, process: usize) {
        self.processes[process].killed = true;
        self.waiters.retain(|waiter| waiter.process != process);
        self.believers.retain(|believer| believer.process != process);
    }
}
