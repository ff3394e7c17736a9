//! Which of Redis's failures may pass by themselves.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::RedisSettings;
use crate::lock::error::StoreError;

/// How far a request had come when it failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Executing,
}

/// Codes of answers that say "later" and are unknown to the client library: no memory left, too few replicas, a snapshot that failed,
/// a script that takes too long, a replica without its master.
const PASSING: [&str; 6] = [
    "OOM",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "UNKILLABLE",
    "NOMASTERLINK",
];

pub(super) fn store_error(settings: &RedisSettings, phase: Phase, error: &RedisError) -> StoreError {
    let said_by_the_server = matches!(
        error.kind(),
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed
    );
    StoreError {
        message: format!("{}: {}", settings.place, describe(error)),
        transient: is_transient(phase, error),
        // A script that fails has done nothing: what can fail comes before the first write.
        outcome_unknown: phase == Phase::Executing && !said_by_the_server,
    }
}

/// Nothing came in time.
pub(super) fn no_answer(settings: &RedisSettings, phase: Phase) -> StoreError {
    match phase {
        Phase::Connecting => StoreError::transient(format!("{}: could not connect in time", settings.place)),
        Phase::Executing => StoreError::unknown_outcome(format!("{}: no answer in time", settings.place)),
    }
}

fn describe(error: &RedisError) -> String {
    match error.kind() {
        ErrorKind::Parse => format!("the server does not speak Redis's protocol: {error}"),
        ErrorKind::AuthenticationFailed => "the server refuses the user's name or password".into(),
        _ => error.to_string(),
    }
}

fn is_transient(phase: Phase, error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::BusyLoading
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            // A server that has become a replica, or has forgotten our scripts: the next connection knows better.
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::NoScript => true,
            _ => error
                .detail()
                .is_some_and(|detail| detail.contains("max number of clients")),
        },
        ErrorKind::Extension => error.code().is_some_and(|code| PASSING.contains(&code)),
        ErrorKind::Io => !(phase == Phase::Connecting && repeats_itself(error)),
        // In the middle of a connection that worked, it is the connection that is broken.
        ErrorKind::Parse => phase == Phase::Executing,
        _ => false,
    }
}

/// A certificate that is not trusted, a socket that may not be opened.
fn repeats_itself(error: &RedisError) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>())
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::Unsupported
            )
        })
}

/// Whether another request on the same connection makes sense.
pub(super) fn connection_survives(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => !matches!(
            kind,
            ServerErrorKind::ReadOnly
                | ServerErrorKind::NoScript
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading
        ),
        ErrorKind::Extension => error.code() != Some("NOAUTH"),
        _ => false,
    }
}
