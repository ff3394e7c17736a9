//! How the rows are deleted that nobody owns any more: those of abandoned acquisitions, and those that
//! a release could not delete in time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::holds::Hold;
use super::key::{Event, Now};
use super::{Engine, retry};
use crate::lock::error::StoreError;
use crate::lock::operation::{Abandoned, AcquisitionId, Operation, Release, ReleaseTarget};
use crate::lock::surroundings;
use crate::lock::surroundings::planted;
use crate::notices::Trouble;

/// How long to wait before a row is deleted again, at first and at last.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const SELDOM_LOOK: Duration = Duration::from_secs(30);

impl Abandoned for Engine {
    fn abandoned(&self, id: &AcquisitionId, key: &Arc<str>, in_doubt: Option<Duration>) {
        let Some(engine) = self.weak.upgrade() else { return };
        let (id, key) = (Arc::clone(id), Arc::clone(key));
        engine.abandoned.fetch_add(1, Ordering::AcqRel);
        // Dropped on any thread, perhaps with the engine's table locked.
        surroundings::spawn(&self.runtime, async move {
            let handed_off = engine.table().hold(&key).filter(|hold| hold.id == id).cloned();
            match handed_off {
                // In memory, to a caller that never read it.
                Some(hold) => engine.release_in_background(&hold),
                None => engine.delete_in_background(&id, &key, in_doubt),
            }
            engine.abandoned.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

impl Engine {
    /// Releases a lock whose holder has gone. The call itself begins the release.
    pub(super) fn release_in_background(self: &Arc<Self>, hold: &Arc<Hold>) {
        let releasing = Arc::clone(hold).release(self);
        let engine = Arc::clone(self);
        engine.abandoned.fetch_add(1, Ordering::AcqRel);
        surroundings::spawn(&self.runtime, async move {
            let _ = releasing.await;
            engine.abandoned.fetch_sub(1, Ordering::AcqRel);
        });
    }

    /// Notes that a hold is over, and that its row is gone or is being deleted.
    pub(super) fn end_hold(&self, hold: &Hold) {
        let mut table = self.table();
        table.forget_hold(hold);
        let todo = table.on(&hold.key, Now::read(), Event::Ended(Arc::clone(&hold.id)));
        drop(table);
        todo.carry_out(self);
    }

    /// Deletes a row that nobody owns any more. `in_doubt` is given when a statement that is still
    /// under way may write it yet: for how long the row would last then.
    pub(super) fn delete_in_background(
        &self,
        id: &AcquisitionId,
        key: &Arc<str>,
        in_doubt: Option<Duration>,
    ) {
        let Some(engine) = self.weak.upgrade() else { return };
        let target = ReleaseTarget::Row {
            id: Arc::clone(id),
            key: Arc::clone(key),
        };
        engine.abandoned.fetch_add(1, Ordering::AcqRel);
        surroundings::spawn(&self.runtime, async move {
            let deleted = engine.delete(target.clone()).await;
            engine.abandoned.fetch_sub(1, Ordering::AcqRel);
            let weak = Weak::clone(&engine.weak);
            drop(engine);
            if deleted.is_err() {
                delete_later(Weak::clone(&weak), target.clone(), retry::DELETION, true).await;
            }
            if let Some(lasting) = in_doubt {
                delete_later(weak, target, lasting, false).await;
            }
        });
    }

    /// A statement whose answer was lost may still be on its way, and write the row after its
    /// release: looks for it for as long as the row would last then. Not called while a successor
    /// believes in a row that may still have this id.
    pub(super) fn look_for_late_row(&self, hold: &Hold) {
        if let Some(lasting) = hold.in_doubt {
            let looking = delete_later(Weak::clone(&self.weak), hold.target(), lasting, false);
            drop(surroundings::spawn(&self.runtime, looking));
        }
    }

    /// Deletes a row that nobody owns any more; whether there was one. While the database is away, it
    /// is asked again.
    async fn delete(&self, target: ReleaseTarget) -> Result<bool, StoreError> {
        let release = |reply, until| {
            let target = target.clone();
            Operation::Release(Release { target, until, reply })
        };
        let deleted = self.ask(retry::DELETION, release).await;
        match &deleted {
            Ok(_) => self.reporter.works(Trouble::Deleting),
            Err(error) => {
                let (trouble, key) = (Trouble::Deleting, Some(target.key()));
                self.reporter.failed(trouble, key, &error.message);
            }
        }
        if let ReleaseTarget::Row { id, key } = &target {
            self.on(key, Event::Ended(Arc::clone(id)));
        }
        deleted
    }
}

/// Deletes a row again and again, ever more seldom, for so long or until the engine has gone; if
/// `once`, only until the database has done so.
async fn delete_later(engine: Weak<Engine>, target: ReleaseTarget, lasting: Duration, once: bool) {
    let end = Instant::now() + lasting;
    let mut pause = FIRST_LOOK;
    while Instant::now() < end && !planted!(LateStatement) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SELDOM_LOOK);
        let Some(engine) = engine.upgrade() else { return };
        if engine.delete(target.clone()).await.is_ok() && once {
            return;
        }
    }
}
