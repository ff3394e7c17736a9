//! Rows that are on their way to another acquisition of this process.
//!
//! Until the database has answered, such a row has its old id or its new one: whoever wants to do something with it by its new id
//! waits until it has arrived.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::mutex::lock;
use tokio::sync::watch;

/// The new ids of the rows that are on their way.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<HashMap<Arc<str>, watch::Receiver<Option<Arrived>>>>);

/// A row on its way; when this is dropped, nobody waits for it any more.
pub(super) struct Journey {
    told: watch::Sender<Option<Arrived>>,
}

/// The outcome of a hand-over, which gives a row a new id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrived {
    /// The row has its new id.
    Yes,
    /// The row no longer belonged to this process.
    No,
    /// The database did not answer, so the outcome is unknown.
    Perhaps,
}

/// A row that is waited for.
pub(super) struct Arrival(watch::Receiver<Option<Arrived>>);

impl Arrivals {
    /// The row of this id is on its way from now on.
    pub(super) fn announce(&self, row: &Arc<str>) -> Journey {
        let (told, expected) = watch::channel(None);
        self.rows().insert(Arc::clone(row), expected);
        Journey { told }
    }

    /// It is on its way no more, whatever has come of it.
    pub(super) fn settle(&self, row: &Arc<str>, journey: Journey, arrived: Arrived) {
        self.rows().remove(row);
        journey.told.send_replace(Some(arrived));
    }

    /// The row, if it is on its way.
    pub(super) fn of(&self, row: &Arc<str>) -> Option<Arrival> {
        self.rows().get(row).cloned().map(Arrival)
    }

    pub(super) fn any(&self) -> bool {
        !self.rows().is_empty()
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<Arc<str>, watch::Receiver<Option<Arrived>>>> {
        lock(&self.0)
    }
}

impl Arrival {
    /// Waits until the hand-over is settled, and returns its outcome.
    pub(super) async fn settled(mut self) -> Arrived {
        match self.0.wait_for(Option::is_some).await {
            Ok(arrived) => arrived.unwrap_or(Arrived::Perhaps),
            Err(_) => Arrived::Perhaps,
        }
    }
}
