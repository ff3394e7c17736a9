//! What goes over all locks. Redis can only be walked through, key by key, the application's own among them: that takes its
//! time, so it goes on beside the other work, on the same connection.

use std::collections::HashSet;
use std::sync::Arc;

use redis::{Cmd, Pipeline, Value};

use super::RedisSettings;
use super::errors::{Phase, store_error};
use super::keys;
use super::lane::{self, Connected, not_understood, send};
use super::scripts::{Answer, MOST_OBSERVED, read};
use crate::lock::error::StoreError;
use crate::lock::operation::{LockRow, Operation, ReleaseTarget};

/// So many keys are asked for, or asked about, at once.
const STEP: usize = 1000;

pub(super) fn goes_over_all_keys(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::List { .. } | Operation::Count { .. } | Operation::Clear { .. } | Operation::Sweep { .. }
    )
}

/// Carries out such an operation.
pub(super) async fn carry_out(connected: Connected, settings: Arc<RedisSettings>, operation: Operation) {
    let mut walk = Walk { connected, settings };
    match operation {
        Operation::List { reply, .. } => drop(reply.send(walk.list().await)),
        Operation::Count { reply, .. } => {
            drop(reply.send(walk.all_locks().await.map(|locks| locks.len() as u64)))
        }
        Operation::Clear { reply, .. } => drop(reply.send(walk.clear().await)),
        // Redis deletes expired keys itself.
        Operation::Sweep { reply, .. } => drop(reply.send(Ok(0))),
        other => other.fail(&StoreError::permanent("this operation is about single keys")),
    }
}

struct Walk {
    connected: Connected,
    settings: Arc<RedisSettings>,
}

impl Walk {
    async fn list(&mut self) -> Result<Vec<LockRow>, StoreError> {
        let locks = self.all_locks().await?;
        let scripts = self.connected.scripts.clone();
        let mut rows = Vec::new();
        for some in locks.chunks(MOST_OBSERVED) {
            let mut pipeline = Pipeline::with_capacity(1);
            pipeline.add_command(scripts.observe(some));
            let values = self.send(&pipeline).await?;
            let found = values.first().and_then(|value| lane::rows(some, value));
            rows.extend(found.ok_or_else(|| not_understood(&self.settings))?);
        }
        rows.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(rows)
    }

    async fn clear(&mut self) -> Result<u64, StoreError> {
        let locks = self.all_locks().await?;
        let scripts = self.connected.scripts.clone();
        let delete = |key: &Arc<str>| scripts.release(&ReleaseTarget::Key { key: Arc::clone(key) });
        let answers = self.ask_about(&locks, delete).await?;
        let deleted = answers
            .iter()
            .filter(|answer| matches!(answer, Answer::Number(_)));
        Ok(deleted.count() as u64)
    }

    /// The engine's keys of all locks that there are. One that comes or goes meanwhile may be among them or not.
    async fn all_locks(&mut self) -> Result<Vec<Arc<str>>, StoreError> {
        let (mut locks, mut cursor) = (HashSet::new(), String::from("0"));
        loop {
            let mut pipeline = Pipeline::with_capacity(1);
            pipeline
                .cmd("SCAN")
                .arg(&cursor)
                .arg("MATCH")
                .arg(keys::ALL_LOCKS)
                .arg("COUNT")
                .arg(STEP);
            let values = self.send(&pipeline).await?;
            let (next, found): (String, Vec<Vec<u8>>) = values
                .first()
                .and_then(|value| redis::from_redis_value_ref(value).ok())
                .ok_or_else(|| not_understood(&self.settings))?;
            // Nobody here could name a key that is no text.
            locks.extend(found.into_iter().filter_map(|key| String::from_utf8(key).ok()));
            cursor = next;
            if cursor == "0" {
                return Ok(locks.iter().map(|lock| keys::engine_key(lock)).collect());
            }
        }
    }

    async fn ask_about(
        &mut self,
        locks: &[Arc<str>],
        command: impl Fn(&Arc<str>) -> Cmd,
    ) -> Result<Vec<Answer>, StoreError> {
        let mut answers = Vec::with_capacity(locks.len());
        for some in locks.chunks(STEP) {
            let mut pipeline = Pipeline::with_capacity(some.len());
            for key in some {
                pipeline.add_command(command(key));
            }
            for value in self.send(&pipeline).await? {
                answers.push(read(&value).ok_or_else(|| not_understood(&self.settings))?);
            }
        }
        Ok(answers)
    }

    async fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let values = send(&self.settings, &mut self.connected.connection, pipeline).await?;
        for value in &values {
            if let Value::ServerError(error) = value {
                return Err(store_error(
                    &self.settings,
                    Phase::Executing,
                    &error.clone().into(),
                ));
            }
        }
        Ok(values)
    }
}
