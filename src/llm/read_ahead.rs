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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::chunks::Summary;
use super::error::Error;
use super::items::{Batch, Shape};
use super::stream::ChatStream;

/// How many bytes of events may wait to be taken, give or take a part.
const BYTES_AHEAD: usize = 256 * 1024;

/// The grace period: how long an interrupted iteration may be continued before the request is
/// closed.
pub const GRACE: Duration = Duration::from_secs(1);

/// A stream that is opened when it is first asked for something. Dropping it closes the request.
pub struct ReadAhead {
    reading: Mutex<Reading>,
    arrivals: Arc<Arrivals>,
}

type Opening = Pin<Box<dyn Future<Output = Result<ChatStream, Error>> + Send>>;

enum Reading {
    NotYet(Option<Opening>),
    Task(#[expect(dead_code, reason = "held for its Drop")] AbortOnDrop),
    Abandoned,
    Closed,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What has been read and not been taken: where the task and whoever asks meet.
#[derive(Default)]
struct Arrivals {
    waiting: Mutex<Waiting>,
    /// Tells whoever asks that something has come, or that nothing will.
    came: Notify,
    /// Tells the task that something was taken.
    taken: Notify,
}

#[derive(Default)]
struct Waiting {
    batch: Option<Batch>,
    /// Whether nothing more will come.
    over: bool,
    /// Why, to be told after the batch, once.
    failure: Option<Error>,
    /// What is known of the stream by all that has come.
    latest: Arc<Summary>,
    /// What is known of it by what has been taken.
    summary: Arc<Summary>,
    /// The number of loops over the stream that exist now.
    loops: usize,
    /// The number of calls that wait for a batch now.
    waits: usize,
    /// The number of loops and waits that have ever begun. It detects that an iteration was
    /// continued during the grace period.
    visits: u64,
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.batch
            .as_ref()
            .is_some_and(|batch| batch.bytes >= BYTES_AHEAD)
    }
}

impl Arrivals {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) -> Wait<'_> {
        let mut waiting = self.waiting();
        waiting.waits += 1;
        waiting.visits += 1;
        Wait(self)
    }

    /// Waits until more may come.
    async fn room(&self) {
        while self.waiting().is_full() {
            self.taken.notified().await;
        }
    }

    fn put(&self, batch: Batch, summary: &Arc<Summary>) {
        {
            let mut waiting = self.waiting();
            if waiting.over {
                return; // closed
            }
            waiting.latest.clone_from(summary);
            match &mut waiting.batch {
                None => waiting.batch = Some(batch),
                Some(earlier) => earlier.append(batch),
            }
        }
        self.came.notify_one();
    }

    /// Nothing comes any more. The first end counts.
    fn end(&self, failure: Option<Error>, summary: &Arc<Summary>) {
        {
            let mut waiting = self.waiting();
            if waiting.over {
                return;
            }
            waiting.over = true;
            waiting.failure = failure;
            waiting.latest.clone_from(summary);
        }
        self.came.notify_waiters();
    }

    /// Nothing is taken any more.
    fn close(&self) {
        {
            let mut waiting = self.waiting();
            waiting.over = true;
            waiting.batch = None;
            waiting.failure = None;
        }
        self.came.notify_waiters();
    }

    /// All that has come, or the end; `None` if there is neither yet.
    fn take(&self) -> Option<Result<Option<Batch>, Error>> {
        let mut waiting = self.waiting();
        let was_full = waiting.is_full();
        let batch = waiting.batch.take();
        if batch.is_none() && !waiting.over {
            return None;
        }
        waiting.summary = waiting.latest.clone();
        let failure = if batch.is_none() {
            waiting.failure.take()
        } else {
            None
        };
        drop(waiting);
        if was_full {
            self.taken.notify_one();
        }
        Some(failure.map_or(Ok(batch), Err))
    }
}

/// A loop over a stream. Dropping the value ends the loop.
pub struct Loop(Arc<ReadAhead>);

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.arrivals.waiting().loops -= 1;
    }
}

impl Loop {
    /// Ends a loop that an exception left, and returns the future that closes the request after the
    /// grace period. See [`ReadAhead::wait_was_given_up`].
    #[must_use]
    pub fn leave(self) -> Option<Closing> {
        let stream = self.0.clone();
        drop(self);
        stream.close_unless_taken_up(0)
    }
}

/// A future that closes the request of a stream at the end of the grace period, unless the
/// iteration was continued. The caller has to run it. It does not keep the stream alive.
pub type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Counts one wait for a batch; dropping the value ends the wait.
struct Wait<'stream>(&'stream Arrivals);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.waiting().waits -= 1;
    }
}

/// The task's side. A task that is aborted, or panics, has come to its end, too.
struct Writing(Arc<Arrivals>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.end(Some(Error::Closed("the stream")), &Arc::default());
    }
}

