//! How many sessions share the database, so that the looks of all processes together cost little.

use std::time::Duration;

use sqlx::Row as _;
use tokio::time::Instant;

use super::verb::{Answer, Job, PgQuery, Verb};
use crate::lock::error::StoreError;

/// A look costs the server about 330 µs if it has a thousand sessions, so that so many cost less
/// than 5 % of a core, although jitter brings them forward and the counts come on top.
const LOOKS_PER_SECOND: u32 = 100;
/// How long a count is good for. It costs about as much as a look.
const COUNT_LASTS: Duration = Duration::from_secs(60);
/// As for a look.
const PATIENCE: Duration = Duration::from_secs(2);

const COUNT: &str = "SELECT numbackends::int8 FROM pg_stat_database WHERE datname = current_database()";

/// How far the looks of one process are to be apart. A process has at least one session, so that the
/// sessions are at least as many as the processes that look.
fn apart(sessions: u32) -> Duration {
    Duration::from_secs(1) * sessions / LOOKS_PER_SECOND
}

/// What is known of the others.
#[derive(Default)]
pub(super) struct Crowd {
    apart: Duration,
    counted_at: Option<Instant>,
    is_wanted: bool,
}

impl Crowd {
    /// How far looks are to be apart, which somebody wants to know: a look may count.
    pub(super) fn looks_apart(&mut self) -> Duration {
        self.is_wanted = true;
        self.apart
    }

    /// Whether to count now. Then nobody else has to.
    pub(super) fn begin_count(&mut self) -> bool {
        let is_known = self.counted_at.is_some_and(|at| at.elapsed() < COUNT_LASTS);
        if is_known || !self.is_wanted {
            return false;
        }
        self.is_wanted = false;
        self.counted_at = Some(Instant::now());
        true
    }

    fn counted(&mut self, sessions: u32) {
        self.apart = apart(sessions);
    }

    /// How long the server's plans for looks are to be kept: it plans anew with one look in five, as
    /// it does with looks a second apart.
    pub(super) fn plans_last(&self, at_least: Duration) -> Duration {
        at_least.max(self.apart * 5)
    }
}

/// Counts the sessions. A count that fails leaves the last one standing until the next.
pub(super) struct CountSessions {
    until: Instant,
}

impl Verb for CountSessions {
    const IS_LOOK: bool = true;

    fn of(job: Job) -> Result<Self, Job> {
        match job {
            Job::CountSessions => Ok(Self {
                until: Instant::now() + PATIENCE,
            }),
            other => Err(other),
        }
    }

    fn until(&self) -> Option<Instant> {
        Some(self.until)
    }

    fn query(_batch: &[Self], _notify: bool) -> PgQuery {
        sqlx::query(COUNT)
    }

    fn answer(_batch: Vec<Self>, answer: &Answer<'_>) {
        let sessions = answer.rows.first().and_then(|row| row.try_get::<i64, _>(0).ok());
        if let Some(sessions) = sessions.and_then(|sessions| u32::try_from(sessions).ok()) {
            answer.shared.work().crowd.counted(sessions);
        }
    }

    fn fail(self, _error: &StoreError) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_looks_together_are_at_most_so_many_however_many_look() {
        for (sessions, milliseconds) in [(0, 0), (1, 10), (80, 800), (100, 1000), (1000, 10_000)] {
            assert_eq!(apart(sessions).as_millis(), milliseconds, "{sessions}");
        }
        // A look comes sooner by chance, by 15 % at most, and each process counts once a minute.
        let looks = 1000.0 / (apart(1000).as_secs_f64() * 0.85);
        let counts = 1000.0 / COUNT_LASTS.as_secs_f64();
        assert!((looks + counts) * 330e-6 <= 0.05, "{looks} and {counts} a second");
        assert!(apart(u32::MAX) > Duration::from_secs(1_000_000));
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_counted_once_a_minute_while_somebody_wants_to_know() {
        let mut crowd = Crowd::default();
        assert!(!crowd.begin_count(), "nobody has asked");
        let mut counts = 0;
        for _ in 0..600 {
            crowd.looks_apart();
            counts += usize::from(crowd.begin_count());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(counts, 10);
        assert_eq!(crowd.looks_apart(), Duration::ZERO);
        crowd.counted(500);
        assert_eq!(crowd.looks_apart(), Duration::from_secs(5));
    }

    #[test]
    fn plans_last_for_five_looks() {
        let mut crowd = Crowd::default();
        crowd.counted(100);
        assert_eq!(crowd.plans_last(Duration::from_secs(5)), Duration::from_secs(5));
        crowd.counted(1000);
        assert_eq!(crowd.plans_last(Duration::from_secs(5)), Duration::from_secs(50));
    }
}
