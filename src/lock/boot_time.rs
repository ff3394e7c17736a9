//! A clock that nobody sets and that counts while the machine sleeps: what a holder may believe is measured by it.

use std::time::Duration;

/// A point in time since the machine started, or on Windows since this was first asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(Duration);

impl BootTime {
    #[must_use]
    pub fn now() -> Self {
        #[cfg(test)]
        if let Some(time) = super::simulation::context::boot_time() {
            return Self(time);
        }
        Self(clock::elapsed())
    }

    /// How long until `later`; zero when it has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

#[cfg(unix)]
mod clock {
    //! `CLOCK_BOOTTIME`, or the monotonic clock where there is none: macOS's counts while the machine sleeps, too.

    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::Monotonic;

    pub(super) fn elapsed() -> Duration {
        let time = clock_gettime(CLOCK);
        Duration::new(
            time.tv_sec.unsigned_abs(),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        )
    }
}

#[cfg(not(unix))]
mod clock {
    //! The standard library's clock: Windows' performance counter, which counts while the machine sleeps.

    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

    pub(super) fn elapsed() -> Duration {
        BEGINNING.elapsed()
    }
}
