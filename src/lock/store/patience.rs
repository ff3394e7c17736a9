//! How long a store on a server waits for an answer, and when it replaces a connection that does
//! not answer.

use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use tokio::time::Instant;

use crate::lock::error::LockError;

/// The shortest and the longest wait before a second try.
const SECOND_TRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How often in a row the pause between two replacements grows fourfold.
const MOST_IN_A_ROW: u32 = 6;

/// How long to wait for the answer to a first try before a second one goes over another connection.
pub(super) fn before_second_try(until: Instant) -> Duration {
    let (shortest, longest) = SECOND_TRY;
    (left(until) / 5).clamp(shortest, longest)
}

/// How long to wait for the answer to a last try. Half of the time is left to the asker, who can
/// ask again over another connection.
pub(super) fn of_last_try(until: Instant) -> Duration {
    (left(until) / 2).max(SECOND_TRY.0)
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// How connections are kept alive, by the names of libpq's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// `keepalives`: whether connections are probed at all.
    pub(crate) on: bool,
    /// `keepalives_idle`: after how much silence a connection is probed.
    pub(crate) idle: Duration,
    /// `keepalives_interval`: the time from one unanswered probe to the next.
    pub(crate) interval: Duration,
    /// `keepalives_count`: after how many unanswered probes a connection is dead.
    pub(crate) count: u32,
    /// `tcp_user_timeout`: how long sent data may stay unacknowledged.
    pub(crate) user_timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            on: true,
            idle: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            count: 3,
            user_timeout: Duration::from_secs(30),
        }
    }
}

impl Keepalive {
    /// Reads the parameters of a URL. As in libpq, zero stands for the default.
    ///
    /// # Errors
    /// What `bad` makes of the name and the value of a parameter that is no number.
    pub(crate) fn read<'a>(
        parameter: impl Fn(&str) -> Option<&'a str>,
        bad: impl Fn(&str, &str) -> LockError,
    ) -> Result<Self, LockError> {
        let number = |name: &str| -> Result<Option<u32>, LockError> {
            let Some(value) = parameter(name) else {
                return Ok(None);
            };
            value.parse().map(Some).map_err(|_| bad(name, value))
        };
        let given = |name: &str| Ok(number(name)?.filter(|number| *number > 0));
        let seconds = |number: u32| Duration::from_secs(number.into());
        let usual = Self::default();
        Ok(Self {
            on: number("keepalives")? != Some(0),
            idle: given("keepalives_idle")?.map_or(usual.idle, seconds),
            interval: given("keepalives_interval")?.map_or(usual.interval, seconds),
            count: given("keepalives_count")?.unwrap_or(usual.count),
            user_timeout: given("tcp_user_timeout")?
                .map_or(usual.user_timeout, |number| Duration::from_millis(number.into())),
        })
    }

    /// What the system is told about a socket.
    pub(crate) fn tcp_settings(&self) -> TcpSettings {
        let mut settings = TcpSettings::default().set_nodelay(true);
        if self.on {
            let probes = TcpKeepalive::new()
                .with_time(self.idle)
                .with_interval(self.interval)
                .with_retries(self.count);
            settings = settings.set_keepalive(probes);
        }
        #[cfg(target_os = "linux")]
        {
            settings = settings.set_user_timeout(self.user_timeout);
        }
        settings
    }

    /// How long probes may stay unanswered.
    pub(super) fn probing(&self) -> Duration {
        self.interval * self.count
    }

    /// The time after which a silent connection is found dead.
    pub(super) fn whole(&self) -> Duration {
        self.idle + self.probing()
    }
}

/// When a connection that does not answer may be replaced: once per keepalive time. A server that
/// never answers keeps what each replacement left behind, so the pauses grow until it answers.
#[derive(Debug, Default)]
pub(super) struct Replacement {
    next: Option<Instant>,
    in_a_row: u32,
}

impl Replacement {
    /// From when on it is allowed.
    pub(super) fn next(&self) -> Instant {
        self.next.unwrap_or_else(Instant::now)
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.next() <= Instant::now()
    }

    /// The connection has been closed, and the next one replaces it.
    pub(super) fn done(&mut self, keepalive: &Keepalive) {
        self.next = Some(Instant::now() + keepalive.whole() * 4_u32.pow(self.in_a_row));
        self.in_a_row = (self.in_a_row + 1).min(MOST_IN_A_ROW);
    }

    /// The server has answered.
    pub(super) fn answered(&mut self) {
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_try_follows_the_time_that_is_left() {
        let wait = |milliseconds| before_second_try(Instant::now() + Duration::from_millis(milliseconds));
        assert_eq!(wait(0), Duration::from_millis(100));
        assert_eq!(wait(2_000), Duration::from_millis(400));
        assert_eq!(wait(60_000), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_replaced_once_per_keepalive_time() {
        let keepalive = Keepalive::default();
        let mut replacement = Replacement::default();
        for _ in 0..3 {
            assert!(replacement.is_allowed());
            replacement.done(&keepalive);
            replacement.answered();
            advance(keepalive.whole() - Duration::from_millis(1)).await;
            assert!(!replacement.is_allowed());
            advance(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_gets_ever_fewer_connections() {
        let keepalive = Keepalive::default();
        let mut replacement = Replacement::default();
        let (begun, mut replaced) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(3600) {
            if replacement.is_allowed() {
                replacement.done(&keepalive);
                replaced += 1;
            }
            advance(Duration::from_secs(5)).await;
        }
        assert!(replaced <= 5, "{replaced}");
    }

    #[test]
    fn parameters_have_libpqs_names_and_units() {
        let read = |given: &'static [(&str, &str)]| {
            Keepalive::read(
                |name| {
                    given
                        .iter()
                        .find(|(known, _)| *known == name)
                        .map(|(_, value)| *value)
                },
                |name, value| LockError::invalid("database_url", format!("{name}={value}")),
            )
        };
        assert_eq!(read(&[]).unwrap(), Keepalive::default());
        let given = read(&[
            ("keepalives_idle", "7"),
            ("keepalives_interval", "0"),
            ("keepalives_count", "2"),
            ("tcp_user_timeout", "1500"),
        ]);
        let expected = Keepalive {
            idle: Duration::from_secs(7),
            count: 2,
            user_timeout: Duration::from_millis(1500),
            ..Keepalive::default()
        };
        assert_eq!(given.unwrap(), expected);
        assert!(!read(&[("keepalives", "0")]).unwrap().on);
        let refused = read(&[("keepalives_idle", "soon")]).unwrap_err();
        assert_eq!(refused.to_string(), "keepalives_idle=soon");
    }
}
