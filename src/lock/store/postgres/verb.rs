//! What a kind of request is: its statement, and what the answer means.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use tokio::time::Instant;

use super::Shared;
use super::errors::{Phase, store_error};
use crate::lock::error::StoreError;
use crate::lock::operation::{Operation, Reply};

pub(super) type PgQuery = Query<'static, Postgres, PgArguments>;

/// Something for a lane to do.
pub(super) enum Job {
    Operation(Operation),
    /// Note that somebody waits for the key of this hash.
    Note(i64),
    /// Count the sessions in the database.
    CountSessions,
    /// A request of a batch that failed, which is carried out alone.
    Alone(Box<dyn Batch>),
}

impl Job {
    pub(super) fn fail(self, error: &StoreError) {
        match self {
            Self::Operation(operation) => operation.fail(error),
            Self::Note(_) | Self::CountSessions => {}
            Self::Alone(batch) => batch.fail(error),
        }
    }
}

/// A kind of request: its statement, and what the statement's rows mean.
pub(super) trait Verb: Sized + Send + Sync + 'static {
    /// Whether the statement may send notifications.
    const NOTIFIES: bool = false;
    /// Whether it comes as seldom as looks do in a crowded database.
    const IS_LOOK: bool = false;

    /// This kind of request, or the job if it is another one.
    #[allow(
        clippy::result_large_err,
        reason = "the job goes back into its queue as it came"
    )]
    fn of(job: Job) -> Result<Self, Job>;

    /// Until when its asker waits. None if the statement may take long, or if nobody waits: then
    /// there is no second try.
    fn until(&self) -> Option<Instant> {
        None
    }

    /// The key for which it must be the only request in its statement.
    fn alone_on(&self) -> Option<&Arc<str>> {
        None
    }

    fn query(batch: &[Self], notify: bool) -> PgQuery;

    /// Gives each request its part of the answer.
    fn answer(batch: Vec<Self>, answer: &Answer<'_>);

    fn fail(self, error: &StoreError);

    /// What a definite refusal of this request means, if it means something in particular.
    fn refused(&self, _error: &sqlx::Error) -> Option<StoreError> {
        None
    }
}

/// Requests of one kind.
pub(super) trait Batch: Send + Sync {
    fn len(&self) -> usize;
    fn notifies(&self) -> bool;
    fn is_look(&self) -> bool;
    /// Until when the first of the askers to give up waits. None if there is no second try.
    fn until(&self) -> Option<Instant>;
    fn query(&self, notify: bool) -> PgQuery;
    fn answer(self: Box<Self>, answer: &Answer<'_>);
    fn fail(self: Box<Self>, error: &StoreError);
    fn refused(&self, error: &sqlx::Error) -> Option<StoreError>;
    /// The same requests, each alone.
    fn apart(self: Box<Self>) -> Vec<Box<dyn Batch>>;
}

impl<V: Verb> Batch for Vec<V> {
    fn len(&self) -> usize {
        self.len()
    }

    fn notifies(&self) -> bool {
        V::NOTIFIES
    }

    fn is_look(&self) -> bool {
        V::IS_LOOK
    }

    fn until(&self) -> Option<Instant> {
        self.iter().filter_map(Verb::until).min()
    }

    fn query(&self, notify: bool) -> PgQuery {
        V::query(self, notify)
    }

    fn answer(self: Box<Self>, answer: &Answer<'_>) {
        V::answer(*self, answer);
    }

    fn fail(self: Box<Self>, error: &StoreError) {
        self.into_iter().for_each(|request| request.fail(error));
    }

    fn refused(&self, error: &sqlx::Error) -> Option<StoreError> {
        match self.as_slice() {
            [request] => request.refused(error),
            _ => None,
        }
    }

    fn apart(self: Box<Self>) -> Vec<Box<dyn Batch>> {
        self.into_iter()
            .map(|request| Box::new(vec![request]) as Box<dyn Batch>)
            .collect()
    }
}

/// One parameter of all requests.
pub(super) fn column<V, T>(batch: &[V], of: impl Fn(&V) -> T) -> Vec<T> {
    batch.iter().map(of).collect()
}

pub(super) fn give<T>(reply: Reply<T>, value: Result<T, StoreError>) {
    let _ = reply.send(value);
}

/// What the server answered to a statement.
pub(super) struct Answer<'a> {
    pub(super) rows: &'a [PgRow],
    pub(super) shared: &'a Shared,
    /// Whether an earlier try, whose answer was lost, may have been carried out.
    pub(super) tried_before: bool,
}

impl<'a> Answer<'a> {
    /// The rows of a statement that numbers its requests from 1 in its first column.
    pub(super) fn numbered(&self, requests: usize) -> Numbered<'a> {
        let mut numbered = vec![None; requests];
        for row in self.rows {
            let slot = row
                .try_get::<i64, _>(0)
                .ok()
                .and_then(|position| usize::try_from(position - 1).ok())
                .and_then(|index| numbered.get_mut(index));
            if let Some(slot) = slot {
                *slot = Some(row);
            }
        }
        Numbered(numbered)
    }

    /// The number in the only column of the only row.
    pub(super) fn count(&self) -> Result<u64, StoreError> {
        self.rows
            .first()
            .map_or(Ok(0), |row| row.try_get::<i64, _>(0))
            .map(i64::unsigned_abs)
            .map_err(|error| self.unreadable(&error))
    }

    pub(super) fn unreadable(&self, error: &sqlx::Error) -> StoreError {
        store_error(&self.shared.settings, Phase::Executing, error)
    }
}

pub(super) struct Numbered<'a>(Vec<Option<&'a PgRow>>);

impl<'a> Numbered<'a> {
    pub(super) fn row(&self, index: usize) -> Option<&'a PgRow> {
        self.0.get(index).copied().flatten()
    }
}
