//! Counts of lags by size.

use std::time::Duration;

/// The upper bounds of the buckets; what is longer falls into one more.
pub const BUCKETS: [Duration; 12] = [
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(10),
];

/// How many lags fell into each bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Counts one lag.
    pub fn record(&mut self, lag: Duration) {
        let bucket = BUCKETS.partition_point(|bound| *bound < lag);
        self.counts[bucket] += 1;
        self.sum += lag;
    }

    /// Counts all that another counted.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// The counts, in the order of [`BUCKETS`], each lag in one bucket; the last count is of what is longer than all.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many lags there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All lags together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let mut histogram = Histogram::default();
        for milliseconds in [0, 1, 2, 100, 101, 20_000] {
            histogram.record(Duration::from_millis(milliseconds));
        }
        assert_eq!(histogram.counts(), [2, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.total(), 6);
        assert_eq!(histogram.sum(), Duration::from_millis(20_204));
    }
}
