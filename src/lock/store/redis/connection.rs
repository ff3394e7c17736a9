//! A connection on which the scripts are known.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, Value};
use tokio::time::timeout;

use super::RedisSettings;
use super::errors::{Phase, no_answer, store_error};
use super::scripts::{Client, Scripts};
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
