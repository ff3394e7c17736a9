//! Requests that share a statement.
//!
//! Every statement locks the rows in the order of their keys, and after them the counters of
//! fencing tokens in the order of their numbers, so that no two statements can deadlock.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::crowd::CountSessions;
use super::note::Note;
use super::observe::{Count, List, Observe};
use super::release::{Clear, NamedRelease, RowRelease, Sweep};
use super::verb::{Batch, Job, Verb};
use crate::lock::operation::{Acquire, HandOver, Operation, Release, ReleaseTarget, Renew};

/// The most rows in one statement.
const LARGEST: usize = 256;

/// Takes the oldest request and all others of its kind.
pub(super) fn take(jobs: &mut VecDeque<Job>) -> Option<Box<dyn Batch>> {
    let operation = match jobs.front()? {
        Job::Operation(operation) => operation,
        Job::CountSessions => return Some(gather::<CountSessions>(jobs)),
        Job::Note(_) => return Some(gather::<Note>(jobs)),
        Job::Alone(_) => {
            return match jobs.pop_front()? {
                Job::Alone(batch) => Some(batch),
                _ => None,
            };
        }
    };
    Some(match operation {
        Operation::Acquire(_) => gather::<Acquire>(jobs),
        Operation::Renew(_) => gather::<Renew>(jobs),
        Operation::Release(Release {
            target: ReleaseTarget::Row { .. },
            ..
        }) => gather::<RowRelease>(jobs),
        Operation::Release(_) => gather::<NamedRelease>(jobs),
        Operation::HandOver(_) => gather::<HandOver>(jobs),
        Operation::Observe { .. } => gather::<Observe>(jobs),
        Operation::List { .. } => gather::<List>(jobs),
        Operation::Count { .. } => gather::<Count>(jobs),
        Operation::Clear { .. } => gather::<Clear>(jobs),
        Operation::Sweep { .. } => gather::<Sweep>(jobs),
    })
}

fn gather<V: Verb>(jobs: &mut VecDeque<Job>) -> Box<dyn Batch> {
    let mut keys = HashSet::new();
    let mut batch = Vec::new();
    let mut rest = VecDeque::new();
    for job in jobs.drain(..) {
        if batch.len() == LARGEST || key_of(&job).is_some_and(|key| keys.contains(key)) {
            rest.push_back(job);
            continue;
        }
        match V::of(job) {
            Ok(request) => {
                keys.extend(request.alone_on().cloned());
                batch.push(request);
            }
            Err(other) => rest.push_back(other),
        }
    }
    *jobs = rest;
    Box::new(batch)
}

/// The key of a request that can't share a statement with another one for it.
fn key_of(job: &Job) -> Option<&Arc<str>> {
    match job {
        Job::Operation(Operation::Acquire(acquire)) => acquire.alone_on(),
        Job::Operation(Operation::HandOver(hand_over)) => hand_over.alone_on(),
        _ => None,
    }
}
