//! Sending a statement, and sending it again if a connection is silent.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::time::{Instant, timeout};

use super::{Lane, Unanswered};
use crate::lock::error::StoreError;
use crate::lock::store::patience::{before_second_try, of_last_try};
use crate::lock::store::postgres::errors::{Phase, is_locked, store_error, table_is_missing};
use crate::lock::store::postgres::limits::{self, LOCK_ENDS, STATEMENT_ENDS};
use crate::lock::store::postgres::session::{Backend, Session, Statement};
use crate::lock::store::postgres::verb::Batch;
use crate::notices::Trouble;

/// How long the server's plans are kept. They are made for a table of the size that it has then, which may have had ten rows: planned
/// anew, each statement of a table of 100,000 takes a hundredth of the time.
const PLANS_LAST: Duration = Duration::from_secs(5);
/// How long a new connection may take to end the process behind the old one.
const ENDING: Duration = Duration::from_secs(1);
/// How long it is expected that what was locked is still locked.
const LOCKS_LAST: Duration = Duration::from_secs(5);

type Outcome = sqlx::Result<Vec<PgRow>>;

/// What the server said to a statement.
pub(super) struct Said {
    pub(super) outcome: Outcome,
    /// Whether an earlier try, whose answer was lost, may have been carried out.
    pub(super) tried_before: bool,
}

/// A statement that has been sent.
struct Sent {
    running: Pin<Box<dyn Future<Output = (Option<Session>, Outcome)> + Send>>,
    since: Instant,
    backend: Option<Backend>,
}

impl Lane {
    /// Sends the statement of a batch, and again over another connection if the first one is silent.
    ///
    /// # Errors
    /// The server did not answer, or can't be reached.
    pub(super) async fn try_twice(&mut self, batch: &dyn Batch, notify: bool) -> Result<Said, StoreError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.connect_anew().await?,
        };
        let until = batch.until();
        let may_replace = until.is_some() && self.replacement.is_allowed();
        let patience = match until {
            Some(until) if may_replace => self.first_patience(until),
            until => last_patience(until),
        };
        let mut first = self.send(batch, notify, session, patience);
        if let Ok((session, outcome)) = timeout(patience, &mut first.running).await {
            return self.received(session, outcome, false).await;
        }
        if !may_replace {
            return Err(self.leave(first));
        }
        let (session, answered) = self.replace(first).await.map_err(in_doubt)?;
        if let Some(outcome) = answered {
            return self.received(session, outcome, false).await;
        }
        let Some(session) = session else {
            return Err(self.no_answer());
        };
        let patience = last_patience(until);
        let mut second = self.send(batch, notify, session, patience);
        match timeout(patience, &mut second.running).await {
            Ok((session, outcome)) => self.received(session, outcome, true).await.map_err(in_doubt),
            Err(_) => Err(self.leave(second)),
        }
    }

    /// Makes a connection, and ends the process behind one that was closed without an answer.
    async fn connect_anew(&mut self) -> Result<Session, StoreError> {
        let session = self.connect().await?;
        let Some(silent) = self.silent.take() else {
            return Ok(session);
        };
        let (session, _) = timeout(ENDING, session.end(&silent))
            .await
            .unwrap_or((None, false));
        session.ok_or_else(|| StoreError {
            outcome_unknown: false,
            ..self.no_answer()
        })
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

    /// Leaves a statement that the server has not answered in time: the lane waits for it before it
    /// does anything else.
    fn leave(&mut self, sent: Sent) -> StoreError {
        let running = sent.running;
        self.unanswered = Some(Unanswered {
            work: Box::pin(async move { running.await.0 }),
            since: sent.since,
            backend: sent.backend,
        });
        self.no_answer()
    }

    /// Makes a connection in place of the one over which the first try went, and sees to it that the
    /// first try is not carried out later. If the server allows one more connection, the old one is
    /// kept until the new one is ready: the answer to the first try may still come, and is returned
    /// then.
    ///
    /// # Errors
    /// There is no connection, or the first try may yet be carried out.
    async fn replace(&mut self, mut first: Sent) -> Result<(Option<Session>, Option<Outcome>), StoreError> {
        let shared = Arc::clone(&self.shared);
        // One at a time, because the server may not have noticed yet that the old one is closed.
        let _alone = shared.replacing.lock().await;
        self.replacement.done(&shared.settings.keepalive);
        let session = if let Some(_room) = shared.room() {
            tokio::select! {
                biased;
                (session, outcome) = &mut first.running => return Ok((session, Some(outcome))),
                connected = self.connect() => {
                    drop(first.running);
                    connected
                }
            }
        } else {
            drop(first.running);
            self.connect().await
        };
        self.silent = first.backend.clone();
        self.end(session?, first.backend).await
    }

    /// Ends the process behind a connection that has been closed without an answer.
    async fn end(
        &mut self,
        session: Session,
        old: Option<Backend>,
    ) -> Result<(Option<Session>, Option<Outcome>), StoreError> {
        if self.shared.limits.by_transaction(&self.shared.settings) {
            return Ok((Some(session), None));
        }
        let (session, has_ended) = match &old {
            Some(old) => timeout(ENDING, session.end(old)).await.unwrap_or((None, false)),
            None => (Some(session), false),
        };
        if has_ended {
            self.silent = None;
            return Ok((session, None));
        }
        self.session = session;
        Err(self.no_answer())
    }

    fn send(&mut self, batch: &dyn Batch, notify: bool, session: Session, patience: Duration) -> Sent {
        let in_transaction = self.shared.limits.by_transaction(&self.shared.settings);
        let plans_last = match batch.is_look() {
            true => self.shared.work().crowd.plans_last(PLANS_LAST),
            false => PLANS_LAST,
        };
        let plan_anew = !in_transaction && self.planned_at.elapsed() > plans_last;
        if plan_anew {
            self.planned_at = Instant::now();
        }
        let statement = Statement {
            query: batch.query(notify),
            plan_anew,
            transaction: in_transaction.then(|| limits::begin(patience)),
            patience,
        };
        Sent {
            since: Instant::now(),
            backend: session.backend.clone(),
            running: Box::pin(statement.run(session)),
        }
    }

    /// Takes the server's answer to a statement.
    async fn received(
        &mut self,
        session: Option<Session>,
        outcome: Outcome,
        tried_before: bool,
    ) -> Result<Said, StoreError> {
        self.replacement.answered();
        self.shared.listener.works(Trouble::Answering);
        self.session = session;
        if outcome.as_ref().is_err_and(is_locked) {
            self.locked_at = Some(Instant::now());
        }
        if let Err(error) = &outcome
            && table_is_missing(error)
        {
            *self.shared.schema.lock().await = false;
            // Preparing a new connection creates the table again.
            self.session = None;
            let message = store_error(&self.shared.settings, Phase::Executing, error).message;
            return Err(StoreError::transient(message));
        }
        Ok(Said {
            outcome,
            tried_before,
        })
    }
}

fn in_doubt(error: StoreError) -> StoreError {
    StoreError {
        outcome_unknown: true,
        ..error
    }
}

/// How long to wait for the answer to a last try, within which the server says what is locked.
fn last_patience(until: Option<Instant>) -> Duration {
    until.map_or(STATEMENT_ENDS, |until| {
        of_last_try(until).clamp(LOCK_ENDS, STATEMENT_ENDS)
    })
}
