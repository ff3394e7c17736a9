//! The outbox of an event loop: calls on their way to the runtime.
//!
//! Handing a task to the runtime may wake a worker, which costs the loop's thread more than all the
//! rest of a call. But where many tasks call, they call together: a drained inbox resumes dozens in
//! one iteration of the loop. So the first call after a drain goes at once, and those on its heels
//! are gathered: they go when there are enough of them, or when the loop has run what was ready. A
//! loop that is held up meanwhile does not hold them up: a worker looks for them each millisecond.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_queue::SegQueue;
use tokio::runtime::Runtime;

use super::mail::Ticket;

/// How many calls are worth a wake-up of their own. Fewer would wake more often than they work;
/// more would leave the workers idle while the loop's thread prepares calls.
const ENOUGH: usize = 16;

/// How long a gathered call waits when the loop is held up.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a call does; it keeps its result to itself.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A call to be run.
pub(super) struct Task {
    pub(super) work: Work,
    pub(super) ticket: Ticket,
}

impl Task {
    async fn run(self) {
        let _told_last = self.ticket; // dropped after the work, and also when that panics
        self.work.await;
    }
}

/// Calls that were gathered, shared with the worker that watches them.
#[derive(Clone, Default)]
pub(super) struct Outbox(Arc<Gathered>);

#[derive(Default)]
struct Gathered {
    tasks: SegQueue<Task>,
    watched: AtomicBool,
}

/// Hands over a call at once.
pub(super) fn send(runtime: &Runtime, task: Task) {
    runtime.spawn(task.run());
}

impl Outbox {
    /// Takes a call to be handed over with others. True if it is the first of them: then
    /// [`Outbox::flush`] is to be called when the loop has run what is ready.
    pub(super) fn gather(&self, runtime: &Runtime, task: Task) -> bool {
        self.0.tasks.push(task);
        // Here a push and then the flag, in `watch` the flag and then a look for pushes, both
        // sequentially consistent: one of the two sees the other, so no call is left unwatched.
        if !self.0.watched.swap(true, Ordering::SeqCst) {
            runtime.spawn(self.clone().watch());
        }
        let gathered = self.0.tasks.len();
        if gathered >= ENOUGH {
            self.flush(runtime);
        }
        gathered == 1
    }

    /// Hands over what was gathered.
    pub(super) fn flush(&self, runtime: &Runtime) {
        if !self.0.tasks.is_empty() {
            // A worker spawns them: spawned from here, each could wake a worker, which costs this
            // thread a system call.
            let outbox = self.clone();
            runtime.spawn(async move { outbox.empty() });
        }
    }

    /// Starts everything that was gathered, in its order. True if there was anything. To be called
    /// by a worker.
    fn empty(&self) -> bool {
        let mut any = false;
        while let Some(task) = self.0.tasks.pop() {
            tokio::spawn(task.run());
            any = true;
        }
        any
    }

    async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.empty() {
                continue;
            }
            self.0.watched.store(false, Ordering::SeqCst);
            // A call that was pushed before that has found a watcher, and must be seen here.
            if self.0.tasks.is_empty() || self.0.watched.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}
