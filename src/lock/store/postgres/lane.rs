//! One connection and its work: takes what has been asked for, as many of a kind as there are, in one statement.

use std::collections::HashSet;
use std::mem::discriminant;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::answers::answer;
use super::errors::{Phase, connection_survives, is_beyond_a_limit, store_error, table_is_missing};
use super::queries::{PgQuery, notifies, query};
use super::{Job, LARGEST_BATCH, MOST_GIVEN_UP, Shared, limits, schema};
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, Operation, Release, ReleaseTarget};
use crate::notices::Trouble;

/// How long a statement may take before the connection is given up: one that works is done within milliseconds.
const STATEMENT_PATIENCE: Duration = Duration::from_secs(5);
/// How long requests are carried out one at a time, after the server refused the statement for
/// their batch.
const LONGEST_SINGLY: Duration = Duration::from_secs(2);
/// How long the server's plans are kept. They are made for a table of the size that it has then, which may have had ten rows: planned
/// anew, each statement of a table of 100,000 takes a hundredth of the time.
const PLANS_LAST: Duration = Duration::from_secs(5);

/// Takes the oldest job and all others of its kind. Two requests for one key never share a statement.
fn take_batch(jobs: &mut std::collections::VecDeque<Job>) -> Vec<Job> {
    let Some(first) = jobs.front().map(kind) else {
        return Vec::new();
    };
    let mut keys = HashSet::new();
    let mut batch = Vec::new();
    let mut rest = std::collections::VecDeque::with_capacity(jobs.len());
    for job in jobs.drain(..) {
        let fits = batch.len() < LARGEST_BATCH
            && kind(&job) == first
            && match &job {
                Job::Operation(Operation::Acquire(Acquire { claim, .. })) => {
                    keys.insert(Arc::clone(&claim.key))
                }
                Job::Operation(Operation::HandOver(hand_over)) => keys.insert(Arc::clone(&hand_over.key)),
                _ => true,
            };
        if fits {
            batch.push(job)
        } else {
            rest.push_back(job)
        }
    }
    *jobs = rest;
    batch
}

#[derive(PartialEq)]
enum Kind {
    Operation(std::mem::Discriminant<Operation>, bool),
    Note,
}

fn kind(job: &Job) -> Kind {
    match job {
        Job::Note(_) => Kind::Note,
        Job::Operation(operation) => {
            let by_row = matches!(
                operation,
                Operation::Release(Release {
                    target: ReleaseTarget::Row { .. },
                    ..
                })
            );
            Kind::Operation(discriminant(operation), by_row)
        }
    }
}

/// Work on a connection that the server has not answered in time. It resolves to the connection, if
/// the connection can still be used.
type Unanswered = Pin<Box<dyn Future<Output = Option<PgConnection>> + Send>>;