impl ReadAhead {
    /// A stream that `opening` opens.
    pub fn new(opening: impl Future<Output = Result<ChatStream, Error>> + Send + 'static) -> Self {
        Self {
            reading: Mutex::new(Reading::NotYet(Some(Box::pin(opening)))),
            arrivals: Arc::default(),
        }
    }

    /// Whether the request has been made, or never will be.
    pub fn is_started(&self) -> bool {
        !matches!(*self.reading(), Reading::NotYet(_))
    }

    /// Makes the request, unless that was done. Needs an ambient tokio runtime.
    pub fn start(&self, shape: Shape) {
        let mut reading = self.reading();
        if let Reading::NotYet(prepared) = &mut *reading
            && let Some(opening) = prepared.take()
        {
            let task = tokio::spawn(read(opening, shape, Writing(self.arrivals.clone())));
            *reading = Reading::Task(AbortOnDrop(task));
        }
    }

    /// What has come since the last time, at least one item, or `None` after the last. The stream has to be [started](Self::start).
    ///
    /// # Errors
    /// As [`ChatStream::next_batch`]; once. After it the stream is over.
    pub async fn next(&self) -> Result<Option<Batch>, Error> {
        let _wait = self.arrivals.wait();
        loop {
            let came = self.arrivals.came.notified(); // before the look, so that no end is missed
            if let Some(next) = self.arrivals.take() {
                return next;
            }
            came.await;
        }
    }

    /// Returns an undelivered batch or error to the stream, so that the next call of [`Self::next`]
    /// yields it.
    pub fn give_back(&self, next: Result<Option<Batch>, Error>) {
        {
            let mut waiting = self.arrivals.waiting();
            if self.is_closed() {
                return;
            }
            match next {
                Ok(None) => return, // every later call of `next` yields the end again
                Ok(Some(mut batch)) => {
                    if let Some(later) = waiting.batch.take() {
                        batch.append(later);
                    }
                    waiting.batch = Some(batch);
                }
                Err(failure) => waiting.failure = Some(failure),
            }
        }
        self.arrivals.came.notify_one();
    }

    /// Begins a loop over the stream.
    pub fn iterate(self: &Arc<Self>) -> Loop {
        let mut waiting = self.arrivals.waiting();
        waiting.loops += 1;
        waiting.visits += 1;
        drop(waiting);
        Loop(self.clone())
    }

    /// Reports that a wait was cut short: a single wait, or the wait of the only loop, which a
    /// traceback may still keep alive.
    #[must_use]
    pub fn wait_was_given_up(self: &Arc<Self>) -> Option<Closing> {
        self.close_unless_taken_up(1)
    }

    /// Returns the future that closes the request after the grace period. Returns `None` if the
    /// stream has ended, or if there are more loops than `loops`: another loop continues then.
    fn close_unless_taken_up(self: &Arc<Self>, loops: usize) -> Option<Closing> {
        let waiting = self.arrivals.waiting();
        let visits = waiting.visits;
        if waiting.over || waiting.loops > loops {
            return None;
        }
        drop(waiting);
        let stream = Arc::downgrade(self);
        Some(Box::pin(async move {
            tokio::time::sleep(GRACE).await;
            if let Some(stream) = Weak::upgrade(&stream) {
                stream.abandon(visits);
            }
        }))
    }

    /// Closes the request if no call waits, and if no loop or wait has begun since `visits` was
    /// read.
    fn abandon(&self, visits: u64) {
        if !self.is_started() {
            return;
        }
        {
            let mut waiting = self.arrivals.waiting();
            if waiting.over || waiting.waits > 0 || waiting.visits != visits {
                return;
            }
            waiting.over = true;
            waiting.failure = Some(Error::Abandoned(GRACE));
        }
        let mut reading = self.reading();
        if let Reading::Task(_) = *reading {
            *reading = Reading::Abandoned;
        }
    }

    /// Closes the request. Whoever waits for a batch gets none.
    pub fn close(&self) {
        *self.reading() = Reading::Closed;
        self.arrivals.close();
    }

    /// What is known of the stream, by what has been taken of it.
    pub fn summary(&self) -> Arc<Summary> {
        self.arrivals.waiting().summary.clone()
    }

    fn is_closed(&self) -> bool {
        matches!(*self.reading(), Reading::Closed)
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the task does.
async fn read(opening: Opening, shape: Shape, writing: Writing) {
    let arrivals = &writing.0;
    let mut stream = match opening.await {
        Ok(stream) => stream,
        Err(error) => return arrivals.end(Some(error), &Arc::default()),
    };
    loop {
        arrivals.room().await;
        match stream.next_batch(shape).await {
            Ok(Some(batch)) => arrivals.put(batch, stream.summary()),
            Ok(None) => return arrivals.end(None, stream.summary()),
            Err(error) => return arrivals.end(Some(error), stream.summary()),
        }
    }
}
