//! What can go wrong with a lock, and with the store under it.

use std::sync::Arc;
use std::time::Duration;

use crate::printable::printable;

/// An error of a lock operation. Its text is one line, even if the name of the lock or the message
/// of a server contains control characters, because the text is written to logs and terminals.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LockError {
    /// An argument that no store could take; `argument` names it.
    #[error("{}", printable(.message))]
    InvalidArgument {
        argument: &'static str,
        /// What is wrong with it, its value included.
        message: String,
    },
    /// The lock was still held when the time was up.
    #[error("Failed to acquire lock for {} within {}s", printable(.name), seconds(.timeout))]
    Timeout {
        /// The lock's name as a person writes it, `marketplace:posting`.
        name: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// As [`LockError::Timeout`], when it is known who holds the lock.
    #[error("Failed to acquire lock for {} within {}s", printable(.name), seconds(.timeout))]
    HeldBy {
        name: String,
        timeout: Duration,
        holder: String,
        /// In Unix seconds by the database's clock, if the row has such a time.
        since: Option<f64>,
    },
    /// The database could not be reached, or answered with an error.
    #[error("{}", printable(.message))]
    Backend {
        /// What was tried, and what the database said.
        message: String,
        /// The store's own error, if it gave one.
        #[source]
        source: Option<Arc<StoreError>>,
    },
    /// A lease ended before its holder released it.
    #[error("the lock {} was lost: {}", printable(.key), printable(.reason))]
    Lost { key: String, reason: String },
}

impl LockError {
    pub(crate) fn invalid(argument: &'static str, message: impl Into<String>) -> Self {
        Self::InvalidArgument {
            argument,
            message: message.into(),
        }
    }

    pub(crate) fn backend(error: StoreError) -> Self {
        if let Some(argument) = error.argument {
            return Self::invalid(argument, error.message);
        }
        Self::Backend {
            message: error.message.clone(),
            source: Some(Arc::new(error)),
        }
    }
}

/// Seconds as Python prints them: `10.0`, `0.25`.
fn seconds(duration: &Duration) -> String {
    format!("{:?}", duration.as_secs_f64())
}

/// A store's failure to carry out one operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What happened, without secrets.
    pub message: String,
    /// Whether trying again soon may help.
    pub transient: bool,
    /// Whether the operation may have been carried out all the same (the connection broke before its answer came).
    pub outcome_unknown: bool,
    /// The caller's argument that the database refused, if the failure is due to an argument.
    pub argument: Option<&'static str>,
}

impl StoreError {
    /// A failure that repeats itself until someone fixes its cause.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            transient: false,
            outcome_unknown: false,
            argument: None,
        }
    }

    /// A failure that may pass by itself; nothing was carried out.
    pub fn transient(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            transient: true,
            outcome_unknown: false,
            argument: None,
        }
    }

    /// A failure that may pass by itself; the operation may have been carried out.
    pub fn unknown_outcome(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            transient: true,
            outcome_unknown: true,
            argument: None,
        }
    }

    /// Makes the error for a key that is too long for the index of the table.
    pub(crate) fn overlong_key(key: &str) -> Self {
        let message = format!(
            "marketplace_id and posting_id are too long for the index of this database's table: the key has {} bytes; 2,692 always fit",
            key.len()
        );
        Self {
            argument: Some("posting_id"),
            ..Self::permanent(message)
        }
    }

    /// Makes the error for a row whose expiry is no time; `what` says why. The key counts as held
    /// until somebody deletes the row. The failure is transient, since that may happen soon.
    pub(crate) fn unreadable_row(key: &str, what: &str) -> Self {
        Self::transient(format!(
            "the row of {key} can't be read: {what}; the lock counts as held until somebody deletes the row, by break_lock for instance"
        ))
    }

    /// Prefixes the message with the name of the database.
    pub(crate) fn at(self, place: &str) -> Self {
        Self {
            message: format!("{place}: {}", self.message),
            ..self
        }
    }

    /// The answer to whoever wants a lock while the process ends.
    pub(crate) fn ended() -> Self {
        Self::permanent("this process is ending and takes no more locks")
    }

    /// The answer of a store that has been closed.
    pub fn closed() -> Self {
        Self::permanent("the lock store has been closed")
    }
}
