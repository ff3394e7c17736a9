use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(10);

/// A key whose time the test gives, and what it has asked for.
struct Told {
    key: Key,
    beginning: Now,
    now: Now,
    effects: Vec<Effect>,
}

fn id(name: &str) -> AcquisitionId {
    name.into()
}

fn row(name: &str, expires_in: Duration) -> Option<Row> {
    Some(Row {
        id: id(name),
        expires_at: 0,
        expires_in,
    })
}

fn failed(error: StoreError) -> Answer {
    Answer::Failed { error, jitter: 1_000 }
}

impl Told {
    fn new() -> Self {
        let now = Now::read();
        Self {
            key: Key::default(),
            beginning: now,
            now,
            effects: Vec::new(),
        }
    }

    /// Tells it what happened; what it answers.
    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.effects = self.key.on(self.now, event);
        self.effects.clone()
    }

    fn join(&mut self, name: &str, timeout: Duration) -> Vec<Effect> {
        self.on(Event::Join(Waiter {
            id: id(name),
            ttl: TTL,
            deadline: self.now.timer + timeout,
            allows_optimistic_handoff: true,
            met_conflict: false,
        }))
    }

    fn answer(&mut self, name: &str, answer: Answer) -> Vec<Effect> {
        self.on(Event::Answered(id(name), answer))
    }

    /// Has a lock that was asked for be won, and its waiter leave.
    fn wins(&mut self, name: &str) {
        let until = Some(self.now.belief + TTL);
        self.answer(name, Answer::Won { until });
        self.on(Event::Leave(id(name)));
    }

    fn held(&mut self, name: &str, by: &str, expires_in: Duration) -> Vec<Effect> {
        self.answer(name, Answer::Held(row(by, expires_in)))
    }

    fn release(&mut self, name: &str) -> Vec<Effect> {
        self.on(Event::Release {
            id: id(name),
            may_be_handed_off: true,
            is_clock_known: true,
        })
    }

    fn passes(&mut self, time: Duration) {
        self.now.timer += time;
        self.now.belief = self.now.belief + time;
    }

    /// Has the time come for which a waiter waits.
    fn due(&mut self, name: &str, deadline: Duration) -> Vec<Effect> {
        let deadline = self.beginning.timer + deadline;
        let wake_at = self.key.wake_at(self.now, &id(name), deadline);
        self.passes(wake_at.saturating_duration_since(self.now.timer));
        self.on(Event::Due(id(name)))
    }

    fn elapsed(&self) -> Duration {
        self.now.timer - self.beginning.timer
    }
}

fn asks(name: &str) -> Effect {
    Effect::Ask(id(name))
}

fn counts(name: &str, counted: Counted) -> Effect {
    Effect::Count(id(name), counted)
}

fn tells(name: &str, outcome: Outcome) -> Effect {
    Effect::Tell(id(name), outcome)
}

#[test]
fn the_first_asks_and_the_others_wait() {
    let mut key = Told::new();
    assert_eq!(key.join("a", SECOND), [asks("a")]);
    assert_eq!(key.join("b", SECOND), [counts("b", Counted::Conflict)]);
    key.wins("a");
    assert_eq!(key.due("b", SECOND), [tells("b", Outcome::TimedOut)]);
    assert_eq!(key.elapsed(), SECOND);
}

#[test]
fn a_request_follows_the_end_of_the_row_that_was_seen() {
    let mut key = Told::new();
    key.join("a", SECOND * 60);
    let effects = key.held("a", "theirs", SECOND * 5);
    assert_eq!(effects, [counts("a", Counted::Conflict), Effect::Watch(id("a"))]);
    assert_eq!(key.due("a", SECOND * 60), [asks("a")]);
    assert_eq!(key.elapsed(), SECOND * 5 + AFTER_EXPIRY);
}

#[test]
fn whatever_may_free_the_lock_sends_the_request_at_once_or_after_the_one_under_way() {
    let news = [
        Event::MayBeFree,
        Event::Observed(None),
        Event::Observed(row("another", SECOND * 60)),
        Event::Ended(id("long gone")),
    ];
    for event in news {
        let mut key = Told::new();
        key.join("a", SECOND * 60);
        key.held("a", "theirs", SECOND * 60);
        assert_eq!(key.on(event.clone()), [asks("a")], "{event:?}");
        assert_eq!(key.on(event.clone()), [], "{event:?}");
        let effects = key.held("a", "theirs", SECOND * 60);
        assert!(effects.contains(&asks("a")), "{event:?}");
    }
}

