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
use super::errors::{Phase, is_beyond_a_limit, store_error};
use super::limits::{self, STATEMENT_ENDS};
use super::session::{Backend, Session};
use super::verb::{Answer, Batch, Job};
use super::{Shared, schema};
use crate::lock::error::StoreError;
use crate::lock::store::patience::Replacement;
use crate::notices::Trouble;

mod tries;

use tries::Said;

/// How long requests are carried out one at a time, after the server refused the statement for
/// their batch.
const LONGEST_SINGLY: Duration = Duration::from_secs(2);
/// How long a probe may take at most, since requests may come meanwhile.
const LONGEST_PROBE: Duration = Duration::from_secs(1);

/// Work on a connection that the server has not answered in time. It resolves to the connection, if
/// the connection can still be used.
struct Unanswered {
    work: Pin<Box<dyn Future<Output = Option<Session>> + Send>>,
    since: Instant,
    backend: Option<Backend>,
}

/// A connection, if one has been made, and the right to make one.
pub(super) struct Lane {
    session: Option<Session>,
    /// The work that the server has not answered in time.
    unanswered: Option<Unanswered>,
    /// The process behind a connection that was closed without an answer.
    silent: Option<Backend>,
    replacement: Replacement,
    has_been_connected: bool,
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
            has_been_connected: false,
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

    async fn connect(&mut self) -> Result<Session, StoreError> {
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
        if std::mem::replace(&mut self.has_been_connected, true) {
            // The server may have been restarted without its data, or be another one now.
            shared.listener.connected_anew();
        }
        let backend = session.backend.clone();
        let mut preparing = Box::pin(prepare(Arc::clone(&shared), session));
        match timeout_at(until, &mut preparing).await {
            Ok(prepared) => prepared,
            Err(elapsed) => {
                self.unanswered = Some(Unanswered {
                    work: Box::pin(async move { preparing.await.ok() }),
                    since: Instant::now(),
                    backend,
                });
                Err(too_long(elapsed))
            }
        }
    }
}

/// Prepares the tables for a new connection.
async fn prepare(shared: Arc<Shared>, mut session: Session) -> Result<Session, StoreError> {
    schema::prepare(&shared, &mut session.connection).await?;
    session.answered_at = Instant::now();
    Ok(session)
}

#[cfg(test)]
mod tests;
