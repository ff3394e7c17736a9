//! Which of Redis's failures may pass by themselves.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

use super::RedisSettings;
use crate::lock::error::StoreError;

/// How far a request had come when it failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Executing,
}

/// Codes of answers that say "later": a server that starts, fails over, has no memory or too few replicas, could not write its
/// snapshot, or is busy with a script. One that has forgotten our scripts is told them on the next connection.
const PASSING: [&str; 12] = [
    "LOADING",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOMASTERLINK",
    "READONLY",
    "NOSCRIPT",
    "OOM",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "UNKILLABLE",
];
/// Those after which another connection may lead to a better server, or to a better state of this one.
const CONNECT_AGAIN: [&str; 6] = [
    "LOADING",
    "MASTERDOWN",
    "NOMASTERLINK",
    "READONLY",
    "NOSCRIPT",
    "NOAUTH",
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
        argument: None,
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

/// The code of the server's answer. Before Redis 7 it stands in the middle when a command in a script was refused.
fn code(error: &RedisError) -> Option<&str> {
    let inside = error
        .detail()
        .filter(|detail| detail.starts_with("Error running script"))
        .and_then(|detail| detail.rsplit_once(": -"))
        .and_then(|(_, inside)| inside.split(' ').next());
    inside.or_else(|| error.code())
}

fn is_transient(phase: Phase, error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            let too_many = |detail: &str| detail.contains("max number of clients");
            code(error).is_some_and(|code| PASSING.contains(&code)) || error.detail().is_some_and(too_many)
        }
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
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
        && !code(error).is_some_and(|code| CONNECT_AGAIN.contains(&code))
}
