//! A streamed answer, read by a task of its own and taken batch by batch.
//!
//! The task reads ahead up to a bound, so that whoever asks for the next batch finds it there or waits for the network alone, and
//! is handed all that has come meanwhile in one piece. When nobody takes it the task stops reading, and the server is slowed down
//! through TCP. Giving up a wait gives up nothing: what had come, comes the next time.
//!
//! After a wait was cut short, and after an exception left a [`Loop`], the iteration may continue
//! within [`GRACE`]. After that the request is closed, even if something still refers to the stream
//! (the traceback of a cancelled task, for example), and further iteration is an error. After a
//! wait that returned a batch there is no limit on the time until the next wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::asides::Asides;
use super::chunks::Summary;
use super::error::Error;
use super::items::{Batch, Shape};
use super::stream::ChatStream;
use crate::mutex::lock;

/// How many bytes of events may wait to be taken, give or take a part.
const BYTES_AHEAD: usize = 256 * 1024;

/// The grace period: how long an interrupted iteration may be continued before the request is
/// closed.
pub const GRACE: Duration = Duration::from_secs(1);

/// A stream that is opened when it is first asked for something. Dropping it closes the request.
pub struct ReadAhead(Arc<Shared>);

type Opening = Pin<Box<dyn Future<Output = Result<ChatStream, Error>> + Send>>;

/// What the task that reads and the callers that take share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes callers: something has come, or nothing will.
    came: Notify,
    /// Wakes the task: something was taken.
    taken: Notify,
}

#[derive(Default)]
struct State {
    /// Makes the request. `None` as soon as it was started, or never will be.
    opening: Option<Opening>,
    /// The task that reads. It owns the connection: aborting it closes the request.
    task: Option<AbortHandle>,
    /// What has been read and not been taken.
    batch: Option<Batch>,
    /// Whether nothing more will come.
    over: bool,
    /// Whether the caller closed the stream: what is given back afterwards is dropped.
    closed: bool,
    /// Why nothing more will come. It is returned after the batch, and from then on.
    failure: Option<Error>,
    /// The stream's summary after all that has come.
    latest: Arc<Summary>,
    /// The stream's summary after what has been taken. A caller that reads slowly must not see the
    /// model or the usage of text that it has not seen yet.
    summary: Arc<Summary>,
    /// What the model thought, and the tools that it wants called, as far as they have come.
    asides: Arc<Mutex<Asides>>,
    /// The number of loops over the stream that exist now.
    loops: usize,
    /// The number of calls that wait for a batch now.
    waits: usize,
    /// The number of loops and waits that have ever begun. It detects that an iteration was
    /// continued during the grace period. A count of those that exist now would not: one may have
    /// begun and ended in between.
    visits: u64,
}

impl State {
    fn is_full(&self) -> bool {
        self.batch
            .as_ref()
            .is_some_and(|batch| batch.bytes >= BYTES_AHEAD)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait(&self) -> Wait<'_> {
        let mut state = self.state();
        state.waits += 1;
        state.visits += 1;
        Wait(self)
    }

    /// Waits until more may come.
    async fn room(&self) {
        while self.state().is_full() {
            self.taken.notified().await;
        }
    }

    fn put(&self, batch: Batch, summary: &Arc<Summary>) {
        {
            let mut state = self.state();
            if state.over {
                return; // closed while this batch was read
            }
            state.latest.clone_from(summary);
            match &mut state.batch {
                None => state.batch = Some(batch),
                Some(earlier) => earlier.append(batch),
            }
        }
        // One: a batch is for one caller. The permit that it leaves behind if nobody waits makes
        // the next wait look, so that nothing is lost between a look and the wait.
        self.came.notify_one();
    }

    /// Nothing comes any more. The first end counts.
    fn end(&self, failure: Option<Error>, summary: &Arc<Summary>) {
        {
            let mut state = self.state();
            if state.over {
                return;
            }
            state.over = true;
            state.failure = failure;
            state.latest.clone_from(summary);
        }
        // All of them: every caller that waits has to return.
        self.came.notify_waiters();
    }

    /// All that has come, or the end; `None` if there is neither yet.
    fn take(&self) -> Option<Result<Option<Batch>, Error>> {
        let mut state = self.state();
        let was_full = state.is_full();
        let batch = state.batch.take();
        if batch.is_none() && !state.over {
            return None;
        }
        state.summary = state.latest.clone();
        // It stays: to no caller may a stream that broke seem complete, however many wait.
        let failure = state.failure.clone().filter(|_| batch.is_none());
        drop(state);
        if was_full {
            self.taken.notify_one();
        }
        Some(failure.map_or(Ok(batch), Err))
    }

    /// Closes the request if no call waits, and if no loop or wait has begun since `visits` was
    /// read.
    fn abandon(&self, visits: u64) {
        let task = {
            let mut state = self.state();
            if state.over || state.waits > 0 || state.visits != visits {
                return;
            }
            // A request that was not made yet costs the server nothing: nothing has to be closed.
            let Some(task) = state.task.take() else { return };
            // Before the task is aborted: its own end would say `Closed`, and the first end counts.
            state.over = true;
            state.failure = Some(Error::Abandoned(GRACE));
            task
        };
        task.abort();
    }
}

/// A loop over a stream. Dropping the value ends the loop.
pub struct Loop(Arc<ReadAhead>);

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.0.state().loops -= 1;
    }
}