/// A connection, if one has been made, and the right to make one.
pub(super) struct Lane {
    connection: Option<PgConnection>,
    /// The work that the server has not answered in time.
    unanswered: Option<Unanswered>,
    /// The number of connections given up since the last answer of the server.
    given_up: u32,
    planned_at: Instant,
    shared: Arc<Shared>,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            connection: None,
            unanswered: None,
            given_up: 0,
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
                if !work.jobs.is_empty() {
                    take_batch(&mut work.jobs)
                } else if work.closed {
                    break;
                } else {
                    return work.idle.push(self);
                }
            };
            self.carry_out(batch).await;
        }
        if let Some(connection) = self.connection.take() {
            let _ = timeout(STATEMENT_PATIENCE, connection.close()).await;
        }
    }

    /// As [`Self::run`], but begun in this thread, which writes the first statement: what wakes a worker next is the answer. It never
    /// waits.
    pub(super) fn run_from_here(self, runtime: &Handle) {
        let is_connected = self.connection.is_some();
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

    async fn carry_out(&mut self, batch: Vec<Job>) {
        match self.execute(&batch).await {
            Ok(rows) => answer(batch, &rows, &self.shared),
            Err(error) if batch.len() == 1 || error.outcome_unknown => fail(batch, &error),
            Err(error) if error.transient && self.table_is_locked().await => fail(batch, &error),
            Err(error) if self.connection.is_none() => fail(batch, &error),
            Err(_) => self.carry_out_each(batch).await,
        }
    }

    /// Whether the table is locked, so that every single request would wait in vain.
    async fn table_is_locked(&mut self) -> bool {
        let Some(mut connection) = self.connection.take() else {
            return false;
        };
        let looking = async {
            let outcome = connection.execute(limits::LOOK).await;
            let serves = outcome.is_ok() || connection.execute("ROLLBACK").await.is_ok();
            (outcome.is_err(), serves)
        };
        let (locked, serves) = timeout(STATEMENT_PATIENCE, looking)
            .await
            .unwrap_or((true, false));
        self.connection = serves.then_some(connection);
        locked
    }

    /// Carries out each request of a batch alone, because a row that the server refuses, or that a
    /// foreign transaction has locked, must not fail the requests for the other rows. After
    /// [`LONGEST_SINGLY`] the remaining requests return to the queue, without those that were
    /// answered.
    async fn carry_out_each(&mut self, batch: Vec<Job>) {
        let until = Instant::now() + LONGEST_SINGLY;
        let mut rest = batch.into_iter();
        for job in rest.by_ref() {
            let alone = vec![job];
            match self.execute(&alone).await {
                Ok(rows) => answer(alone, &rows, &self.shared),
                Err(error) => fail(alone, &error),
            }
            if Instant::now() >= until {
                break;
            }
        }
        self.shared.work().jobs.extend(rest);
    }

    async fn execute(&mut self, batch: &[Job]) -> Result<Vec<PgRow>, StoreError> {
        match self.execute_once(batch, true).await? {
            // Without the notification, a waiter finds the free lock at its next poll.
            Err(error) if notifies(batch) && is_beyond_a_limit(&error) => {
                self.execute_once(batch, false).await?
            }
            outcome => outcome,
        }
        .map_err(|error| match batch {
            [Job::Operation(Operation::Acquire(Acquire { claim, .. }))] if is_beyond_a_limit(&error) => {
                StoreError::overlong_key(&claim.key)
            }
            _ => store_error(&self.shared.settings, Phase::Executing, &error),
        })
    }

    /// Carries out a batch once. The outer error means that the server did not answer; the inner
    /// result is the answer of the server.
    async fn execute_once(
        &mut self,
        batch: &[Job],
        notify: bool,
    ) -> Result<sqlx::Result<Vec<PgRow>>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let Some(query) = query(batch, notify) else {
            return Ok(Ok(Vec::new()));
        };
        let plan_anew = settings.statement_cache && self.planned_at.elapsed() > PLANS_LAST;
        if plan_anew {
            self.planned_at = Instant::now();
        }
        let statement = Statement {
            query,
            plan_anew,
            prepared: settings.statement_cache,
            in_transaction: shared.limits.by_transaction(settings),
        };
        let mut running = Box::pin(statement.run(connection));
        let Ok((connection, outcome)) = timeout(STATEMENT_PATIENCE, &mut running).await else {
            self.unanswered = Some(Box::pin(async move { running.await.0 }));
            return Err(StoreError::unknown_outcome(format!(
                "{}: no answer to a statement",
                settings.describe()
            )));
        };
        self.given_up = 0;
        self.shared.listener.works(Trouble::Answering);
        self.connection = connection;
        if let Err(error) = &outcome
            && table_is_missing(error)
        {
            *shared.schema.lock().await = false;
            // Preparing a new connection creates the table again.
            self.connection = None;
            let message = store_error(settings, Phase::Executing, error).message;
            return Err(StoreError::transient(message));
        }
        Ok(outcome)
    }

    /// Waits for a statement whose callers have given up, because the server keeps the connection
    /// open until the statement ends: a server that does not answer must not collect connections.
    /// The connection may also be dead, so this method gives it up in the end. It gives up the
    /// first connection at once, and each further one after a longer wait, until the server
    /// answers.
    async fn wait_for(&mut self, unanswered: Unanswered) {
        let patience = STATEMENT_PATIENCE * (4_u32.pow(self.given_up) - 1);
        let mut closing = self.shared.closing.subscribe();
        tokio::select! {
            biased;
            connection = unanswered => {
                self.given_up = 0;
                self.connection = connection;
            }
            _ = closing.wait_for(|closing| *closing) => {}
            () = sleep(patience) => {
                self.given_up = (self.given_up + 1).min(MOST_GIVEN_UP);
                let cause = format!("no answer to a statement within {} s", STATEMENT_PATIENCE.as_secs());
                self.shared.listener.failed(Trouble::Answering, &cause);
            }
        }
    }

    async fn connect(&mut self) -> Result<PgConnection, StoreError> {
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        let until = Instant::now() + settings.connect_timeout;
        let failed = |error: sqlx::Error| store_error(settings, Phase::Connecting, &error);
        let too_long =
            |_| StoreError::transient(format!("{}: could not connect in time", settings.describe()));
        let connection = timeout_at(until, shared.limits.connect(settings))
            .await
            .map_err(too_long)?
            .map_err(failed)?;
        let mut preparing = Box::pin(prepare(Arc::clone(&shared), connection));
        match timeout_at(until, &mut preparing).await {
            Ok(prepared) => prepared,
            Err(elapsed) => {
                self.unanswered = Some(Box::pin(async move { preparing.await.ok() }));
                Err(too_long(elapsed))
            }
        }
    }
}