#[test]
fn a_look_that_shows_what_is_known_changes_nothing() {
    let mut key = Told::new();
    key.join("a", SECOND * 60);
    key.held("a", "theirs", SECOND * 60);
    assert!(key.key.is_awaited());
    assert_eq!(key.on(Event::Observed(row("theirs", SECOND * 60))), []);
}

#[test]
fn the_time_of_an_expiry_decides_what_is_new() {
    // Milliseconds by which the row expires earlier than was seen, and whether that is news.
    for (sooner, is_news) in [(0, false), (5, false), (6, true), (-1_000, false)] {
        let mut key = Told::new();
        key.join("a", SECOND * 60);
        let seen = Row {
            expires_at: 10_000,
            ..row("theirs", SECOND * 60).unwrap()
        };
        key.answer("a", Answer::Held(Some(seen.clone())));
        let effects = key.on(Event::Observed(Some(Row {
            expires_at: 10_000 - sooner,
            ..seen
        })));
        assert_eq!(!effects.is_empty(), is_news, "{sooner}");
    }
}

#[test]
fn who_joins_during_a_release_asks_when_it_is_over() {
    let mut key = Told::new();
    key.join("a", SECOND);
    key.wins("a");
    assert_eq!(key.release("a"), [Effect::Delete]);
    assert_eq!(key.join("b", SECOND), [counts("b", Counted::Conflict)]);
    assert_eq!(key.on(Event::Ended(id("a"))), [asks("b")]);
}

#[test]
fn a_lock_goes_to_the_first_waiter_and_how_depends_on_what_is_known() {
    // Whether the waiter allows it, the clock is known, and how much of the time has passed.
    let cases = [
        (true, true, SECOND, true),
        (false, true, SECOND, false),
        (true, false, SECOND, false),
        (true, true, SECOND * 6, false),
    ];
    for (allows, is_clock_known, passed, expected) in cases {
        let mut key = Told::new();
        key.join("a", SECOND);
        key.wins("a");
        key.on(Event::Join(Waiter {
            id: id("b"),
            ttl: TTL,
            deadline: key.now.timer + SECOND * 60,
            allows_optimistic_handoff: allows,
            met_conflict: false,
        }));
        key.held("b", "a", TTL);
        key.passes(passed);
        let effects = key.on(Event::Release {
            id: id("a"),
            may_be_handed_off: true,
            is_clock_known,
        });
        let hand_off = Effect::HandOff {
            to: id("b"),
            is_optimistic: expected,
        };
        assert_eq!(effects, [hand_off]);
    }
}

#[test]
fn what_is_handed_off_in_memory_is_believed_in_no_longer_than_before() {
    let mut key = Told::new();
    key.join("a", SECOND);
    key.wins("a");
    key.join("b", SECOND * 60);
    key.held("b", "a", TTL);
    key.passes(SECOND * 4);
    key.release("a");
    assert_eq!(key.key.ours.as_ref().unwrap().until, key.beginning.belief + TTL);
    // A second release of the same lock finds that it has gone, and leaves the new one alone.
    assert_eq!(key.release("a"), [Effect::Delete]);
    assert!(key.key.is_held(key.now));
}

#[test]
fn after_sixteen_hand_offs_others_get_their_chance() {
    let mut key = Told::new();
    key.join("0", SECOND);
    key.wins("0");
    for round in 1..=40 {
        let (holder, next) = ((round - 1).to_string(), round.to_string());
        key.join(&next, SECOND * 60);
        if key.key.asking.is_some() {
            key.held(&next, &holder, TTL);
        }
        let is_handed_off = matches!(key.release(&holder)[..], [Effect::HandOff { .. }]);
        assert_eq!(is_handed_off, round % 17 != 0, "{round}");
        if is_handed_off {
            key.answer(&next, Answer::Won { until: None });
            key.on(Event::Leave(id(&next)));
        } else {
            assert_eq!(key.on(Event::Ended(id(&holder))), [asks(&next)]);
            key.wins(&next);
        }
    }
}

