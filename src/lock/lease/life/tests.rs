use proptest::prelude::*;

use super::*;
use crate::lock::lease::time::expires_at;

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(3);

/// An acquisition whose time the test gives.
struct Told {
    life: Life,
    beginning: BootTime,
    now: BootTime,
}

fn expiry() -> Expiry {
    Expiry::at(expires_at(100.0, TTL))
}

fn renewed() -> Answer {
    Answer::Renewed(expiry())
}

fn failed(is_in_doubt: bool) -> Answer {
    Answer::Failed {
        cause: "away".into(),
        is_in_doubt,
    }
}

fn sends(effects: &[Effect]) -> Option<Duration> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send { ttl, .. } => Some(*ttl),
        _ => None,
    })
}

impl Told {
    fn grant() -> Self {
        let now = BootTime::now();
        Self {
            life: Life::new(TTL, trusted_until(now, TTL), expiry()),
            beginning: now,
            now,
        }
    }

    fn lease(auto_renew: bool, max_hold: Option<Duration>, margin: Duration) -> Self {
        let mut told = Self::grant();
        let end = max_hold.map(|most| told.now + most);
        told.on(Event::Keep {
            auto_renew,
            end,
            margin,
        });
        told
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.life.on(self.now, event)
    }

    fn renew(&mut self, number: u64, ttl: Duration) {
        self.on(Event::Renew { number, ttl });
    }

