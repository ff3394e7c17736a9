//! How often a time fell between which bounds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds, in seconds, of the response times of calls.
pub(crate) const RESPONSE_BOUNDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0,
];
/// Of the times for which locks were waited for and held.
pub(crate) const LOCK_BOUNDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];
/// Of the lags of event loops.
pub(crate) const LAG_BOUNDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Counts of times, by size.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what is longer than the last.
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

/// A histogram as it was at one time.
#[derive(Clone, Debug)]
pub(crate) struct HistogramSnapshot {
    /// Upper bounds in seconds, inclusive.
    pub bounds: &'static [f64],
    /// How many times were up to each bound and above the one before, and how many above the last.
    pub counts: Vec<u64>,
    pub sum: Duration,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_nanos: AtomicU64::new(0),
        }
    }

    pub(crate) fn record(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(count) = self
            .counts
            .get(self.bounds.partition_point(|bound| *bound < seconds))
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            bounds: self.bounds,
            counts: self
                .counts
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .collect(),
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)),
        }
    }
}

impl HistogramSnapshot {
    /// Adds what another histogram with the same bounds counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::new(LAG_BOUNDS);
        for microseconds in [0, 1_000, 2_000, 2_500, 100_000, 101_000, 20_000_000] {
            histogram.record(Duration::from_micros(microseconds));
        }
        let found = histogram.snapshot();
        assert_eq!(found.counts, [2, 2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]);
        assert_eq!(found.total(), 7);
        assert_eq!(found.sum, Duration::from_micros(20_206_500));
    }
}