impl Loop {
    /// Ends a loop that an exception left, and returns the future that closes the request after the
    /// grace period. See [`ReadAhead::wait_was_given_up`].
    #[must_use]
    pub fn leave(self) -> Option<Closing> {
        let stream = self.0.clone();
        drop(self);
        stream.close_unless_continued(0)
    }
}

/// A future that closes the request of a stream at the end of the grace period, unless the
/// iteration was continued. The caller has to run it. It does not keep the stream alive.
pub type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Counts one wait for a batch; dropping the value ends the wait.
struct Wait<'stream>(&'stream Shared);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.state().waits -= 1;
    }
}

/// The task's side. A task that is aborted, or panics, has come to its end, too: without this, its
/// callers would wait for ever.
struct Writing(Arc<Shared>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.end(Some(Error::Closed("the stream")), &Arc::default());
    }
}

impl ReadAhead {
    /// A stream that `opening` opens.
    pub fn new(opening: impl Future<Output = Result<ChatStream, Error>> + Send + 'static) -> Self {
        let state = State {
            opening: Some(Box::pin(opening)),
            ..State::default()
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            ..Shared::default()
        }))
    }

    /// Whether the request has been made, or never will be.
    pub fn is_started(&self) -> bool {
        self.0.state().opening.is_none()
    }

    /// Makes the request, unless that was done. Needs an ambient tokio runtime.
    pub fn start(&self, shape: Shape) {
        let mut state = self.0.state();
        if let Some(opening) = state.opening.take() {
            let task = tokio::spawn(read(opening, shape, Writing(self.0.clone())));
            state.task = Some(task.abort_handle());
        }
    }

    /// What has come since the last time, at least one item, or `None` after the last. The stream has to be [started](Self::start).
    ///
    /// # Errors
    /// As [`ChatStream::next_batch`], and from then on.
    pub async fn next(&self) -> Result<Option<Batch>, Error> {
        let _wait = self.0.wait();
        loop {
            // Before the look: `notify_waiters` wakes those alone who wait already, and an end that
            // came between the look and the wait would be missed.
            let came = self.0.came.notified();
            if let Some(next) = self.0.take() {
                return next;
            }
            came.await;
        }
    }

    /// Returns an undelivered batch or error to the stream, so that the next call of [`Self::next`]
    /// yields it.
    pub fn give_back(&self, next: Result<Option<Batch>, Error>) {
        {
            let mut state = self.0.state();
            if state.closed {
                return;
            }
            match next {
                Ok(None) | Err(_) => return, // every later call of `next` yields the end again
                Ok(Some(mut batch)) => {
                    // In front of what has come since.
                    if let Some(later) = state.batch.take() {
                        batch.append(later);
                    }
                    state.batch = Some(batch);
                }
            }
        }
        self.0.came.notify_one();
    }

    /// Begins a loop over the stream.
    pub fn iterate(self: &Arc<Self>) -> Loop {
        let mut state = self.0.state();
        state.loops += 1;
        state.visits += 1;
        drop(state);
        Loop(self.clone())
    }

    /// Reports that a wait was cut short: a single wait, or the wait of the only loop, which a
    /// traceback may still keep alive.
    #[must_use]
    pub fn wait_was_given_up(self: &Arc<Self>) -> Option<Closing> {
        self.close_unless_continued(1)
    }

    /// Returns the future that closes the request after the grace period. Returns `None` if the
    /// stream has ended, or if there are more loops than `loops`: another loop continues then.
    fn close_unless_continued(&self, loops: usize) -> Option<Closing> {
        let state = self.0.state();
        let visits = state.visits;
        if state.over || state.loops > loops {
            return None;
        }
        drop(state);
        // Weak, for a stream that nobody has any more is closed at once, not after the grace.
        let shared = Arc::downgrade(&self.0);
        Some(Box::pin(async move {
            tokio::time::sleep(GRACE).await;
            if let Some(shared) = Weak::upgrade(&shared) {
                shared.abandon(visits);
            }
        }))
    }

    /// Closes the request. Whoever waits for a batch gets none.
    pub fn close(&self) {
        let (opening, task) = {
            let mut state = self.0.state();
            (state.over, state.closed) = (true, true);
            (state.batch, state.failure) = (None, None);
            (state.opening.take(), state.task.take())
        };
        drop(opening); // outside the lock, since it drops what its maker captured
        if let Some(task) = task {
            task.abort();
        }
        self.0.came.notify_waiters();
    }

    /// What is known of the stream, by what has been taken of it.
    pub fn summary(&self) -> Arc<Summary> {
        self.0.state().summary.clone()
    }

    /// What the model thought, and the tools that it wants called, as far as they have come.
    pub fn asides(&self) -> Arc<Mutex<Asides>> {
        self.0.state().asides.clone()
    }
}

impl Drop for ReadAhead {
    /// The task owns a reference to what is shared, which would keep its request open.
    fn drop(&mut self) {
        self.close();
    }
}

/// What the task does.
async fn read(opening: Opening, shape: Shape, writing: Writing) {
    let shared = &writing.0;
    let mut stream = match opening.await {
        Ok(stream) => stream,
        Err(error) => return shared.end(Some(error), &Arc::default()),
    };
    shared.state().asides = stream.asides();
    loop {
        // The room is waited for before the network is read: what is not read stays in the kernel's
        // buffers, and TCP makes the server wait.
        shared.room().await;
        match stream.next_batch(shape).await {
            Ok(Some(batch)) => shared.put(batch, stream.summary()),
            Ok(None) => return shared.end(None, stream.summary()),
            Err(error) => return shared.end(Some(error), stream.summary()),
        }
    }
}
