//! The breaker against a model that is written another way: from the whole history, not step by step.

use std::sync::Arc;

use crate::llm::health::Admission;
use crate::llm::{CallOutcome, CircuitNews, CircuitState, EndpointHealth, SharedHealth, Timestamp};
use proptest::prelude::*;

const SECOND: Timestamp = 1_000_000;
const THRESHOLD: u64 = 3;
const RECOVERY: Timestamp = 60 * SECOND;

fn health() -> EndpointHealth {
    EndpointHealth::new("http://endpoint", THRESHOLD, 60.0)
}

fn opened(at: Timestamp) -> EndpointHealth {
    let mut health = health();
    for _ in 0..THRESHOLD {
        let admission = health.admit(at).unwrap();
        health.settle(admission, CallOutcome::Failure, at);
    }
    assert_eq!(health.state(), CircuitState::Open);
    health
}

#[test]
fn an_open_circuit_refuses_until_the_recovery_time_is_over() {
    let mut health = opened(0);
    assert!(health.would_refuse(RECOVERY - 1));
    assert!(health.admit(RECOVERY - 1).is_none());
    assert!(!health.would_refuse(RECOVERY));
    assert!(health.admit(RECOVERY).is_some());
    assert_eq!(health.state(), CircuitState::HalfOpen);
}

#[test]
fn a_half_open_circuit_lets_one_probe_through_at_a_time() {
    let mut health = opened(0);
    let probe = health.admit(RECOVERY).unwrap();
    assert!(health.admit(RECOVERY + 1).is_none());
    health.abandon(probe);
    assert!(health.admit(RECOVERY + 2).is_some());
}

#[test]
fn a_probe_that_tells_nothing_gives_up_its_place_after_the_recovery_time() {
    let mut health = opened(0);
    assert!(health.admit(RECOVERY).is_some());
    assert!(health.admit(2 * RECOVERY - 1).is_none());
    assert!(health.admit(2 * RECOVERY).is_some());
}

#[test]
fn a_failed_probe_opens_and_a_good_one_closes() {
    let mut health = opened(0);
    let probe = health.admit(RECOVERY).unwrap();
    health.settle(probe, CallOutcome::Failure, RECOVERY + SECOND);
    assert_eq!(health.state(), CircuitState::Open);
    assert!(health.admit(2 * RECOVERY).is_none());
    let probe = health.admit(2 * RECOVERY + SECOND).unwrap();
    health.settle(probe, CallOutcome::Success(5.0), 2 * RECOVERY + SECOND);
    assert_eq!(health.state(), CircuitState::Closed);
    assert_eq!((health.consecutive_failures, health.opened_at), (0, None));
}

#[test]
fn the_callers_mistakes_do_not_open_the_circuit() {
    let mut health = health();
    for _ in 0..10 {
        let admission = health.admit(0).unwrap();
        health.settle(admission, CallOutcome::Rejected, 0);
    }
    assert_eq!(
        (health.state(), health.total_failures, health.total_requests),
        (CircuitState::Closed, 0, 10)
    );
}

#[test]
fn a_circuit_opened_by_hand_recovers_from_when_it_is_first_asked() {
    let mut health = health();
    health.set_state(CircuitState::Open);
    assert!(health.admit(100 * SECOND).is_none());
    assert!(health.admit(100 * SECOND + RECOVERY).is_some());
}

#[test]
fn a_clock_that_is_set_back_does_not_keep_a_circuit_open_for_ever() {
    let mut health = opened(1_000_000 * SECOND);
    assert!(health.admit(0).is_none());
    assert!(health.admit(RECOVERY).is_some());
}

