//! What scripts are asked, and what they answer.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisError, Value};

use super::errors::{Phase, connection_survives, store_error};
use super::{RedisSettings, Shared, keys};
use crate::lock::error::StoreError;

/// The call of a script about one key.
pub(super) fn on_key(script: &str, key: &str, third: Option<&str>) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command
        .arg(script)
        .arg(2 + usize::from(third.is_some()))
        .arg(keys::lock(key))
        .arg(keys::note(key))
        .arg(third);
    command
}

/// The call of a script that looks at many keys.
pub(super) fn on_keys(script: &str, keys: &[Arc<str>]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script).arg(2 * keys.len());
    for key in keys {
        command.arg(keys::lock(key)).arg(keys::note(key));
    }
    command
}

/// Rounded up: a holder may believe in its lock for the whole of its time.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Whether a script answered with the number 0: it has found nothing, and done nothing.
pub(super) fn is_nothing(value: &Value) -> bool {
    redis::from_redis_value_ref::<i64>(value).is_ok_and(|number| number == 0)
}

/// A whole number of an answer, perhaps written in digits.
pub(super) fn number(parts: &[Value], index: usize) -> Option<i64> {
    redis::from_redis_value_ref(parts.get(index)?).ok()
}

/// A time of an answer.
pub(super) fn time(parts: &[Value], index: usize) -> Option<f64> {
    number(parts, index).map(seconds)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "microseconds since the epoch fit for some 250 years"
)]
pub(super) fn seconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1e6
}

/// The answers to a pipeline that are still to be given to whoever asked.
pub(super) struct Values<'a> {
    shared: &'a Shared,
    values: std::vec::IntoIter<Value>,
    tried_before: bool,
    connection_survives: bool,
}

impl<'a> Values<'a> {
    pub(super) fn new(shared: &'a Shared, values: Vec<Value>, tried_before: bool) -> Self {
        Self {
            shared,
            values: values.into_iter(),
            tried_before,
            connection_survives: true,
        }
    }

    pub(super) fn next(&mut self) -> Result<Value, StoreError> {
        match self.values.next() {
            Some(Value::ServerError(error)) => {
                let error = RedisError::from(error);
                self.connection_survives &= connection_survives(&error);
                let error = store_error(&self.shared.settings, Phase::Executing, &error);
                Err(StoreError {
                    outcome_unknown: error.outcome_unknown || self.tried_before,
                    ..error
                })
            }
            Some(value) => Ok(value),
            None => Err(StoreError::unknown_outcome(format!(
                "{}: an answer is missing",
                self.shared.settings.place
            ))),
        }
    }

    /// Whether an earlier try, whose answer was lost, may have been carried out.
    pub(super) fn tried_before(&self) -> bool {
        self.tried_before
    }

    /// Whether another request on the same connection makes sense.
    pub(super) fn connection_survives(&self) -> bool {
        self.connection_survives
    }

    pub(super) fn shared(&self) -> &Shared {
        self.shared
    }

    pub(super) fn place(&self) -> &str {
        &self.shared.settings.place
    }

    pub(super) fn not_understood(&self) -> StoreError {
        not_understood(&self.shared.settings)
    }
}

pub(super) fn not_understood(settings: &RedisSettings) -> StoreError {
    StoreError::unknown_outcome(format!(
        "{}: the server's answer is not understood",
        settings.place
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_never_shortened() {
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::from_secs(2)), 2000);
    }
}