    fn passes(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Has the time come for which it waits.
    fn time(&mut self) -> Vec<Effect> {
        if let Some(time) = self.life.wake_at(self.now) {
            self.passes(self.now.until(time));
        }
        self.on(Event::Time)
    }

    fn elapsed(&self) -> Duration {
        self.beginning.until(self.now)
    }

    fn trusted_for(&self) -> Duration {
        self.life.trusted_for(self.now)
    }
}

#[test]
fn it_is_renewed_when_a_third_of_its_time_has_passed() {
    let mut lease = Told::lease(true, None, Duration::ZERO);
    for round in 1..=5 {
        assert_eq!(sends(&lease.time()), Some(TTL));
        assert_eq!(lease.elapsed(), SECOND * round);
        let effects = lease.on(Event::Answered(renewed()));
        assert!(effects.contains(&Effect::Extended));
        assert_eq!(lease.trusted_for(), TTL);
    }
}

#[test]
fn a_late_grant_is_renewed_at_a_third_of_what_is_left() {
    let mut lease = Told::grant();
    lease.passes(SECOND * 2);
    lease.on(Event::Keep {
        auto_renew: true,
        end: None,
        margin: Duration::ZERO,
    });
    assert_eq!(sends(&lease.time()), Some(TTL));
    let expected = SECOND * 2 + SECOND / 3;
    assert!(lease.elapsed().abs_diff(expected) < Duration::from_millis(1));
}

#[test]
fn a_longer_renewal_is_not_taken_back() {
    let mut lease = Told::lease(true, None, Duration::ZERO);
    lease.renew(1, SECOND * 60);
    assert_eq!(sends(&lease.time()), Some(SECOND * 60));
    let effects = lease.on(Event::Answered(renewed()));
    assert!(effects.contains(&Effect::Tell(1, Told::renewed())));
    assert_eq!(sends(&lease.time()), Some(TTL));
    assert_eq!(
        lease.elapsed(),
        SECOND * 58,
        "when only two thirds of its own time are left"
    );
}

impl Told {
    fn renewed() -> super::Told {
        super::Told::Renewed(expiry())
    }
}

#[test]
fn the_end_of_belief_is_the_expiry_less_the_margin() {
    for margin in [Duration::ZERO, SECOND / 2] {
        let mut lease = Told::lease(false, None, margin);
        assert!(lease.life.is_held(lease.now));
        let effects = lease.time();
        assert_eq!(lease.elapsed(), TTL - margin);
        assert!(!lease.life.is_held(lease.now));
        assert!(effects.contains(&Effect::Lost));
        assert!(effects.contains(&Effect::Count(Counted::Loss)));
        assert_eq!(lease.life.loss().unwrap(), "its time ran out");
        assert_eq!(
            lease.life.valid_until(),
            lease.beginning + TTL,
            "the row keeps its expiry"
        );
        assert_eq!(lease.on(Event::Check), []);
    }
}

#[test]
fn a_short_renewal_leaves_something_to_believe_in_whatever_the_margin() {
    let mut lease = Told::lease(false, None, SECOND);
    lease.renew(1, SECOND);
    assert_eq!(sends(&lease.time()), Some(SECOND));
    lease.on(Event::Answered(renewed()));
    assert_eq!(lease.trusted_for(), SECOND / 2);
}

#[test]
fn failed_renewals_are_tried_until_the_time_is_up() {
    let mut lease = Told::lease(true, None, Duration::ZERO);
    let mut tries = 0;
    while lease.life.is_held(lease.now) {
        if sends(&lease.time()).is_some() {
            lease.on(Event::Answered(failed(false)));
            tries += 1;
        }
    }
    assert!(tries >= 10, "{tries}");
    assert_eq!(lease.elapsed(), TTL);
    let loss = lease.life.loss().unwrap();
    assert_eq!(loss, "its time ran out before it could be renewed: away");
}

#[test]
fn a_renewal_without_an_answer_is_waited_for_until_the_time_is_up() {
    let mut lease = Told::lease(true, None, Duration::ZERO);
    assert!(sends(&lease.time()).is_some());
    assert!(lease.time().contains(&Effect::Lost));
    assert_eq!(lease.elapsed(), TTL);
    let loss = lease.life.loss().unwrap().clone();
    assert!(loss.ends_with("the database did not answer"), "{loss}");
    // The answer comes too late.
    assert_eq!(lease.on(Event::Answered(renewed())), []);
    assert!(!lease.life.is_held(lease.now));
}

#[test]
fn a_renewal_that_may_yet_be_carried_out_is_never_forgotten() {
    let mut lease = Told::lease(false, None, Duration::ZERO);
    for (number, ttl, answer, trusted) in [
        (1, SECOND * 2, failed(true), SECOND * 2),
        (2, SECOND * 60, renewed(), SECOND * 2),
        (3, SECOND * 60, renewed(), SECOND * 2),
    ] {
        lease.renew(number, ttl);
        assert!(sends(&lease.time()).is_some());
        let is_failed = answer != renewed();
        lease.on(Event::Answered(answer));
        assert!(lease.trusted_for() <= trusted);
        if is_failed {
            assert_eq!(sends(&lease.time()), Some(ttl));
            lease.on(Event::Answered(renewed()));
        }
        assert_eq!(lease.trusted_for(), trusted);
    }
}

#[test]
fn a_doubt_does_not_lose_a_lease_that_is_renewed() {
    let mut lease = Told::lease(true, None, Duration::ZERO);
    lease.renew(1, SECOND / 2);
    assert!(sends(&lease.time()).is_some());
    lease.on(Event::Answered(failed(true)));
    for _ in 0..20 {
        assert!(sends(&lease.time()).is_some());
        lease.on(Event::Answered(renewed()));
        assert!(lease.life.is_held(lease.now));
        assert_eq!(lease.trusted_for(), SECOND / 2);
    }
}

#[test]
fn whoever_waits_for_the_end_learns_that_it_comes_sooner() {
    let mut lease = Told::lease(false, None, Duration::ZERO);
    lease.renew(1, SECOND);
    assert!(lease.time().contains(&Effect::Changed));
}

#[test]
fn a_renewal_of_what_has_gone_revives_nothing() {
    let mut lease = Told::lease(true, None, Duration::ZERO);
    lease.renew(1, TTL);
    assert!(sends(&lease.time()).is_some());
    let effects = lease.on(Event::Answered(Answer::Gone));
    assert!(effects.contains(&Effect::Lost));
    assert!(effects.contains(&Effect::Tell(1, super::Told::NotHeld)));
    assert!(!lease.life.is_held(lease.now));
    lease.renew(2, TTL);
    assert_eq!(lease.time(), [Effect::Tell(2, super::Told::NotHeld)]);
}

#[test]
fn max_hold_ends_it_and_no_renewal_reaches_further() {
    let mut lease = Told::lease(true, Some(SECOND * 5), Duration::ZERO);
    let mut sent = Vec::new();
    while lease.life.is_held(lease.now) {
        if let Some(ttl) = sends(&lease.time()) {
            sent.push((lease.elapsed() + ttl).as_secs());
            lease.on(Event::Answered(renewed()));
        }
    }
    assert_eq!(sent, [4, 5]);
    assert_eq!(lease.elapsed(), SECOND * 5);
    assert!(lease.life.loss().unwrap().contains("max_hold"));
}

#[test]
fn what_is_on_its_way_is_renewed_when_it_has_arrived() {
    let mut lease = Told::grant();
    let until = lease.now + SECOND;
    lease.life = Life::handed_off(TTL, until, expiry());
    lease.renew(1, TTL);
    assert_eq!(lease.on(Event::Time), []);
    let until = lease.now + TTL;
    lease.on(Event::Arrived(Arrival::Here {
        until,
        expiry: expiry(),
    }));
    assert_eq!(lease.trusted_for(), TTL);
    assert_eq!(sends(&lease.on(Event::Time)), Some(TTL));
}

#[test]
fn a_hand_off_that_was_refused_is_a_loss() {
    let mut lease = Told::grant();
    lease.life = Life::handed_off(TTL, lease.now + TTL, expiry());
    let effects = lease.on(Event::Arrived(Arrival::Refused));
    assert!(effects.contains(&Effect::Lost));
    // Whoever makes a lease of it counts that.
    let effects = lease.on(Event::Keep {
        auto_renew: true,
        end: None,
        margin: Duration::ZERO,
    });
    assert_eq!(effects, [Effect::Count(Counted::Loss)]);
}

#[test]
fn a_release_that_finds_no_row_is_a_loss_and_counts_once() {
    for was_gone in [false, true] {
        let mut lease = Told::lease(false, None, Duration::ZERO);
        assert_eq!(lease.on(Event::Release), [Effect::Changed]);
        assert!(!lease.life.is_held(lease.now));
        assert_eq!(lease.on(Event::Lost("by news")), [], "it is being released");
        let effects = lease.on(Event::Released { was_gone });
        let counted = effects.contains(&Effect::Count(Counted::Loss));
        assert_eq!((counted, lease.life.loss().is_some()), (was_gone, was_gone));
        assert_eq!(lease.on(Event::Released { was_gone }), []);
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Passes(u64),
    Time,
    Renew(u64),
    Renewed,
    Gone,
    Fails { is_in_doubt: bool, is_carried_out: bool },
    DoubtComes,
    Release,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..1_500_u64).prop_map(Happening::Passes),
        6 => Just(Happening::Time),
        2 => (1..9_000_u64).prop_map(Happening::Renew),
        5 => Just(Happening::Renewed),
        1 => Just(Happening::Gone),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(is_in_doubt, is_carried_out)| {
            Happening::Fails { is_in_doubt, is_carried_out }
        }),
        2 => Just(Happening::DoubtComes),
        1 => Just(Happening::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The row's true end is known here: whatever happens, its holder never believes beyond it.
    #[test]
    fn nobody_believes_in_a_row_that_has_expired(
        auto_renew in any::<bool>(),
        max_hold in proptest::option::of(1_000..20_000_u64),
        margin in 0..1_400_u64,
        happenings in proptest::collection::vec(happening(), 1..80),
    ) {
        let max_hold = max_hold.map(Duration::from_millis);
        let mut lease = Told::lease(auto_renew, max_hold, Duration::from_millis(margin));
        let mut row = Some(lease.beginning + TTL);
        let mut under_way = None;
        let mut in_doubt = Vec::new();
        let (mut losses, mut numbers) = (0, 0);
        for happening in happenings {
            let writes = |ttl, now| move |end: BootTime| if end <= now { end } else { now + ttl };
            let effects = match happening {
                Happening::Passes(time) => {
                    lease.passes(Duration::from_millis(time));
                    Vec::new()
                }
                Happening::Time => lease.time(),
                Happening::Renew(ttl) => {
                    numbers += 1;
                    lease.on(Event::Renew { number: numbers, ttl: Duration::from_millis(ttl) })
                }
                Happening::Renewed => match (under_way.take(), row) {
                    (Some(ttl), Some(end)) if lease.now < end => {
                        row = row.map(writes(ttl, lease.now));
                        lease.on(Event::Answered(renewed()))
                    }
                    (Some(_), _) => lease.on(Event::Answered(Answer::Gone)),
                    (None, _) => Vec::new(),
                },
                Happening::Gone if under_way.is_some() => {
                    (row, under_way) = (None, None);
                    lease.on(Event::Answered(Answer::Gone))
                }
                Happening::Fails { is_in_doubt, is_carried_out } => match under_way.take() {
                    Some(ttl) => {
                        if is_in_doubt && is_carried_out {
                            row = row.map(writes(ttl, lease.now));
                        } else if is_in_doubt {
                            in_doubt.push(ttl);
                        }
                        lease.on(Event::Answered(failed(is_in_doubt)))
                    }
                    None => Vec::new(),
                },
                Happening::DoubtComes => {
                    if let Some(ttl) = in_doubt.pop() {
                        row = row.map(writes(ttl, lease.now));
                    }
                    Vec::new()
                }
                Happening::Release => lease.on(Event::Release),
                Happening::Gone => Vec::new(),
            };
            for effect in effects {
                match effect {
                    Effect::Send { ttl, .. } => {
                        assert!(lease.life.is_held(lease.now) && under_way.is_none());
                        under_way = Some(ttl);
                    }
                    Effect::Count(Counted::Loss) => losses += 1,
                    _ => {}
                }
            }
            if lease.life.is_held(lease.now) {
                assert!(row.is_some_and(|end| lease.now < end), "believes beyond its end");
                assert!(lease.life.wake_at(lease.now).is_some(), "learns of its end");
            }
            if lease.life.status() != Status::Held {
                under_way = None;
            }
            assert_eq!(losses, u32::from(lease.life.status() == Status::Lost));
        }
    }
}