#[test]
fn a_dropped_permit_gives_the_probes_place_back() {
    let mut recovered = opened(0);
    recovered.recovery_timeout_seconds = 0.0;
    recovered.opened_at = Some(0);
    let shared = SharedHealth::new(recovered, Arc::default());
    let permit = shared.admit().unwrap();
    shared.lock().recovery_timeout_seconds = 60.0;
    assert!(shared.admit().is_err());
    drop(permit);
    assert!(shared.admit().is_ok());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Start,
    /// Ends one of the calls under way.
    End(usize, Ending),
    /// Time passes; or the clock is set back.
    Wait(Timestamp),
    ByHand(CircuitState),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Success,
    Failure,
    Rejected,
    Cancelled,
}

fn step() -> impl Strategy<Value = Step> {
    let ending = prop_oneof![
        2 => Just(Ending::Success),
        4 => Just(Ending::Failure),
        1 => Just(Ending::Rejected),
        1 => Just(Ending::Cancelled),
    ];
    prop_oneof![
        4 => Just(Step::Start),
        4 => (any::<usize>(), ending).prop_map(|(which, ending)| Step::End(which, ending)),
        2 => prop_oneof![3 => 0..10 * SECOND, 3 => 0..2 * RECOVERY, 1 => -10 * RECOVERY..0].prop_map(Step::Wait),
        1 => prop::sample::select(vec![CircuitState::Closed, CircuitState::Open, CircuitState::HalfOpen])
            .prop_map(Step::ByHand),
    ]
}

/// What has happened in one life of a state; a new one begins with every change.
#[derive(Debug)]
enum Phase {
    Closed,
    Open,
    HalfOpen { probe: Option<Timestamp> },
}

struct Model {
    phase: Phase,
    number: u64,
    failures_in_a_row: u64,
    opened_at: Option<Timestamp>,
}

/// Whether the recovery time has passed since then. A time to come was read from a clock that was set back since: it counts from now.
fn is_over(since: &mut Option<Timestamp>, now: Timestamp) -> bool {
    let since = since.get_or_insert(now);
    *since = now.min(*since);
    now - *since >= RECOVERY
}

impl Model {
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.number += 1;
    }

    fn by_hand(&mut self, state: CircuitState) {
        self.enter(match state {
            CircuitState::Closed => Phase::Closed,
            CircuitState::Open => Phase::Open,
            CircuitState::HalfOpen => Phase::HalfOpen { probe: None },
        });
    }

    /// The number of the call's phase, if it may be made.
    fn start(&mut self, now: Timestamp) -> Option<u64> {
        if matches!(self.phase, Phase::Open) {
            if !is_over(&mut self.opened_at, now) {
                return None;
            }
            self.enter(Phase::HalfOpen { probe: None });
            self.failures_in_a_row = 0;
        }
        if let Phase::HalfOpen { probe } = &mut self.phase {
            if probe.is_some() && !is_over(probe, now) {
                return None;
            }
            *probe = Some(now);
        }
        Some(self.number)
    }

    fn end(&mut self, number: u64, ending: Ending, now: Timestamp) {
        if number != self.number {
            return;
        }
        match ending {
            Ending::Cancelled => {
                if let Phase::HalfOpen { probe } = &mut self.phase {
                    *probe = None;
                }
            }
            Ending::Failure => {
                self.failures_in_a_row += 1;
                let half_open = matches!(self.phase, Phase::HalfOpen { .. });
                if half_open || self.failures_in_a_row >= THRESHOLD {
                    self.enter(Phase::Open);
                    self.opened_at = Some(now);
                }
            }
            Ending::Success | Ending::Rejected => {
                self.failures_in_a_row = 0;
                if matches!(self.phase, Phase::HalfOpen { .. }) {
                    self.opened_at = None;
                    self.enter(Phase::Closed);
                }
            }
        }
    }

    fn state(&self) -> CircuitState {
        match self.phase {
            Phase::Closed => CircuitState::Closed,
            Phase::Open => CircuitState::Open,
            Phase::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_breaker_does_what_the_model_does(steps in prop::collection::vec(step(), 0..120)) {
        let mut health = health();
        let mut model = Model { phase: Phase::Closed, number: 0, failures_in_a_row: 0, opened_at: None };
        let mut under_way: Vec<(Admission, u64)> = Vec::new();
        let (mut now, mut ended, mut failed) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::ByHand(state) => {
                    health.set_state(state);
                    model.by_hand(state);
                }
                Step::Start => {
                    let refused = health.would_refuse(now);
                    let (admission, expected) = (health.admit(now), model.start(now));
                    prop_assert_eq!(admission.is_some(), expected.is_some());
                    prop_assert_eq!(admission.is_none(), refused);
                    under_way.extend(admission.zip(expected));
                }
                Step::End(..) if under_way.is_empty() => {}
                Step::End(which, ending) => {
                    let (admission, call) = under_way.swap_remove(which % under_way.len());
                    model.end(call, ending, now);
                    let outcome = match ending {
                        Ending::Cancelled => {
                            health.abandon(admission);
                            continue;
                        }
                        Ending::Success => CallOutcome::Success(1.0),
                        Ending::Failure => CallOutcome::Failure,
                        Ending::Rejected => CallOutcome::Rejected,
                    };
                    health.settle(admission, outcome, now);
                    ended += 1;
                    failed += u64::from(ending == Ending::Failure);
                }
            }
            prop_assert_eq!(health.state(), model.state());
            prop_assert_eq!((health.total_requests, health.total_failures), (ended, failed));
        }
    }
}