#[test]
fn nobody_whose_time_is_over_gets_the_lock() {
    let mut key = Told::new();
    key.join("a", SECOND);
    key.wins("a");
    key.join("late", SECOND);
    key.held("late", "a", TTL);
    key.join("b", SECOND * 60);
    key.passes(SECOND);
    let effects = key.release("a");
    assert_eq!(effects[0], Effect::Remove(id("late"), Outcome::TimedOut));
    assert!(matches!(effects.last(), Some(Effect::HandOff { to, .. }) if *to == id("b")));
}

#[test]
fn a_failing_database_is_asked_ever_more_seldom_until_the_time_is_up() {
    let mut key = Told::new();
    key.join("a", SECOND * 3);
    let mut pauses = Vec::new();
    let error = StoreError::transient("away");
    loop {
        let before = key.elapsed();
        let effects = key.answer("a", failed(error.clone()));
        if effects.contains(&tells("a", Outcome::Failed(error.clone()))) {
            break;
        }
        assert_eq!(key.due("a", SECOND * 3), [asks("a")]);
        pauses.push((key.elapsed() - before).as_millis());
    }
    assert_eq!(key.elapsed(), SECOND * 3);
    assert_eq!(pauses, [20, 40, 80, 160, 320, 500, 500, 500, 500, 380]);
}

#[test]
fn those_behind_the_first_learn_what_the_database_said() {
    let mut key = Told::new();
    key.join("a", SECOND * 60);
    key.join("b", SECOND);
    let error = StoreError::transient("away");
    key.answer("a", failed(error.clone()));
    let effects = key.due("b", SECOND);
    assert!(effects.contains(&tells("b", Outcome::Failed(error))));
}

#[test]
fn an_unanswered_request_is_waited_for_no_longer_than_the_grace() {
    let mut key = Told::new();
    key.join("a", SECOND);
    key.held("a", "theirs", SECOND * 60);
    assert_eq!(key.due("a", SECOND), [asks("a")], "a last time");
    assert_eq!(
        key.due("a", SECOND),
        [
            counts("a", Counted::BackendError),
            tells("a", Outcome::NoAnswer(None))
        ]
    );
    assert_eq!(key.elapsed(), SECOND + GRACE);
}

#[test]
fn a_lock_that_is_not_released_is_asked_for_at_its_end() {
    let mut key = Told::new();
    key.join("a", SECOND);
    key.wins("a");
    key.join("b", SECOND * 60);
    key.held("b", "a", TTL);
    key.passes(SECOND);
    let until = key.now.belief + TTL;
    key.on(Event::Extended { id: id("a"), until });
    assert_eq!(key.due("b", SECOND * 60), [asks("b")]);
    assert_eq!(key.elapsed(), SECOND + TTL + AFTER_EXPIRY);
}

#[test]
fn what_a_failed_hand_off_leaves_is_asked_for() {
    let mut key = Told::new();
    key.join("a", SECOND);
    key.wins("a");
    key.join("b", SECOND * 60);
    key.held("b", "a", TTL);
    key.on(Event::Release {
        id: id("a"),
        may_be_handed_off: true,
        is_clock_known: false,
    });
    assert_eq!(key.on(Event::Ended(id("a"))), []);
    let effects = key.answer("b", Answer::Held(None));
    assert!(effects.contains(&asks("b")));
}

/// What may happen to a key.
#[derive(Debug, Clone)]
enum Happening {
    Join { timeout: u64, allows: bool },
    Leaves(usize),
    Won,
    Held { expires_in: u64, is_ours: bool },
    HeldByNobody,
    Fails { is_transient: bool },
    MayBeFree,
    Looked { is_there: bool },
    Released { is_clock_known: bool },
    Deleted,
    Extended { by: u64 },
    Passes(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..3_000_u64, any::<bool>()).prop_map(|(timeout, allows)| Happening::Join { timeout, allows }),
        1 => (0..4_usize).prop_map(Happening::Leaves),
        3 => Just(Happening::Won),
        3 => (0..4_000_u64, any::<bool>()).prop_map(|(expires_in, is_ours)| Happening::Held { expires_in, is_ours }),
        1 => Just(Happening::HeldByNobody),
        1 => any::<bool>().prop_map(|is_transient| Happening::Fails { is_transient }),
        1 => Just(Happening::MayBeFree),
        1 => any::<bool>().prop_map(|is_there| Happening::Looked { is_there }),
        3 => any::<bool>().prop_map(|is_clock_known| Happening::Released { is_clock_known }),
        3 => Just(Happening::Deleted),
        1 => (1..3_000_u64).prop_map(|by| Happening::Extended { by }),
        4 => (1..2_000_u64).prop_map(Happening::Passes),
    ]
}

