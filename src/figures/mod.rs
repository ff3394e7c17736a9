//! What is counted: of calls, of locks, of event loops. A few atomic additions per event, read when someone asks.
//!
//! In Rust a counter is one line of the enum that names it, in [`calls`] or [`locks`]: whoever reads the figures goes through
//! the enum. In Python it needs its field in `process_metrics.py`, and an entry in `integrations/exported_metrics.py`.

mod calls;
mod counters;
mod histogram;
mod locks;
mod models;

use std::sync::Arc;

pub(crate) use calls::{CallCounter, CountedCall, Metrics};
pub(crate) use counters::Counter;
pub(crate) use histogram::{Histogram, HistogramSnapshot, LAG_BOUNDS};
pub(crate) use locks::{Ledger, LockCounter, LockFigures};
pub(crate) use models::Totals;

/// Figures of one owner (a service, a manager) and figures that outlive it (a model's, the process's): all is counted in both.
#[derive(Debug, Default)]
pub(crate) struct Twice<F> {
    own: Arc<F>,
    lasting: Arc<F>,
}

impl<F> Twice<F> {
    pub(crate) fn new(own: Arc<F>, lasting: Arc<F>) -> Self {
        Self { own, lasting }
    }

    pub(crate) fn own(&self) -> &F {
        &self.own
    }

    pub(crate) fn each(&self, count: impl Fn(&F)) {
        count(&self.own);
        count(&self.lasting);
    }
}
