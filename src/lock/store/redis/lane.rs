//! The connection that does the work: all that has been asked for since it last looked goes out as one pipeline.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisError, Value};
use tokio::time::{Instant, timeout};

use super::errors::{Phase, connection_survives, no_answer, store_error};
use super::scripts::{Answer, MOST_OBSERVED, Scripts, Standing, milliseconds, read, read_each, seconds};
use super::{PATIENCE, RedisSettings, Shared, keys, listing};
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, HandOver, LockRow, Operation, Release, Renew, Won};
use crate::lock::store::is_a_date;
use crate::notices::Trouble;

/// The most requests in one pipeline: the server does not serve others meanwhile.
const LARGEST_BATCH: usize = 256;

/// A connection on which the scripts are known.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    pub(super) scripts: Scripts,
}

/// Works until the store is closed and nothing is left to do.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut lane = Lane {
        shared,
        connected: None,
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
}

impl Lane {
    async fn carry_out(&mut self, batch: Vec<Operation>) {
        let mut connected = match self.connect().await {
            Ok(connected) => connected,
            Err(error) => return batch.into_iter().for_each(|operation| operation.fail(&error)),
        };
        let (mut pipeline, mut sent) = (
            Pipeline::with_capacity(batch.len()),
            Vec::with_capacity(batch.len()),
        );
        for operation in batch {
            if listing::goes_over_all_keys(&operation) {
                let walk =
                    listing::carry_out(connected.clone(), Arc::clone(&self.shared.settings), operation);
                self.shared.runtime.spawn(walk);
            } else {
                add_commands(&mut pipeline, &connected.scripts, &operation);
                sent.push(operation);
            }
        }
        if sent.is_empty() {
            self.connected = Some(connected);
            return;
        }
        let sent_at = Instant::now();
        match send(&self.shared.settings, &mut connected.connection, &pipeline).await {
            Ok(values) => {
                let mut values = Values {
                    settings: &self.shared.settings,
                    values: values.into_iter(),
                    connection_survives: true,
                };
                for operation in sent {
                    values.answer(operation);
                }
                self.connected = values.connection_survives.then_some(connected);
                self.shared.listener.works(Trouble::Answering);
            }
            Err(error) => {
                // Its connection is dropped here, and the next request makes another.
                if sent_at.elapsed() >= PATIENCE {
                    self.shared.listener.failed(Trouble::Answering, &error.message);
                }
                sent.into_iter().for_each(|operation| operation.fail(&error));
            }
        }
    }

    async fn connect(&mut self) -> Result<Connected, StoreError> {
        if let Some(connected) = self.connected.take() {
            return Ok(connected);
        }
        let settings = &self.shared.settings;
        // The pauses and limits are ours.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connecting = async {
            let mut connection = settings
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            let scripts = Scripts::load(&mut connection).await?;
            Ok(Connected { connection, scripts })
        };
        match timeout(settings.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| store_error(settings, Phase::Connecting, &error)),
            Err(_) => Err(no_answer(settings, Phase::Connecting)),
        }
    }
}