/// Prepares the tables and the session of a new connection.
async fn prepare(shared: Arc<Shared>, mut connection: PgConnection) -> Result<PgConnection, StoreError> {
    schema::prepare(&shared, &mut connection).await?;
    if shared.settings.statement_cache {
        let failed = |error: sqlx::Error| store_error(&shared.settings, Phase::Connecting, &error);
        shared.limits.set_up(&mut connection).await.map_err(failed)?;
    }
    Ok(connection)
}

/// A statement, and the way to send it.
struct Statement {
    query: PgQuery<'static>,
    plan_anew: bool,
    prepared: bool,
    in_transaction: bool,
}

impl Statement {
    /// Returns the answer of the server, and the connection if it can still be used.
    async fn run(self, mut connection: PgConnection) -> (Option<PgConnection>, sqlx::Result<Vec<PgRow>>) {
        let in_transaction = self.in_transaction;
        let outcome = self.send(&mut connection).await;
        let serves = match &outcome {
            Ok(_) => true,
            Err(error) if !connection_survives(error) => false,
            Err(_) => !in_transaction || connection.execute("ROLLBACK").await.is_ok(),
        };
        (serves.then_some(connection), outcome)
    }

    async fn send(self, connection: &mut PgConnection) -> sqlx::Result<Vec<PgRow>> {
        if self.plan_anew {
            connection.execute("DISCARD PLANS").await?;
        }
        let query = self.query.persistent(self.prepared);
        if !self.in_transaction {
            return query.fetch_all(connection).await;
        }
        // A pooler keeps one server connection for a whole transaction. Outside a transaction, the
        // messages that prepare and execute a statement may reach two different server connections.
        let begun = Instant::now();
        connection.execute(limits::BEGIN).await?;
        // The callers have given up, so the statement must not be carried out late.
        if begun.elapsed() >= STATEMENT_PATIENCE {
            return Err(sqlx::Error::PoolTimedOut);
        }
        let rows = query.fetch_all(&mut *connection).await?;
        connection.execute("COMMIT").await?;
        Ok(rows)
    }
}

fn fail(batch: Vec<Job>, error: &StoreError) {
    batch.into_iter().for_each(|job| job.fail(error));
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::watch;

    use super::*;
    use crate::lock::store::Listener;
    use crate::lock::{Database, Options};

    struct Nobody;

    impl Listener for Nobody {
        fn changed(&self, _: u64) {}

        fn anything_changed(&self) {}
    }

    fn lane() -> Lane {
        let url = "postgresql://user@127.0.0.1:1/database";
        let Database::Postgres(settings) = Database::parse(url, &Options::default()).unwrap() else {
            panic!("{url} names a PostgreSQL server");
        };
        Lane::new(Arc::new(Shared {
            settings,
            listener: Arc::new(Nobody),
            work: std::sync::Mutex::default(),
            schema: tokio::sync::Mutex::new(true),
            limits: limits::Limits::default(),
            closing: watch::channel(false).0,
            runtime: Handle::current(),
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_gets_ever_fewer_connections() {
        let mut lane = lane();
        let begun = Instant::now();
        let mut given_up = 0;
        while begun.elapsed() < Duration::from_secs(3600) {
            sleep(STATEMENT_PATIENCE).await; // the time that the callers wait
            lane.wait_for(Box::pin(pending())).await;
            given_up += 1;
            if given_up == 1 {
                // A single silent connection may be dead, so it is given up without a further wait.
                assert_eq!(begun.elapsed(), STATEMENT_PATIENCE);
            }
        }
        assert!(given_up <= 6, "{given_up}");
        lane.wait_for(Box::pin(async { None })).await;
        assert_eq!(lane.given_up, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_closed_waits_for_nothing() {
        let mut lane = lane();
        lane.given_up = 5;
        lane.shared.closing.send_replace(true);
        let begun = Instant::now();
        lane.wait_for(Box::pin(pending())).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
