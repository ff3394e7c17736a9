//! All monitors of a process, together.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Monitor, Reading};
use crate::figures::{Histogram, HistogramSnapshot, LAG_BOUNDS};
use crate::mutex::lock;

/// The monitors of one process, and what those measured that have ended.
#[derive(Default)]
pub struct Registry {
    monitors: Mutex<Monitors>,
}

#[derive(Default)]
struct Monitors {
    running: Vec<Arc<Monitor>>,
    ended: Lags,
}

/// What was measured of all loops.
#[derive(Clone, Debug)]
pub struct Lags {
    /// Loops that are watched now.
    pub monitors: usize,
    /// The greatest lag that grows now, or was the last of its loop.
    pub current: Duration,
    /// The longest lag ever.
    pub worst: Duration,
    /// Lags that reached their monitor's threshold and have ended.
    pub stalls: u64,
    /// All lags that have ended.
    pub histogram: HistogramSnapshot,
}

impl Default for Lags {
    fn default() -> Self {
        Self {
            monitors: 0,
            current: Duration::ZERO,
            worst: Duration::ZERO,
            stalls: 0,
            histogram: Histogram::new(LAG_BOUNDS).snapshot(),
        }
    }
}

impl Lags {
    fn add(&mut self, reading: &Reading) {
        self.worst = self.worst.max(reading.worst);
        self.stalls += reading.ended_stalls;
        self.histogram.add(&reading.histogram);
    }
}

impl Monitors {
    /// What has ended counts, and need not be kept.
    fn settle(&mut self) {
        let ended = &mut self.ended;
        self.running.retain(|monitor| {
            let stopped = monitor.is_stopped();
            if stopped {
                ended.add(&monitor.reading());
            }
            !stopped
        });
    }
}

impl Registry {
    /// Counts a monitor among the process's.
    pub fn add(&self, monitor: Arc<Monitor>) {
        let mut monitors = lock(&self.monitors);
        monitors.settle();
        monitors.running.push(monitor);
    }

    /// What was measured until now.
    pub fn lags(&self) -> Lags {
        let mut monitors = lock(&self.monitors);
        monitors.settle();
        let mut lags = monitors.ended.clone();
        lags.monitors = monitors.running.len();
        for monitor in &monitors.running {
            let reading = monitor.reading();
            lags.current = lags.current.max(reading.current);
            lags.add(&reading);
        }
        lags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn what_an_ended_monitor_measured_still_counts_and_once() {
        let registry = Registry::default();
        let first = Arc::new(Monitor::new(Duration::ZERO, Duration::ZERO));
        registry.add(Arc::clone(&first));
        first.waits();
        assert_eq!(registry.lags().monitors, 1);
        first.stop();
        registry.add(Arc::new(Monitor::new(LONG, LONG)));
        for _ in 0..2 {
            let lags = registry.lags();
            assert_eq!((lags.monitors, lags.stalls, lags.histogram.total()), (1, 1, 1));
            assert_eq!(lags.worst, first.reading().worst);
        }
    }
}
