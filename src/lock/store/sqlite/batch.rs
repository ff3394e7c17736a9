//! One transaction: the requests that were gathered, and what comes of each.

use rusqlite::ErrorCode;

use super::database::{OpenDatabase, place_of};
use super::turns::Turns;
use super::{Location, WallClock, statements};
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, Attempt, HandOver, LockRow, Operation, Release, Renew, Reply, Won};

impl Operation {
    /// Answers with an error.
    pub(crate) fn fail(self, error: &StoreError) {
        fn answer<T>(reply: Reply<T>, error: &StoreError) {
            let _ = reply.send(Err(error.clone()));
        }
        match self {
            Self::Acquire(acquire) => acquire.failed(error.clone()),
            Self::Renew(Renew { reply, .. }) => answer(reply, error),
            Self::Release(Release { reply, .. }) => answer(reply, error),
            Self::HandOver(HandOver { reply, .. }) => answer(reply, error),
            Self::Observe { reply, .. } | Self::List { reply, .. } => answer(reply, error),
            Self::Count { reply, .. } | Self::Clear { reply, .. } | Self::Sweep { reply, .. } => {
                answer(reply, error);
            }
        }
    }
}

pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Whether every other request would fail in the same way now.
    pub(super) concerns_all: bool,
}

impl Failure {
    pub(super) fn of_all(error: StoreError) -> Self {
        Self {
            error,
            concerns_all: true,
        }
    }
}

/// Whether the file, or its state at the moment, caused a failure, and not one of the requests.
pub(super) fn concerns_all(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        None | Some(
            ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::TooBig
                | ErrorCode::ParameterOutOfRange
                | ErrorCode::OperationAborted
                | ErrorCode::DiskFull // a smaller request may still succeed
                | ErrorCode::Unknown
        )
    )
}

/// What came of one operation, to be told once the transaction is committed.
pub(super) enum Answer {
    Attempt(Attempt),
    /// The expiry of the existing row can't be read.
    Unreadable(StoreError),
    Renewed(Option<f64>),
    Released(bool),
    HandedOver(Option<Won>),
    Rows(Vec<LockRow>),
    Number(u64),
}

impl Answer {
    fn give(self, operation: Operation) {
        match (self, operation) {
            (Self::Attempt(Attempt::Won(won)), Operation::Acquire(acquire)) => acquire.won(won),
            (Self::Attempt(Attempt::Held(by)), Operation::Acquire(acquire)) => acquire.held(by),
            (Self::Unreadable(error), operation) => operation.fail(&error),
            (Self::Renewed(expiry), Operation::Renew(Renew { reply, .. })) => drop(reply.send(Ok(expiry))),
            (Self::Released(existed), Operation::Release(Release { reply, .. })) => {
                drop(reply.send(Ok(existed)))
            }
            (Self::HandedOver(won), Operation::HandOver(HandOver { reply, .. })) => drop(reply.send(Ok(won))),
            (Self::Rows(rows), Operation::Observe { reply, .. } | Operation::List { reply, .. }) => {
                drop(reply.send(Ok(rows)));
            }
            (
                Self::Number(number),
                Operation::Count { reply, .. }
                | Operation::Clear { reply, .. }
                | Operation::Sweep { reply, .. },
            ) => {
                drop(reply.send(Ok(number)));
            }
            (_, operation) => operation.fail(&StoreError::permanent("the lock store mixed up its answers")),
        }
    }
}

pub(super) fn give_each(batch: Vec<Operation>, answers: Vec<Answer>) {
    for (operation, answer) in batch.into_iter().zip(answers) {
        answer.give(operation);
    }
}

pub(super) fn run_batch(
    database: &mut OpenDatabase,
    turns: &mut Turns,
    batch: &[Operation],
    clock: &WallClock,
    location: &Location,
) -> rusqlite::Result<Vec<Answer>> {
    let writes = batch.iter().any(|operation| {
        !matches!(
            operation,
            Operation::Observe { .. } | Operation::List { .. } | Operation::Count { .. }
        )
    });
    let OpenDatabase { connection, seen, .. } = database;
    statements::begin(connection, writes)?;
    turns.transaction_begins();
    let now = clock();
    let mut fence = statements::Fence::default();
    let mut answers = Vec::with_capacity(batch.len());
    for operation in batch {
        answers.push(match operation {
            Operation::Acquire(Acquire { claim, .. }) if turns.yields(connection, &claim.key, now)? => {
                Answer::Attempt(Attempt::Held(None))
            }
            Operation::Acquire(Acquire { claim, .. }) => {
                match statements::acquire(connection, claim, now, &mut fence)? {
                    Ok(attempt) => Answer::Attempt(attempt),
                    Err(what) => Answer::Unreadable(
                        StoreError::unreadable_row(&claim.key, &what).at(&place_of(location)),
                    ),
                }
            }
            Operation::Renew(renew) => {
                Answer::Renewed(statements::renew(connection, &renew.id, renew.ttl, now)?)
            }
            Operation::Release(release) => {
                let existed = statements::release(connection, &release.target)?;
                if existed {
                    turns.released(release.target.key(), now);
                }
                Answer::Released(existed)
            }
            Operation::HandOver(hand_over) => {
                Answer::HandedOver(statements::hand_over(connection, hand_over, now, &mut fence)?)
            }
            Operation::Observe { keys, .. } => Answer::Rows(seen.observe(connection, keys, now)?),
            Operation::List { .. } => Answer::Rows(statements::list(connection, now)?),
            Operation::Count { .. } => Answer::Number(statements::count(connection, now)?),
            Operation::Clear { .. } => Answer::Number(statements::clear(connection)?),
            Operation::Sweep { .. } => Answer::Number(statements::sweep(connection, now)?),
        });
    }
    fence.store(connection)?;
    statements::commit(connection)?;
    Ok(answers)
}
