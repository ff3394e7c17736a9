//! Fairness between processes: whose turn it is when a lock becomes free.
//!
//! A process that has just released a lock asks for it again at once, and another process first has
//! to hear that it is free. So a busy process would win again and again. A store therefore notes for
//! how long this process has passed over others, and lets them go first in the end: all of them, one
//! after another, as far as they want the lock.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::key_hash;
use crate::lock::operation::{Acquire, HandOver, Operation};

/// For how long others may be passed over. It is shorter than the time for which a lock goes from hand
/// to hand within this process before it is released, so that others go first after each such time.
const LONGEST: Duration = Duration::from_millis(300);
/// How long this process does not ask then: another one has heard of the release, and asked, by the
/// end of it.
const COURTESY: Duration = Duration::from_millis(150);
/// For how long this process lets others go first: several may wait, and each has to have the lock.
const THEIR_TURN: Duration = Duration::from_secs(1);
/// How much later than the others this process asks in that time, each time that it hears that the
/// lock is free.
const STEP_BACK: Duration = Duration::from_millis(40);
/// Fewer keys are not worth sweeping.
const LEAST_SWEPT: usize = 1000;

/// The keys for which other processes wait while this one takes them.
#[derive(Default)]
pub(super) struct Turns {
    /// By the keys' hashes.
    turns: HashMap<u64, Turn>,
    /// From how many keys on old ones are forgotten.
    sweep_at: usize,
}

#[derive(Clone, Copy)]
enum Turn {
    /// This process has taken the lock again and again since then.
    OursSince(Instant),
    /// This process released it then, and others go first.
    TheirsSince(Instant),
}

impl Turns {
    /// When an operation may be sent, if not now.
    pub(super) fn may_send_at(&mut self, operation: &Operation) -> Option<Instant> {
        match operation {
            Operation::Acquire(Acquire { claim, .. }) => self.may_ask_at(key_hash(&claim.key)),
            Operation::HandOver(HandOver { key, .. }) => {
                self.handed_over(key_hash(key));
                None
            }
            _ => None,
        }
    }

    /// A lock goes from one holder in this process to the next.
    fn handed_over(&mut self, key: u64) {
        let now = Instant::now();
        self.sweep(now);
        let turn = self.turns.entry(key).or_insert(Turn::OursSince(now));
        if let Turn::TheirsSince(_) = turn {
            *turn = Turn::OursSince(now);
        }
    }

    /// This process has released a lock; `awaited` says whether others wait for it.
    pub(super) fn released(&mut self, key: u64, awaited: bool) {
        if !awaited {
            self.turns.remove(&key);
            return;
        }
        let now = Instant::now();
        self.sweep(now);
        let turn = self.turns.entry(key).or_insert(Turn::OursSince(now));
        match turn {
            Turn::OursSince(since) if now >= *since + LONGEST => *turn = Turn::TheirsSince(now),
            Turn::OursSince(_) => {}
            Turn::TheirsSince(_) => *turn = Turn::OursSince(now),
        }
    }

    /// Somebody else has the lock.
    pub(super) fn taken_by_others(&mut self, key: u64) {
        if let Some(Turn::OursSince(_)) = self.turns.get(&key) {
            self.turns.remove(&key);
        }
    }

    /// When this process may ask for the lock, if not now.
    fn may_ask_at(&self, key: u64) -> Option<Instant> {
        let Turn::TheirsSince(since) = *self.turns.get(&key)? else {
            return None;
        };
        let now = Instant::now();
        (now < since + THEIR_TURN).then(|| (now + STEP_BACK).max(since + COURTESY))
    }

    /// Forgets old turns.
    fn sweep(&mut self, now: Instant) {
        if self.turns.len() >= self.sweep_at {
            self.turns.retain(|_, turn| turn.at() + 2 * THEIR_TURN > now);
            // All of them may be recent: a sweep costs little only if many releases share it.
            self.sweep_at = (self.turns.len() * 2).max(LEAST_SWEPT);
        }
    }
}

impl Turn {
    fn at(&self) -> Instant {
        match self {
            Self::OursSince(at) | Self::TheirsSince(at) => *at,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// Turns in which this process has passed over others for as long as it may.
    async fn others_go_first() -> Turns {
        let mut turns = Turns::default();
        let begun = Instant::now();
        while turns.may_ask_at(1).is_none() {
            assert!(begun.elapsed() <= LONGEST + Duration::from_millis(20));
            advance(Duration::from_millis(20)).await;
            turns.released(1, true);
        }
        turns
    }

    #[tokio::test(start_paused = true)]
    async fn others_are_not_passed_over_for_long() {
        let turns = others_go_first().await;
        assert_eq!(turns.may_ask_at(1), Some(Instant::now() + COURTESY));
        assert_eq!(turns.may_ask_at(2), None);
    }

    #[tokio::test(start_paused = true)]
    async fn others_go_first_after_the_first_release_of_a_lock_that_went_from_hand_to_hand() {
        let mut turns = Turns::default();
        for _ in 0..16 {
            turns.handed_over(1);
            advance(Duration::from_millis(20)).await;
        }
        turns.released(1, true);
        assert_eq!(turns.may_ask_at(1), Some(Instant::now() + COURTESY));
        advance(COURTESY).await;
        turns.handed_over(1);
        assert_eq!(turns.may_ask_at(1), None);
        advance(LONGEST).await;
        turns.released(1, false);
        assert_eq!(turns.may_ask_at(1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn others_go_first_one_after_another() {
        let mut turns = others_go_first().await;
        let begun = Instant::now();
        advance(COURTESY).await;
        while begun.elapsed() < THEIR_TURN {
            turns.taken_by_others(1);
            assert_eq!(turns.may_ask_at(1), Some(Instant::now() + STEP_BACK));
            advance(Duration::from_millis(50)).await;
        }
        assert_eq!(turns.may_ask_at(1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_took_the_lock_after_the_others_does_not_step_back() {
        let mut turns = others_go_first().await;
        advance(COURTESY + STEP_BACK).await;
        turns.released(1, true);
        assert_eq!(turns.may_ask_at(1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_awaited_or_takes_turns_never_steps_back() {
        let mut turns = Turns::default();
        for round in 0..200 {
            advance(Duration::from_millis(20)).await;
            turns.released(1, false);
            turns.released(2, true);
            if round % 10 == 0 {
                turns.taken_by_others(2);
            }
            assert_eq!(turns.may_ask_at(1), None);
            assert_eq!(turns.may_ask_at(2), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_the_past_are_forgotten() {
        let mut turns = Turns::default();
        for key in 0..10 * LEAST_SWEPT as u64 {
            turns.released(key, true);
            advance(Duration::from_millis(5)).await;
        }
        assert!(turns.turns.len() <= LEAST_SWEPT);
    }
}