/// Plays the driver, with a database that says what the test wants, and checks every step.
struct World {
    key: Key,
    now: Now,
    joined: u32,
    waiters: Vec<Waiter>,
    /// The request under way.
    asked: Option<AcquisitionId>,
    /// Whom the lock is handed off to in memory, until its future reads that.
    received: Option<AcquisitionId>,
    held: Option<AcquisitionId>,
    deleting: Vec<AcquisitionId>,
    outcomes: HashMap<AcquisitionId, Outcome>,
}

impl World {
    fn new() -> Self {
        Self {
            key: Key::default(),
            now: Now::read(),
            joined: 0,
            waiters: Vec::new(),
            asked: None,
            received: None,
            held: None,
            deleting: Vec::new(),
            outcomes: HashMap::new(),
        }
    }

    fn deadline(&self, of: &AcquisitionId) -> Instant {
        self.waiters
            .iter()
            .find(|waiter| waiter.id == *of)
            .unwrap()
            .deadline
    }

    fn on(&mut self, event: Event) {
        let is_permanent =
            matches!(&event, Event::Answered(_, Answer::Failed { error, .. }) if !error.transient);
        let mut told = Vec::new();
        for effect in self.key.on(self.now, event) {
            match effect {
                Effect::Ask(id) => {
                    assert_eq!(self.asked, None, "one request at a time");
                    assert_eq!(self.received, None);
                    assert_eq!(self.waiters[0].id, id, "the first asks");
                    self.asked = Some(id);
                }
                Effect::Tell(id, outcome) => {
                    let deadline = self.deadline(&id);
                    assert!(
                        is_permanent || deadline <= self.now.timer,
                        "{outcome:?} before its time"
                    );
                    assert!(self.now.timer <= deadline + SECOND, "{outcome:?} too late");
                    told.push((id, outcome));
                }
                Effect::Remove(id, outcome) => {
                    assert!(self.deadline(&id) <= self.now.timer);
                    self.gone(&id);
                    self.outcomes.insert(id, outcome);
                }
                Effect::HandOff { to, is_optimistic } => {
                    assert_eq!(self.asked, None);
                    assert_eq!(self.waiters[0].id, to, "the first gets it");
                    assert!(self.deadline(&to) > self.now.timer);
                    assert_eq!(self.held, None, "two believe");
                    if is_optimistic {
                        self.received = Some(to.clone());
                        self.held = Some(to);
                    } else {
                        self.asked = Some(to);
                    }
                }
                Effect::Delete | Effect::Rearm(_) | Effect::Watch(_) | Effect::Count(..) => {}
            }
        }
        for (id, outcome) in told {
            self.leaves(&id);
            self.outcomes.insert(id, outcome);
        }
        self.is_sound();
    }

    fn gone(&mut self, id: &AcquisitionId) {
        self.waiters.retain(|waiter| waiter.id != *id);
        self.asked.take_if(|asked| asked == id);
        self.received.take_if(|received| received == id);
    }

    fn leaves(&mut self, id: &AcquisitionId) {
        self.gone(id);
        self.on(Event::Leave(id.clone()));
    }

    /// Holds after every step.
    fn is_sound(&self) {
        let ids: Vec<_> = self.waiters.iter().map(|waiter| &waiter.id).collect();
        assert_eq!(
            self.key.waiters().collect::<Vec<_>>(),
            ids,
            "first come, first served"
        );
        let Some(first) = self.waiters.first() else { return };
        let is_under_way = self.asked.is_some() || self.received.is_some();
        let wake_at = self.key.wake_at(self.now, &first.id, first.deadline);
        assert!(wake_at <= first.deadline.max(self.now.timer) + SECOND);
        if !is_under_way && self.key.ours.is_none() && self.key.seen.is_none() {
            assert!(matches!(self.key.next, Next::At(_)), "a free lock is asked for");
        }
        if !is_under_way {
            assert!(wake_at > self.now.timer, "what is due is done");
        }
    }

