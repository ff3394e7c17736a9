//! The statement for what has been asked for, and its parameters.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;

use super::{Job, NOTE_LASTS, signed_hash, statements};
use crate::lock::operation::{Acquire, HandOver, Operation, Release, ReleaseTarget};

/// Tokens are drawn from so many counters, chosen by the key: enough that batches seldom meet, few enough to keep for ever.
const FENCE_BUCKETS: u64 = 4096;

pub(super) type PgQuery<'a> = Query<'a, Postgres, PgArguments>;

/// The statement for a single job, if it has one of its own.
fn query_for_one(job: &Job, notify: bool) -> Option<PgQuery<'static>> {
    match job {
        Job::Operation(Operation::Acquire(Acquire { claim, .. })) => Some(
            sqlx::query(statements::ACQUIRE_ONE)
                .bind(text(&claim.key))
                .bind(text(&claim.id))
                .bind(text(&claim.holder))
                .bind(claim.ttl.as_secs_f64())
                .bind(fence_bucket(&claim.key)),
        ),
        Job::Operation(Operation::Renew(renew)) => Some(
            sqlx::query(statements::RENEW_ONE)
                .bind(text(&renew.id))
                .bind(renew.ttl.as_secs_f64()),
        ),
        Job::Operation(Operation::Release(Release {
            target: ReleaseTarget::Row { id, key },
            ..
        })) => Some(
            sqlx::query(statements::RELEASE_ONE)
                .bind(text(id))
                .bind(signed_hash(key))
                .bind(notify),
        ),
        Job::Operation(Operation::HandOver(hand_over)) => Some(
            sqlx::query(statements::HAND_OVER_ONE)
                .bind(text(&hand_over.key))
                .bind(text(&hand_over.from))
                .bind(text(&hand_over.id))
                .bind(text(&hand_over.holder))
                .bind(hand_over.ttl.as_secs_f64())
                .bind(fence_bucket(&hand_over.key))
                .bind(hand_over.token),
        ),
        _ => None,
    }
}

fn text(value: &Arc<str>) -> String {
    value.to_string()
}

/// Whether the statement for a batch may send a notification.
pub(super) fn notifies(batch: &[Job]) -> bool {
    matches!(
        batch.first(),
        Some(Job::Operation(Operation::Release(_) | Operation::Clear { .. }))
    )
}

/// The statement for a batch, which is of one kind.
pub(super) fn query(batch: &[Job], notify: bool) -> Option<PgQuery<'static>> {
    if let [job] = batch
        && let Some(query) = query_for_one(job, notify)
    {
        return Some(query);
    }
    let operations = || {
        batch.iter().filter_map(|job| {
            if let Job::Operation(operation) = job {
                Some(operation)
            } else {
                None
            }
        })
    };
    Some(match batch.first()? {
        Job::Note(_) => {
            let hashes: Vec<i64> = batch
                .iter()
                .filter_map(|job| {
                    if let Job::Note(hash) = job {
                        Some(*hash)
                    } else {
                        None
                    }
                })
                .collect();
            sqlx::query(statements::NOTE_WAITERS)
                .bind(hashes)
                .bind(NOTE_LASTS.as_secs_f64())
        }
        Job::Operation(Operation::Acquire(_)) => {
            let claims = || {
                operations().filter_map(|operation| match operation {
                    Operation::Acquire(acquire) => Some(&acquire.claim),
                    _ => None,
                })
            };
            sqlx::query(statements::ACQUIRE)
                .bind(claims().map(|claim| text(&claim.key)).collect::<Vec<_>>())
                .bind(claims().map(|claim| text(&claim.id)).collect::<Vec<_>>())
                .bind(claims().map(|claim| text(&claim.holder)).collect::<Vec<_>>())
                .bind(claims().map(|claim| claim.ttl.as_secs_f64()).collect::<Vec<_>>())
                .bind(claims().map(|claim| fence_bucket(&claim.key)).collect::<Vec<_>>())
        }
        Job::Operation(Operation::Renew(_)) => {
            let renewals = || {
                operations().filter_map(|operation| match operation {
                    Operation::Renew(renew) => Some(renew),
                    _ => None,
                })
            };
            sqlx::query(statements::RENEW)
                .bind(renewals().map(|renew| text(&renew.id)).collect::<Vec<_>>())
                .bind(
                    renewals()
                        .map(|renew| renew.ttl.as_secs_f64())
                        .collect::<Vec<_>>(),
                )
        }
        Job::Operation(Operation::Release(first)) => {
            let targets = || {
                operations().filter_map(|operation| match operation {
                    Operation::Release(release) => Some(&release.target),
                    _ => None,
                })
            };
            let hashes: Vec<i64> = targets().map(|target| signed_hash(target.key())).collect();
            if let ReleaseTarget::Row { .. } = first.target {
                let ids = targets().filter_map(|target| match target {
                    ReleaseTarget::Row { id, .. } => Some(text(id)),
                    _ => None,
                });
                sqlx::query(statements::RELEASE_ROWS)
                    .bind(ids.collect::<Vec<_>>())
                    .bind(hashes)
                    .bind(notify)
            } else {
                let holders = targets().map(|target| match target {
                    ReleaseTarget::Holder { holder, .. } => Some(text(holder)),
                    _ => None,
                });
                sqlx::query(statements::RELEASE_NAMED)
                    .bind(targets().map(|target| text(target.key())).collect::<Vec<_>>())
                    .bind(holders.collect::<Vec<_>>())
                    .bind(hashes)
                    .bind(notify)
            }
        }
        Job::Operation(Operation::HandOver(_)) => {
            let hand_overs = || {
                operations().filter_map(|operation| match operation {
                    Operation::HandOver(hand_over) => Some(hand_over),
                    _ => None,
                })
            };
            let texts = |of: fn(&HandOver) -> &Arc<str>| {
                hand_overs()
                    .map(|hand_over| text(of(hand_over)))
                    .collect::<Vec<_>>()
            };
            let ttls = hand_overs().map(|hand_over| hand_over.ttl.as_secs_f64());
            let buckets = hand_overs().map(|hand_over| fence_bucket(&hand_over.key));
            sqlx::query(statements::HAND_OVER)
                .bind(texts(|hand_over| &hand_over.key))
                .bind(texts(|hand_over| &hand_over.from))
                .bind(texts(|hand_over| &hand_over.id))
                .bind(texts(|hand_over| &hand_over.holder))
                .bind(ttls.collect::<Vec<_>>())
                .bind(buckets.collect::<Vec<_>>())
                .bind(hand_overs().map(|hand_over| hand_over.token).collect::<Vec<_>>())
        }
        Job::Operation(Operation::Observe { .. }) => {
            let keys = operations().filter_map(|operation| match operation {
                Operation::Observe { keys, .. } => Some(keys.iter().map(text)),
                _ => None,
            });
            sqlx::query(statements::OBSERVE).bind(keys.flatten().collect::<Vec<_>>())
        }
        Job::Operation(Operation::List { .. }) => sqlx::query(statements::LIST),
        Job::Operation(Operation::Count { .. }) => sqlx::query(statements::COUNT),
        Job::Operation(Operation::Clear { .. }) => sqlx::query(statements::CLEAR).bind(notify),
        Job::Operation(Operation::Sweep { .. }) => sqlx::query(statements::SWEEP),
    })
}

#[allow(clippy::cast_possible_truncation, reason = "there are few buckets")]
fn fence_bucket(key: &str) -> i32 {
    (super::key_hash(key) % FENCE_BUCKETS) as i32
}
