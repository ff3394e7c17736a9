//! One connection and its work: takes what has been asked for, as many of a kind as there are, in one statement.
//!
//! If the server does not answer a first try in time, its connection may be dead: a firewall forgets
//! connections without a word. The lane then closes the connection and makes another one for the
//! second try, as often as [`Replacement`] allows. The new connection first ends the process that
//! served the old one, so that the first try is not carried out later. Behind a pooler the first try
//! is in a transaction that nobody commits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, Executor as _};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::batch::take;
use super::errors::{Phase, is_beyond_a_limit, is_locked, store_error, table_is_missing};
use super::limits::{self, LOCK_ENDS, STATEMENT_ENDS};
use super::session::{Backend, Session, Statement};
use super::verb::{Answer, Batch, Job};
use super::{Shared, schema};
use crate::lock::error::StoreError;
use crate::lock::store::patience::{Replacement, before_second_try, of_last_try};
use crate::notices::Trouble;

/// How long requests are carried out one at a time, after the server refused the statement for
/// their batch.
const LONGEST_SINGLY: Duration = Duration::from_secs(2);
/// How long the server's plans are kept. They are made for a table of the size that it has then, which may have had ten rows: planned
/// anew, each statement of a table of 100,000 takes a hundredth of the time.
const PLANS_LAST: Duration = Duration::from_secs(5);
/// How long it is expected that what was locked is still locked.
const LOCKS_LAST: Duration = Duration::from_secs(5);
/// How long a probe may take at most, since requests may come meanwhile.
const LONGEST_PROBE: Duration = Duration::from_secs(1);
/// How long a new connection may take to end the process behind the old one.
const ENDING: Duration = Duration::from_secs(1);

/// Work on a connection that the server has not answered in time. It resolves to the connection, if
/// the connection can still be used.
struct Unanswered {
    work: Pin<Box<dyn Future<Output = Option<Session>> + Send>>,
    since: Instant,
    backend: Option<Backend>,
}

/// What the server said to a statement.
struct Said {
    outcome: sqlx::Result<Vec<PgRow>>,
    /// Whether an earlier try, whose answer was lost, may have been carried out.
    tried_before: bool,
}