    /// Passes time, and has every future run whose time has come.
    fn passes(&mut self, time: u64) {
        let end = self.now.timer + Duration::from_millis(time);
        loop {
            let due = |waiter: &Waiter| {
                let wake_at = self.key.wake_at(self.now, &waiter.id, waiter.deadline);
                (wake_at, waiter.id.clone())
            };
            let Some((wake_at, id)) = self
                .waiters
                .iter()
                .map(due)
                .min()
                .filter(|(time, _)| *time <= end)
            else {
                break;
            };
            self.advance_to(wake_at);
            self.on(Event::Due(id));
        }
        self.advance_to(end);
    }

    fn advance_to(&mut self, time: Instant) {
        let passed = time.saturating_duration_since(self.now.timer);
        self.now.timer += passed;
        self.now.belief = self.now.belief + passed;
        let is_over = self
            .key
            .ours
            .as_ref()
            .is_none_or(|ours| ours.until <= self.now.belief);
        if is_over {
            self.held = None; // its holder stops believing
        }
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(id) = self.asked.take() {
            self.on(Event::Answered(id, answer));
        }
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Join { timeout, allows } => {
                self.joined += 1;
                let waiter = Waiter {
                    id: id(&self.joined.to_string()),
                    ttl: SECOND,
                    deadline: self.now.timer + Duration::from_millis(timeout),
                    allows_optimistic_handoff: allows,
                    met_conflict: false,
                };
                self.waiters.push(waiter.clone());
                self.on(Event::Join(waiter));
            }
            Happening::Leaves(index) => {
                if let Some(waiter) = self.waiters.get(index) {
                    let id = waiter.id.clone();
                    if self.received.as_ref() == Some(&id) {
                        self.held = None;
                        self.on(Event::Leaving(id.clone()));
                        self.deleting.push(id.clone());
                    }
                    self.leaves(&id);
                }
            }
            Happening::Won => {
                if let Some(id) = self.received.take() {
                    self.on(Event::Answered(id.clone(), Answer::Won { until: None }));
                    self.leaves(&id);
                } else if let Some(id) = self.asked.clone() {
                    let until = Some(self.now.belief + SECOND);
                    // Whoever had it before has lost it, as the database says.
                    self.held = Some(id.clone());
                    self.answer(Answer::Won { until });
                    self.leaves(&id);
                }
            }
            Happening::Held { expires_in, is_ours } => {
                let name = match &self.key.ours {
                    Some(ours) if is_ours => ours.id.to_string(),
                    _ => "theirs".into(),
                };
                self.answer(Answer::Held(row(&name, Duration::from_millis(expires_in))));
            }
            Happening::HeldByNobody => self.answer(Answer::Held(None)),
            Happening::Fails { is_transient } => self.answer(failed(if is_transient {
                StoreError::transient("away")
            } else {
                StoreError::permanent("no such table")
            })),
            Happening::MayBeFree => self.on(Event::MayBeFree),
            Happening::Looked { is_there } => {
                let row = row("theirs", SECOND).filter(|_| is_there);
                self.on(Event::Observed(row));
            }
            Happening::Released { is_clock_known } => {
                if self.received.is_none()
                    && let Some(id) = self.held.take()
                {
                    self.deleting.push(id.clone());
                    let may_be_handed_off = true;
                    self.on(Event::Release {
                        id,
                        may_be_handed_off,
                        is_clock_known,
                    });
                }
            }
            Happening::Deleted => {
                if let Some(id) = self.deleting.pop() {
                    self.on(Event::Ended(id));
                }
            }
            Happening::Extended { by } => {
                if let Some(id) = self.held.clone() {
                    let until = self.now.belief + Duration::from_millis(by);
                    self.on(Event::Extended { id, until });
                }
            }
            Happening::Passes(time) => self.passes(time),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_gets_the_lock_in_turn_or_an_answer_in_time(
        happenings in proptest::collection::vec(happening(), 1..60)
    ) {
        let mut world = World::new();
        for happening in happenings {
            world.happens(happening);
        }
        // In the end nobody is left.
        world.passes(10_000);
        assert!(world.waiters.is_empty() || world.received.is_some());
    }
}
