//! A connection on which the scripts are known, and the answers that come over it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisError, Value};
use tokio::time::timeout;

use super::errors::{Phase, connection_survives, no_answer, store_error};
use super::scripts::{Client, Scripts};
use super::{RedisSettings, Shared};
use crate::lock::error::StoreError;

#[derive(Clone)]
pub(super) struct Connected {
    connection: MultiplexedConnection,
    pub(super) scripts: Scripts,
    /// None if the server does not tell.
    pub(super) client: Option<Client>,
}

/// Why no answers came.
pub(super) enum Failure {
    /// The time was up.
    Silence,
    Error(StoreError),
}

impl Failure {
    pub(super) fn error(self, settings: &RedisSettings) -> StoreError {
        match self {
            Self::Silence => no_answer(settings, Phase::Executing),
            Self::Error(error) => error,
        }
    }
}

impl Connected {
    pub(super) async fn new(settings: &RedisSettings) -> Result<Self, StoreError> {
        // The pauses and limits are ours.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connecting = async {
            let mut connection = settings
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            let (scripts, client) = Scripts::load(&mut connection).await?;
            Ok(Self {
                connection,
                scripts,
                client,
            })
        };
        match timeout(settings.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| store_error(settings, Phase::Connecting, &error)),
            Err(_) => Err(no_answer(settings, Phase::Connecting)),
        }
    }

    /// Sends a pipeline; an answer for each command, an error of the server's among them perhaps.
    pub(super) async fn send(
        &mut self,
        settings: &RedisSettings,
        pipeline: &Pipeline,
        patience: Duration,
    ) -> Result<Vec<Value>, Failure> {
        let sending = self.connection.send_packed_commands(pipeline, 0, pipeline.len());
        match timeout(patience, sending).await {
            Ok(Ok(values)) => Ok(values),
            Ok(Err(error)) => Err(Failure::Error(store_error(settings, Phase::Executing, &error))),
            Err(_) => Err(Failure::Silence),
        }
    }

    /// Ends another connection at the server, so that nothing that was sent over it is carried out
    /// later. Whether that is certain.
    pub(super) async fn end(&mut self, settings: &RedisSettings, other: &Client, patience: Duration) -> bool {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline
            .cmd("CLIENT")
            .arg("KILL")
            .arg("ID")
            .arg(&other.id)
            .arg("ADDR")
            .arg(&other.address);
        let ended = self.send(settings, &pipeline, patience).await;
        ended.is_ok_and(|values| matches!(values.first(), Some(Value::Int(_))))
    }
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
