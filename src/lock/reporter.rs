//! Counts and reports what does not work at one database.

use std::sync::Arc;

use crate::figures::{LockCounter, LockFigures};
use crate::notices::{Notices, Trouble};

/// Where an engine and its store report what they gave up.
#[derive(Debug, Default)]
pub struct Reporter {
    /// The database, without secrets.
    place: Arc<str>,
    figures: Arc<LockFigures>,
    notices: Arc<Notices>,
}

impl Reporter {
    pub(super) fn new(place: &str, figures: Arc<LockFigures>, notices: Arc<Notices>) -> Arc<Self> {
        Arc::new(Self {
            place: place.into(),
            figures,
            notices,
        })
    }

    /// Reports a failure if it is a new one, and counts it.
    pub(super) fn failed(&self, trouble: Trouble, key: Option<&Arc<str>>, cause: &str) {
        // Most messages begin with the database, which every notice names by itself.
        let cause = cause.strip_prefix(&*self.place).unwrap_or(cause);
        let cause = cause.strip_prefix(": ").unwrap_or(cause);
        self.notices.failed(&self.place, trouble, key.cloned(), cause);
        // Last: whoever sees the count finds the notice.
        let counter = match trouble {
            Trouble::Listening => LockCounter::ListenerFailures,
            Trouble::Deleting => LockCounter::RowsLeft,
            Trouble::Answering => LockCounter::ConnectionsReplaced,
            Trouble::WatchingChanges => LockCounter::ChangeWatchFailures,
            // The losses that follow from it are counted.
            Trouble::LogRemoved | Trouble::OtherNames => return,
        };
        self.figures.counters.add(counter, 1);
    }

    pub(super) fn works(&self, trouble: Trouble) {
        self.notices.works(&self.place, trouble);
    }
}