#[test]
fn a_separate_copy_shares_nothing_and_has_no_probe_under_way() {
    let mut health = health();
    health.set_state(CircuitState::HalfOpen);
    let original = SharedHealth::new(health, Arc::default());
    let probe = original.admit();
    assert!(probe.is_ok());
    assert!(original.admit().is_err(), "one probe at a time");

    let copy = SharedHealth::new(original.separate_copy().unwrap(), Arc::default());
    assert!(copy.admit().is_ok(), "the probe under way is the original's");
    copy.lock().total_requests = 7;
    assert_eq!(original.lock().total_requests, 0);
}

#[test]
fn a_health_that_is_being_changed_is_not_copied() {
    let original = SharedHealth::new(health(), Arc::default());
    let _changing = original.lock();
    assert!(original.separate_copy().is_none());
}

#[test]
fn a_success_leaves_an_open_circuit_open() {
    let mut health = opened(0);
    health.record(CallOutcome::Success(5.0), SECOND);
    assert_eq!((health.state(), health.opened_at), (CircuitState::Open, Some(0)));
    assert_eq!(health.consecutive_failures, 0);
}

#[test]
fn the_latest_response_times_are_kept_until_they_are_taken() {
    let mut health = health();
    health.response_times_kept = 2;
    for milliseconds in [1.0, 0.0, 2.0, 3.0] {
        health.record(CallOutcome::Success(milliseconds), 0);
    }
    assert_eq!(health.take_response_times(), [2.0, 3.0]);
    assert!(health.take_response_times().is_empty());
}

#[test]
fn each_change_of_state_is_reported_once() {
    let news = Arc::<CircuitNews>::default();
    let shared = SharedHealth::new(EndpointHealth::new("http://endpoint", 1, 0.0), news.clone());
    shared
        .admit()
        .unwrap()
        .settle(CallOutcome::Failure, || "no route".to_owned());
    shared
        .admit()
        .unwrap()
        .settle(CallOutcome::Success(1.0), String::new);
    shared
        .admit()
        .unwrap()
        .settle(CallOutcome::Success(1.0), String::new);
    let changes: Vec<_> = news
        .take()
        .into_iter()
        .map(|change| (change.state, change.failures, change.error))
        .collect();
    let opened = (CircuitState::Open, 1, "no route".to_owned());
    let others = [CircuitState::HalfOpen, CircuitState::Closed].map(|state| (state, 0, String::new()));
    assert_eq!(changes[..1], [opened]);
    assert_eq!(changes[1..], others);
    assert!(news.take().is_empty());
}