/// A connection, if one has been made, and the right to make one.
pub(super) struct Lane {
    session: Option<Session>,
    /// The work that the server has not answered in time.
    unanswered: Option<Unanswered>,
    /// The process behind a connection that was closed without an answer.
    silent: Option<Backend>,
    replacement: Replacement,
    /// When the server last said that a row or the table is locked.
    locked_at: Option<Instant>,
    planned_at: Instant,
    shared: Arc<Shared>,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            session: None,
            unanswered: None,
            silent: None,
            replacement: Replacement::default(),
            locked_at: None,
            planned_at: Instant::now(),
            shared,
        }
    }

    /// Works until nothing is left to do, and lies down with the idle ones; ends when the store is closed.
    pub(super) async fn run(mut self) {
        loop {
            if let Some(unanswered) = self.unanswered.take() {
                self.wait_for(unanswered).await;
            }
            let batch = {
                let shared = Arc::clone(&self.shared);
                let mut work = shared.work();
                match take(&mut work.jobs) {
                    Some(batch) => batch,
                    None if work.closed => break,
                    None => return work.idle.push(self),
                }
            };
            self.carry_out(batch).await;
        }
        if let Some(session) = self.session.take() {
            let _ = timeout(STATEMENT_ENDS, session.connection.close()).await;
        }
    }

    /// As [`Self::run`], but begun in this thread, which writes the first statement: what wakes a worker next is the answer. It never
    /// waits.
    pub(super) fn run_from_here(self, runtime: &Handle) {
        let is_connected = self.session.is_some();
        let mut running = Box::pin(self.run());
        if is_connected {
            let _timers_and_sockets = runtime.enter();
            let nobody = &mut Context::from_waker(Waker::noop());
            if running.as_mut().poll(nobody).is_ready() {
                return;
            }
        }
        // A worker's first look tells it of anything that happened meanwhile.
        runtime.spawn(running);
    }

    /// Whether the connection has been silent for so long that it is to be probed.
    pub(super) fn is_silent_for(&self, idle: Duration) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.answered_at.elapsed() >= idle)
    }

    /// Closes the connection unless the server answers a probe, and goes on.
    pub(super) async fn probe(mut self) {
        let patience = self.shared.settings.keepalive.probing().min(LONGEST_PROBE);
        if let Some(mut session) = self.session.take() {
            if timeout(patience, session.answers()).await == Ok(true) {
                self.session = Some(session);
            } else {
                self.silent = session.backend;
            }
        }
        self.run().await;
    }

    /// Closes the connection.
    pub(super) fn vacate(&mut self) {
        self.session = None;
    }

    async fn carry_out(&mut self, batch: Box<dyn Batch>) {
        match self.execute(&*batch).await {
            Ok((rows, tried_before)) => self.answer(batch, &rows, tried_before),
            Err(error) if batch.len() == 1 || error.outcome_unknown => batch.fail(&error),
            Err(error) if error.transient && self.table_is_locked().await => batch.fail(&error),
            Err(error) if self.session.is_none() => batch.fail(&error),
            Err(_) => self.carry_out_each(batch).await,
        }
    }

    fn answer(&self, batch: Box<dyn Batch>, rows: &[PgRow], tried_before: bool) {
        batch.answer(&Answer {
            rows,
            shared: &self.shared,
            tried_before,
        });
    }

    /// Whether the table is locked, so that every single request would wait in vain.
    async fn table_is_locked(&mut self) -> bool {
        let Some(mut session) = self.session.take() else {
            return false;
        };
        let looking = async {
            let outcome = session.connection.execute(limits::LOOK).await;
            let serves = outcome.is_ok() || session.connection.execute("ROLLBACK").await.is_ok();
            (outcome.is_err(), serves.then_some(session))
        };
        let (locked, session) = timeout(STATEMENT_ENDS, looking).await.unwrap_or((true, None));
        self.session = session;
        locked
    }

    /// Carries out each request of a batch alone, because a row that the server refuses, or that a
    /// foreign transaction has locked, must not fail the requests for the other rows. After
    /// [`LONGEST_SINGLY`] the remaining requests return to the queue, without those that were
    /// answered.
    async fn carry_out_each(&mut self, batch: Box<dyn Batch>) {
        let until = Instant::now() + LONGEST_SINGLY;
        let mut rest = batch.apart().into_iter();
        for alone in rest.by_ref() {
            match self.execute(&*alone).await {
                Ok((rows, tried_before)) => self.answer(alone, &rows, tried_before),
                Err(error) => alone.fail(&error),
            }
            if Instant::now() >= until {
                break;
            }
        }
        self.shared.work().jobs.extend(rest.map(Job::Alone));
    }

    /// The rows, and whether an earlier try may have been carried out.
    async fn execute(&mut self, batch: &dyn Batch) -> Result<(Vec<PgRow>, bool), StoreError> {
        let mut said = self.try_twice(batch, true).await?;
        if let Err(error) = &said.outcome
            && batch.notifies()
            && is_beyond_a_limit(error)
        {
            // Without the notification, a waiter finds the free lock at its next poll.
            let again = self.try_twice(batch, false).await?;
            said = Said {
                tried_before: said.tried_before || again.tried_before,
                ..again
            };
        }
        match said.outcome {
            Ok(rows) => Ok((rows, said.tried_before)),
            Err(error) => Err(batch.refused(&error).unwrap_or_else(|| {
                let error = store_error(&self.shared.settings, Phase::Executing, &error);
                StoreError {
                    outcome_unknown: error.outcome_unknown || said.tried_before,
                    ..error
                }
            })),
        }
    }

    /// Sends the statement of a batch, and again over another connection if the first one is silent.
    ///
    /// # Errors
    /// The server did not answer, or can't be reached.
    async fn try_twice(&mut self, batch: &dyn Batch, notify: bool) -> Result<Said, StoreError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.connect().await?.0,
        };
        let backend = session.backend.clone();
        let (may_replace, patience) = match batch.until() {
            Some(until) if self.replacement.is_allowed() => (true, self.first_patience(until)),
            until => (false, last_patience(until)),
        };
        if let Some(outcome) = self.send(batch, notify, session, patience, may_replace).await? {
            return Ok(Said {
                outcome,
                tried_before: false,
            });
        }
        if !may_replace {
            return Err(self.no_answer());
        }
        let in_doubt = |error| StoreError {
            outcome_unknown: true,
            ..error
        };
        self.silent = backend;
        let session = self.replace().await.map_err(in_doubt)?;
        let patience = last_patience(batch.until());
        match self
            .send(batch, notify, session, patience, false)
            .await
            .map_err(in_doubt)?
        {
            Some(outcome) => Ok(Said {
                outcome,
                tried_before: true,
            }),
            None => Err(self.no_answer()),
        }
    }

    /// How long to wait for the answer to a first try. A server that has just said that the table is
    /// locked is not silent: it says so again.
    fn first_patience(&self, until: Instant) -> Duration {
        let patience = before_second_try(until);
        match self.locked_at {
            Some(locked) if locked.elapsed() < LOCKS_LAST => patience.max(LOCK_ENDS),
            _ => patience,
        }
    }

    fn no_answer(&self) -> StoreError {
        StoreError::unknown_outcome(format!(
            "{}: no answer to a statement",
            self.shared.settings.describe()
        ))
    }

    /// Makes a connection in place of one that has been closed without an answer. Fails if what was
    /// sent over the old one may yet be carried out.
    async fn replace(&mut self) -> Result<Session, StoreError> {
        let shared = Arc::clone(&self.shared);
        // One at a time, because the server may not have noticed yet that the old one is closed.
        let _alone = shared.replacing.lock().await;
        self.replacement.done(&shared.settings.keepalive);
        let (session, old_has_ended) = self.connect().await?;
        if old_has_ended || shared.limits.by_transaction(&shared.settings) {
            return Ok(session);
        }
        self.session = Some(session);
        Err(self.no_answer())
    }

    /// Carries out a statement once; None if the server did not answer in time. Then the connection
    /// is closed if it is to be replaced; otherwise the lane waits for it before it does anything
    /// else.
    async fn send(
        &mut self,
        batch: &dyn Batch,
        notify: bool,
        session: Session,
        patience: Duration,
        may_replace: bool,
    ) -> Result<Option<sqlx::Result<Vec<PgRow>>>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        let in_transaction = shared.limits.by_transaction(settings);
        let plan_anew = !in_transaction && self.planned_at.elapsed() > PLANS_LAST;
        if plan_anew {
            self.planned_at = Instant::now();
        }
        let statement = Statement {
            query: batch.query(notify),
            plan_anew,
            transaction: in_transaction.then(|| limits::begin(patience)),
            patience,
        };
        let (since, backend) = (Instant::now(), session.backend.clone());
        let mut running = Box::pin(statement.run(session));
        let Ok((session, outcome)) = timeout(patience, &mut running).await else {
            if !may_replace {
                self.unanswered = Some(Unanswered {
                    work: Box::pin(async move { running.await.0 }),
                    since,
                    backend,
                });
            }
            return Ok(None);
        };
        self.replacement.answered();
        shared.listener.works(Trouble::Answering);
        self.session = session;
        if outcome.as_ref().is_err_and(is_locked) {
            self.locked_at = Some(Instant::now());
        }
        if let Err(error) = &outcome
            && table_is_missing(error)
        {
            *shared.schema.lock().await = false;
            // Preparing a new connection creates the table again.
            self.session = None;
            let message = store_error(settings, Phase::Executing, error).message;
            return Err(StoreError::transient(message));
        }
        Ok(Some(outcome))
    }

    /// Waits for a statement whose callers have given up, because the server keeps the connection
    /// open until the statement ends: a server that does not answer must not collect connections.
    /// The connection may also be dead, so this method gives it up in the end: once the server must
    /// have ended the statement, and another connection may take its place.
    async fn wait_for(&mut self, unanswered: Unanswered) {
        let dead = unanswered.since + STATEMENT_ENDS.min(self.shared.settings.keepalive.user_timeout);
        let shared = Arc::clone(&self.shared);
        let (since, may_be_replaced) = (unanswered.since, self.replacement.next());
        let silence = async {
            sleep_until(dead).await;
            let cause = format!(
                "no answer to a statement within {:.1} s",
                since.elapsed().as_secs_f64()
            );
            shared.listener.failed(Trouble::Answering, &cause);
            sleep_until(may_be_replaced).await;
        };
        let mut closing = shared.closing.subscribe();
        tokio::select! {
            biased;
            session = unanswered.work => {
                self.replacement.answered();
                self.session = session;
            }
            _ = closing.wait_for(|closing| *closing) => {}
            () = silence => {
                self.replacement.done(&shared.settings.keepalive);
                self.silent = unanswered.backend;
            }
        }
    }

    /// A new connection, and whether the process behind the one before it has certainly ended.
    async fn connect(&mut self) -> Result<(Session, bool), StoreError> {
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        let until = Instant::now() + settings.connect_timeout;
        let failed = |error: sqlx::Error| store_error(settings, Phase::Connecting, &error);
        let too_long =
            |_| StoreError::transient(format!("{}: could not connect in time", settings.describe()));
        let session = timeout_at(until, shared.limits.connect(settings))
            .await
            .map_err(too_long)?
            .map_err(failed)?;
        let backend = session.backend.clone();
        let mut preparing = Box::pin(prepare(Arc::clone(&shared), session));
        let session = match timeout_at(until, &mut preparing).await {
            Ok(prepared) => prepared?,
            Err(elapsed) => {
                self.unanswered = Some(Unanswered {
                    work: Box::pin(async move { preparing.await.ok() }),
                    since: Instant::now(),
                    backend,
                });
                return Err(too_long(elapsed));
            }
        };
        let Some(silent) = self.silent.take() else {
            return Ok((session, false));
        };
        match timeout(ENDING, session.end(&silent)).await {
            Ok((Some(session), ended)) => Ok((session, ended)),
            Ok((None, _)) | Err(_) => Err(StoreError::transient(format!(
                "{}: no answer to a statement",
                settings.describe()
            ))),
        }
    }
}

/// How long to wait for the answer to a last try, within which the server says what is locked.
fn last_patience(until: Option<Instant>) -> Duration {
    until.map_or(STATEMENT_ENDS, |until| {
        of_last_try(until).clamp(LOCK_ENDS, STATEMENT_ENDS)
    })
}

/// Prepares the tables for a new connection.
async fn prepare(shared: Arc<Shared>, mut session: Session) -> Result<Session, StoreError> {
    schema::prepare(&shared, &mut session.connection).await?;
    session.answered_at = Instant::now();
    Ok(session)
}

#[cfg(test)]
mod tests;
