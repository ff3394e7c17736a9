//! The connection that does the work: all that has been asked for since it last looked goes out as one pipeline.
//!
//! If the server does not answer a first try in time, the connection may be dead: a firewall forgets
//! connections without a word. The lane then closes it and makes another one for the second try, as
//! often as [`Replacement`] allows. The new connection first ends the old one at the server, so that
//! the first try is not carried out later.

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::connection::{Connected, Failure};
use super::scripts::{Client, Scripts};
use super::values::Values;
use super::{Shared, acquire, hand_over, listing, observe, release, renew};
use crate::lock::error::StoreError;
use crate::lock::operation::Operation;
use crate::lock::store::patience::{Replacement, before_second_try, of_last_try};
use crate::notices::Trouble;

/// The most requests in one pipeline: the server does not serve others meanwhile.
const LARGEST_BATCH: usize = 256;
/// How long a new connection may take to end the old one.
const ENDING: Duration = Duration::from_secs(1);

/// Works until the store is closed and nothing is left to do.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut lane = Lane {
        shared,
        connected: None,
        replacement: Replacement::default(),
    };
    loop {
        let batch: Vec<Operation> = {
            let mut work = lane.shared.work();
            if work.operations.is_empty() && work.closed {
                return;
            }
            let size = work.operations.len().min(LARGEST_BATCH);
            work.operations.drain(..size).collect()
        };
        if batch.is_empty() {
            lane.shared.more_work.notified().await;
        } else {
            lane.carry_out(batch).await;
        }
    }
}

struct Lane {
    shared: Arc<Shared>,
    connected: Option<Connected>,
    replacement: Replacement,
}

impl Lane {
    async fn carry_out(&mut self, batch: Vec<Operation>) {
        let connected = match self.connected.take() {
            Some(connected) => connected,
            None => match Connected::new(&self.shared.settings).await {
                Ok(connected) => connected,
                Err(error) => return batch.into_iter().for_each(|operation| operation.fail(&error)),
            },
        };
        let mut sent = Vec::with_capacity(batch.len());
        for operation in batch {
            if listing::goes_over_all_keys(&operation) {
                let settings = Arc::clone(&self.shared.settings);
                let walk = listing::carry_out(connected.clone(), settings, operation);
                self.shared.runtime.spawn(walk);
            } else {
                sent.push(operation);
            }
        }
        let Some(until) = sent.iter().map(Operation::until).min() else {
            self.connected = Some(connected);
            return;
        };
        let sent_at = Instant::now();
        match self.try_twice(connected, &sent, until).await {
            Ok((connected, values, tried_before)) => {
                let mut values = Values::new(&self.shared, values, tried_before);
                for operation in sent {
                    answer(operation, &mut values);
                }
                self.connected = values.connection_survives().then_some(connected);
                self.replacement.answered();
                self.shared.listener.works(Trouble::Answering);
            }
            Err(failure) => {
                let was_silent = matches!(failure, Failure::Silence);
                let error = failure.error(&self.shared.settings);
                if was_silent {
                    let cause = format!("{} ({:.1} s)", error.message, sent_at.elapsed().as_secs_f64());
                    self.shared.listener.failed(Trouble::Answering, &cause);
                }
                sent.into_iter().for_each(|operation| operation.fail(&error));
            }
        }
    }

    /// Sends the commands of all operations, and again over another connection if the first one is
    /// silent. Returns whether the first try may have been carried out, too. On failure the
    /// connection is closed.
    async fn try_twice(
        &mut self,
        mut connected: Connected,
        operations: &[Operation],
        until: Instant,
    ) -> Result<(Connected, Vec<Value>, bool), Failure> {
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        let may_replace = self.replacement.is_allowed();
        let patience = if may_replace {
            before_second_try(until)
        } else {
            of_last_try(until)
        };
        let pipeline = commands(operations, &connected.scripts);
        match connected.send(settings, &pipeline, patience).await {
            Err(Failure::Silence) if may_replace => {}
            sent => return sent.map(|values| (connected, values, false)),
        }
        self.replacement.done(&settings.keepalive);
        let old = connected.client.take();
        drop(connected);
        let mut connected = self.replace(old).await?;
        let pipeline = commands(operations, &connected.scripts);
        let values = connected.send(settings, &pipeline, of_last_try(until)).await?;
        Ok((connected, values, true))
    }

    /// Makes a connection in place of one that has been closed without an answer. Fails if what was
    /// sent over the old one may yet be carried out.
    async fn replace(&mut self, old: Option<Client>) -> Result<Connected, Failure> {
        let settings = &self.shared.settings;
        let in_doubt = |error| {
            Failure::Error(StoreError {
                outcome_unknown: true,
                ..error
            })
        };
        let mut connected = Connected::new(settings).await.map_err(in_doubt)?;
        let has_ended = match old {
            Some(old) => connected.end(settings, &old, ENDING).await,
            None => false,
        };
        if has_ended {
            return Ok(connected);
        }
        self.connected = Some(connected);
        Err(Failure::Silence)
    }
}

/// The commands of operations about single keys; [`answer`] takes as many answers.
fn commands(operations: &[Operation], scripts: &Scripts) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(operations.len());
    for operation in operations {
        let command = match operation {
            Operation::Acquire(acquire) => acquire::command(&scripts.acquire, &acquire.claim),
            Operation::Renew(renew) => renew::command(&scripts.renew, renew),
            Operation::Release(release) => release::command(&scripts.release, &release.target),
            Operation::HandOver(hand_over) => hand_over::command(&scripts.hand_over, hand_over),
            Operation::Observe { keys, .. } => {
                observe::add(&mut pipeline, &scripts.observe, keys);
                continue;
            }
            Operation::List { .. }
            | Operation::Count { .. }
            | Operation::Clear { .. }
            | Operation::Sweep { .. } => continue,
        };
        pipeline.add_command(command);
    }
    pipeline
}

fn answer(operation: Operation, values: &mut Values<'_>) {
    match operation {
        Operation::Acquire(acquire) => acquire::answer(acquire, values),
        Operation::Renew(renew) => renew::answer(renew, values),
        Operation::Release(release) => release::answer(release, values),
        Operation::HandOver(hand_over) => hand_over::answer(hand_over, values),
        Operation::Observe { keys, reply, .. } => observe::answer(&keys, reply, values),
        Operation::List { .. }
        | Operation::Count { .. }
        | Operation::Clear { .. }
        | Operation::Sweep { .. } => {}
    }
}
