//! What a monitor finds out about a loop.

use std::time::Duration;

use crate::figures::HistogramSnapshot;

/// What a loop that gives no sign is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Blocked,
    /// It is not running at present: nothing is the matter, and nothing is to be expected before its next sign.
    Resting,
    /// It will never run again.
    Gone,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The lag that grows now, or the last one.
    pub current: Duration,
    /// The longest lag, that of a stall under way included.
    pub worst: Duration,
    /// Lags that reached the threshold, a stall under way included.
    pub stalls: u64,
    /// Those of them that have ended.
    pub ended_stalls: u64,
    /// All lags that have ended.
    pub histogram: HistogramSnapshot,
}
