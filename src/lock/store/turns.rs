//! Fairness between processes: whose turn it is when a lock becomes free.
//!
//! A process that has just released a lock asks for it again at once, and another process first has
//! to hear that it is free. So a busy process would win again and again. A store therefore notes for
//! how long this process has passed over others, and lets them go first in the end.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// For how long others may be passed over.
const LONGEST: Duration = Duration::from_millis(800);
/// How long this process does not ask then: another one has heard of the release, and asked, by the
/// end of it.
const COURTESY: Duration = Duration::from_millis(150);
/// From how many keys on old ones are forgotten.
const MANY: usize = 1000;

/// The keys for which other processes wait while this one takes them, by their hashes.
#[derive(Default)]
pub(super) struct Turns(HashMap<u64, Turn>);

enum Turn {
    /// This process has taken the lock again and again since then.
    OursSince(Instant),
    /// It is somebody else's until then.
    TheirsUntil(Instant),
}

impl Turns {
    /// This process has released a lock; `awaited` says whether others wait for it.
    pub(super) fn released(&mut self, key: u64, awaited: bool) {
        if !awaited {
            self.0.remove(&key);
            return;
        }
        let now = Instant::now();
        if self.0.len() >= MANY {
            self.0.retain(|_, turn| turn.at() + 2 * LONGEST > now);
        }
        let turn = self.0.entry(key).or_insert(Turn::OursSince(now));
        match turn {
            Turn::OursSince(since) if now >= *since + LONGEST => *turn = Turn::TheirsUntil(now + COURTESY),
            Turn::OursSince(_) => {}
            Turn::TheirsUntil(_) => *turn = Turn::OursSince(now),
        }
    }

    /// Somebody else has the lock.
    pub(super) fn taken_by_others(&mut self, key: u64) {
        self.0.remove(&key);
    }

    /// When this process may ask for the lock, if not now.
    pub(super) fn may_ask_at(&self, key: u64) -> Option<Instant> {
        match self.0.get(&key)? {
            Turn::TheirsUntil(until) if *until > Instant::now() => Some(*until),
            _ => None,
        }
    }
}

impl Turn {
    fn at(&self) -> Instant {
        match self {
            Self::OursSince(at) | Self::TheirsUntil(at) => *at,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn others_are_not_passed_over_for_long() {
        let mut turns = Turns::default();
        let begun = Instant::now();
        while turns.may_ask_at(1).is_none() {
            assert!(begun.elapsed() <= LONGEST + Duration::from_millis(20));
            advance(Duration::from_millis(20)).await;
            turns.released(1, true);
        }
        assert_eq!(turns.may_ask_at(1), Some(Instant::now() + COURTESY));
        assert_eq!(turns.may_ask_at(2), None);
        advance(COURTESY).await;
        assert_eq!(turns.may_ask_at(1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_awaited_or_takes_turns_never_steps_back() {
        let mut turns = Turns::default();
        for round in 0..200 {
            advance(Duration::from_millis(20)).await;
            turns.released(1, false);
            turns.released(2, true);
            if round % 20 == 0 {
                turns.taken_by_others(2);
            }
            assert_eq!(turns.may_ask_at(1), None);
            assert_eq!(turns.may_ask_at(2), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_the_past_are_forgotten() {
        let mut turns = Turns::default();
        for key in 0..10 * MANY as u64 {
            turns.released(key, true);
            advance(Duration::from_millis(5)).await;
        }
        assert!(turns.0.len() <= MANY);
    }
}
