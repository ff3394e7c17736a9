//! How the locks of a manager are released together, and those of a process that ends.
//!
//! While a process ends, threads that nobody waits for still run, and tasks of the runtime. A lock that
//! is released then must not go to one of them: its row would stand until it expires.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Engine;

impl Engine {
    /// Grants nothing from now on. Whoever waits for a lock, or asks for one later, fails at the end
    /// of its time limit.
    pub(in crate::lock) fn end(&self) {
        let todo = self.table().end();
        todo.carry_out(self);
    }

    /// Whether this process may have rows that it has to delete before it ends.
    pub(in crate::lock) fn may_have_rows(&self) -> bool {
        // In this order: an acquisition is noted elsewhere before it counts as settled.
        self.unsettled() || self.abandoned_rows() > 0 || self.table().may_have_rows()
    }

    /// Releases all that this process holds (or one manager's part of it), for `patience` at most.
    pub async fn release_held(self: &Arc<Self>, manager: Option<u64>, patience: Duration) {
        let (holds, has_ended) = {
            let table = self.table();
            (table.holds_of(manager), table.has_ended())
        };
        let releases = holds.into_iter().map(|hold| hold.release(self));
        let _ = tokio::time::timeout(patience, async {
            futures_util::future::join_all(releases).await;
            // What was asked for before the end may still be won: it is given back.
            while (has_ended && self.unsettled()) || self.abandoned_rows() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    fn unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire) > 0
    }
}
