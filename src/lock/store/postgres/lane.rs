//! One connection and its work: takes what has been asked for, as many of a kind as there are, in one statement.

use std::collections::HashSet;
use std::mem::discriminant;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::answers::answer;
use super::errors::{Phase, connection_survives, store_error, table_is_missing};
use super::queries::{PgQuery, query};
use super::{Job, LARGEST_BATCH, Shared, schema};
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, Operation, Release, ReleaseTarget};

/// How long a statement may take before the connection is given up: one that works is done within milliseconds.
const STATEMENT_PATIENCE: Duration = Duration::from_secs(5);
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

/// A connection, if one has been made, and the right to make one.
pub(super) struct Lane {
    connection: Option<PgConnection>,
    planned_at: Instant,
    shared: Arc<Shared>,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            connection: None,
            planned_at: Instant::now(),
            shared,
        }
    }

    /// Works until nothing is left to do, and lies down with the idle ones; ends when the store is closed.
    pub(super) async fn run(mut self) {
        loop {
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
        let rows = match self.execute(&batch).await {
            Ok(rows) => rows,
            // One row that a foreign transaction keeps, or that meets with another's, must not fail the others.
            Err(error)
                if batch.len() > 1
                    && error.transient
                    && !error.outcome_unknown
                    && self.connection.is_some() =>
            {
                for job in batch {
                    let alone = vec![job];
                    match self.execute(&alone).await {
                        Ok(rows) => answer(alone, &rows, &self.shared),
                        Err(error) => fail(alone, &error),
                    }
                }
                return;
            }
            Err(error) => return fail(batch, &error),
        };
        answer(batch, &rows, &self.shared);
    }

    async fn execute(&mut self, batch: &[Job]) -> Result<Vec<PgRow>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let Some(query) = query(batch) else {
            return Ok(Vec::new());
        };
        let plan_anew = settings.statement_cache && self.planned_at.elapsed() > PLANS_LAST;
        if plan_anew {
            self.planned_at = Instant::now();
        }
        let executed = timeout(STATEMENT_PATIENCE, async {
            if plan_anew {
                connection.execute("DISCARD PLANS").await?;
            }
            execute(&mut connection, query, settings.statement_cache).await
        })
        .await;
        match executed {
            Ok(Ok(rows)) => {
                self.connection = Some(connection);
                Ok(rows)
            }
            Ok(Err(error)) => {
                let mut failure = store_error(settings, Phase::Executing, &error);
                if table_is_missing(&error) {
                    *shared.schema.lock().await = false;
                    failure = StoreError::transient(failure.message);
                } else if connection_survives(&error) && settings.statement_cache {
                    self.connection = Some(connection);
                }
                Err(failure)
            }
            Err(_) => Err(StoreError::unknown_outcome(format!(
                "{}: no answer to a statement",
                settings.describe()
            ))),
        }
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let settings = &self.shared.settings;
        let too_long =
            || StoreError::transient(format!("{}: could not connect in time", settings.describe()));
        let connecting = async {
            let mut connection = settings
                .connect
                .connect()
                .await
                .map_err(|error| store_error(settings, Phase::Connecting, &error))?;
            schema::prepare(&self.shared, &mut connection).await?;
            if settings.statement_cache {
                plan_once(&mut connection)
                    .await
                    .map_err(|error| store_error(settings, Phase::Connecting, &error))?;
            }
            Ok(connection)
        };
        timeout(settings.connect_timeout, connecting)
            .await
            .map_err(|_| too_long())?
    }
}

/// Left to itself, the server plans a release anew each time, since it takes an array for longer than ours are: that takes as
/// long as carrying it out. Before PostgreSQL 12 it can't be told so.
async fn plan_once(connection: &mut PgConnection) -> sqlx::Result<()> {
    match connection
        .execute("SET plan_cache_mode = force_generic_plan")
        .await
    {
        Err(sqlx::Error::Database(refused)) if refused.code().as_deref() == Some("42704") => Ok(()),
        outcome => outcome.map(drop),
    }
}

async fn execute(
    connection: &mut PgConnection,
    query: PgQuery<'_>,
    keep_prepared: bool,
) -> sqlx::Result<Vec<PgRow>> {
    if keep_prepared {
        return query.fetch_all(connection).await;
    }
    // A pooler keeps us on one server for a transaction; preparing and executing outside of one may reach two.
    connection.execute("BEGIN").await?;
    let rows = query.persistent(false).fetch_all(&mut *connection).await?;
    connection.execute("COMMIT").await?;
    Ok(rows)
}

fn fail(batch: Vec<Job>, error: &StoreError) {
    batch.into_iter().for_each(|job| job.fail(error));
}