/// Sends a pipeline; an answer for each command, an error of the server's among them perhaps.
pub(super) async fn send(
    settings: &RedisSettings,
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Vec<Value>, StoreError> {
    match timeout(
        PATIENCE,
        connection.send_packed_commands(pipeline, 0, pipeline.len()),
    )
    .await
    {
        Ok(Ok(values)) => Ok(values),
        Ok(Err(error)) => Err(store_error(settings, Phase::Executing, &error)),
        Err(_) => Err(no_answer(settings, Phase::Executing)),
    }
}

/// Adds an operation's commands; [`Values::answer`] takes as many answers.
fn add_commands(pipeline: &mut Pipeline, scripts: &Scripts, operation: &Operation) {
    match operation {
        Operation::Acquire(acquire) => drop(pipeline.add_command(scripts.acquire(&acquire.claim))),
        Operation::Renew(renew) => drop(pipeline.add_command(scripts.renew(renew))),
        Operation::Release(release) => drop(pipeline.add_command(scripts.release(&release.target))),
        Operation::HandOver(hand_over) => drop(pipeline.add_command(scripts.hand_over(hand_over))),
        // Whoever looks at nothing wants to know whether the server answers.
        Operation::Observe { keys, .. } if keys.is_empty() => drop(pipeline.cmd("PING")),
        Operation::Observe { keys, .. } => {
            for keys in keys.chunks(MOST_OBSERVED) {
                pipeline.add_command(scripts.observe(keys));
            }
        }
        Operation::List { .. }
        | Operation::Count { .. }
        | Operation::Clear { .. }
        | Operation::Sweep { .. } => {}
    }
}

/// The answers to a pipeline that are still to be given to whoever asked.
struct Values<'a> {
    settings: &'a RedisSettings,
    values: std::vec::IntoIter<Value>,
    connection_survives: bool,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value, StoreError> {
        match self.values.next() {
            Some(Value::ServerError(error)) => {
                let error = RedisError::from(error);
                self.connection_survives &= connection_survives(&error);
                Err(store_error(self.settings, Phase::Executing, &error))
            }
            Some(value) => Ok(value),
            None => Err(StoreError::unknown_outcome(format!(
                "{}: an answer is missing",
                self.settings.place
            ))),
        }
    }

    fn next_answer(&mut self) -> Result<Answer, StoreError> {
        let value = self.next()?;
        read(&value).ok_or_else(|| not_understood(self.settings))
    }

    fn answer(&mut self, operation: Operation) {
        match operation {
            Operation::Acquire(acquire) => {
                let answer = self.next_answer();
                answer_acquire(acquire, answer, self.settings);
            }
            Operation::Renew(Renew { ttl, reply, .. }) => {
                let renewed = self.next_answer().map(|answer| match answer {
                    Answer::Number(now) => Some(seconds(now) + whole_seconds(ttl)),
                    _ => None,
                });
                let _ = reply.send(renewed);
            }
            Operation::Release(Release { reply, .. }) => {
                let released = self
                    .next_answer()
                    .map(|answer| matches!(answer, Answer::Number(_)));
                let _ = reply.send(released);
            }
            Operation::HandOver(HandOver {
                ttl, token, reply, ..
            }) => {
                let won = self.next_answer().map(|answer| match answer {
                    Answer::Number(now) => Some(Won {
                        token,
                        acquired_at: seconds(now),
                        expires_at: seconds(now) + whole_seconds(ttl),
                    }),
                    _ => None,
                });
                let _ = reply.send(won);
            }
            Operation::Observe { keys, reply, .. } if keys.is_empty() => {
                let _ = reply.send(self.next().map(|_| Vec::new()));
            }
            Operation::Observe { keys, reply, .. } => {
                // Every answer is taken, also after one that is an error.
                let answers: Vec<Result<Vec<LockRow>, StoreError>> = keys
                    .chunks(MOST_OBSERVED)
                    .map(|keys| rows(keys, &self.next()?).ok_or_else(|| not_understood(self.settings)))
                    .collect();
                let answers: Result<Vec<Vec<LockRow>>, StoreError> = answers.into_iter().collect();
                let _ = reply.send(answers.map(|rows| rows.into_iter().flatten().collect()));
            }
            Operation::List { .. }
            | Operation::Count { .. }
            | Operation::Clear { .. }
            | Operation::Sweep { .. } => {}
        }
    }
}

pub(super) fn not_understood(settings: &RedisSettings) -> StoreError {
    StoreError::unknown_outcome(format!(
        "{}: the server's answer is not understood",
        settings.place
    ))
}

fn answer_acquire(acquire: Acquire, answer: Result<Answer, StoreError>, settings: &RedisSettings) {
    match answer {
        Ok(Answer::Taken(token, now)) => {
            let expires_at = now + whole_seconds(acquire.claim.ttl);
            acquire.won(Won {
                token,
                acquired_at: now,
                expires_at,
            });
        }
        Ok(Answer::Held(Standing { holder: None, .. })) => {
            let key = keys::lock(&acquire.claim.key);
            let what = format!("the value of {key} is not a string");
            acquire.failed(StoreError::unreadable_row(&key, &what).at(&settings.place));
        }
        Ok(answer @ Answer::Held(_)) => {
            let by = row(Arc::clone(&acquire.claim.key), answer);
            acquire.held(by);
        }
        Ok(_) => acquire.failed(not_understood(settings)),
        Err(error) => acquire.failed(error),
    }
}

#[allow(clippy::cast_precision_loss, reason = "no time to live is so long")]
fn whole_seconds(ttl: std::time::Duration) -> f64 {
    milliseconds(ttl) as f64 / 1e3
}

/// The locks that were found under these keys; None if the answer is not understood.
pub(super) fn rows(keys: &[Arc<str>], answer: &Value) -> Option<Vec<LockRow>> {
    let answers = read_each(answer, keys.len())?;
    let found = keys.iter().zip(answers);
    Some(
        found
            .filter_map(|(key, answer)| row(Arc::clone(key), answer))
            .collect(),
    )
}

/// A lock as a script found it. For one of the original's, when it was taken is not known: it is as if taken now, and the
/// holder's name has to serve as its id.
fn row(key: Arc<str>, answer: Answer) -> Option<LockRow> {
    let Answer::Held(Standing {
        now,
        holder,
        id,
        since,
        left,
    }) = answer
    else {
        return None;
    };
    let expires_in = if left < 0.0 { f64::INFINITY } else { left / 1e6 };
    let is_ours = !id.is_empty();
    let holder = holder.unwrap_or_default();
    Some(LockRow {
        key,
        id: if is_ours { id } else { format!("holder {holder}") },
        holder,
        acquired_at: if is_ours && since > 0.0 && is_a_date(since) {
            since
        } else {
            now
        },
        expires_at: now + expires_in,
        expires_in,
    })
}
