//! Names and durations as callers give them, checked before anything is sent.

use std::sync::Arc;
use std::time::Duration;

use super::error::LockError;

/// The largest number of characters of an identifier. A longer one is a mistake of the caller.
const LONGEST_IDENTIFIER: usize = 1000;
/// The largest number of characters of a key: no lock with a longer key can be acquired.
const LONGEST_KNOWN_KEY: usize = PREFIX.len() + 2 * LONGEST_IDENTIFIER + 1;
/// The largest number of bytes that an index of PostgreSQL always holds. It is the limit for every
/// database, so that what works on one works on another.
const MOST_INDEXED: usize = 2692;
/// The longest time taken, in seconds (some 31 years): beyond it arithmetic on clocks is not worth doing.
const LONGEST_SECONDS: f64 = 1e9;

/// What is locked: a posting at a marketplace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LockName {
    /// `bid:lock:{marketplace}:{posting}`, the value of the table's `lock_key`.
    pub key: Arc<str>,
}

impl LockName {
    /// Checks both identifiers and makes the key of them.
    ///
    /// # Errors
    /// [`LockError::InvalidArgument`] for an empty or overlong identifier, or one with a NUL character.
    pub fn new(marketplace_id: &str, posting_id: &str) -> Result<Self, LockError> {
        if marketplace_id.is_empty() || posting_id.is_empty() {
            let argument = if marketplace_id.is_empty() {
                "marketplace_id"
            } else {
                "posting_id"
            };
            return Err(LockError::invalid(
                argument,
                "marketplace_id and posting_id must not be empty",
            ));
        }
        check_identifier("marketplace_id", marketplace_id)?;
        check_identifier("posting_id", posting_id)?;
        let key = format!("{PREFIX}{marketplace_id}:{posting_id}");
        if key.len() > MOST_INDEXED {
            return Err(LockError::invalid(
                "posting_id",
                format!(
                    "marketplace_id and posting_id are too long for an index: the key has {} bytes in UTF-8, \
                     and at most {MOST_INDEXED} are possible",
                    key.len()
                ),
            ));
        }
        Ok(Self { key: key.into() })
    }

    /// Takes a key from the table, whichever program wrote it.
    ///
    /// # Errors
    /// [`LockError::InvalidArgument`] if no lock can have this key, because it is empty, too long
    /// or contains a NUL character.
    pub fn from_key(key: &str) -> Result<Self, LockError> {
        if key.is_empty() {
            return Err(LockError::invalid("key", "key must not be empty"));
        }
        check_length("key", key, LONGEST_KNOWN_KEY)?;
        Ok(Self { key: key.into() })
    }

    /// The key of a lock whose name for messages is known.
    pub(super) fn from_display(name: &str) -> Self {
        Self {
            key: format!("{PREFIX}{name}").into(),
        }
    }

    /// `marketplace:posting`, for messages.
    #[must_use]
    pub fn display(&self) -> &str {
        self.key.strip_prefix(PREFIX).unwrap_or(&self.key)
    }
}

const PREFIX: &str = "bid:lock:";

/// Checks a holder's name.
///
/// # Errors
/// [`LockError::InvalidArgument`] when it is overlong or has a NUL character.
pub fn holder(holder_id: &str) -> Result<Arc<str>, LockError> {
    check_identifier("holder_id", holder_id)?;
    if holder_id.len() > MOST_INDEXED {
        return Err(LockError::invalid(
            "holder_id",
            format!(
                "holder_id is too long for an index: it has {} bytes in UTF-8, and at most {MOST_INDEXED} are possible",
                holder_id.len()
            ),
        ));
    }
    Ok(holder_id.into())
}

fn check_identifier(argument: &'static str, value: &str) -> Result<(), LockError> {
    check_length(argument, value, LONGEST_IDENTIFIER)
}

fn check_length(argument: &'static str, value: &str, most: usize) -> Result<(), LockError> {
    if value.contains('\0') {
        return Err(LockError::invalid(
            argument,
            format!("{argument} must not contain NUL characters: {value:?}"),
        ));
    }
    let length = value.chars().count();
    if length > most {
        return Err(LockError::invalid(
            argument,
            format!("{argument} must have at most {most} characters, not {length}"),
        ));
    }
    Ok(())
}

/// A time to wait, zero or more seconds.
///
/// # Errors
/// [`LockError::InvalidArgument`] when it is negative, not a number or endless.
pub fn waiting_time(argument: &'static str, seconds: f64) -> Result<Duration, LockError> {
    if (0.0..=LONGEST_SECONDS).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(no_time(argument, ">= 0", seconds))
}

/// A time for which something lasts: more than zero seconds.
///
/// # Errors
/// [`LockError::InvalidArgument`] when it is zero, negative, not a number or endless.
pub fn lasting_time(argument: &'static str, seconds: f64) -> Result<Duration, LockError> {
    let duration = waiting_time(argument, seconds).ok();
    duration
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| no_time(argument, "> 0", seconds))
}

/// For how long a lock is renewed at most. More than the longest time is that time, since the
/// default is a multiple of a `ttl`, which may be that long itself.
///
/// # Errors
/// As [`lasting_time`].
pub(super) fn longest_hold(seconds: f64) -> Result<Duration, LockError> {
    let is_longer = seconds.is_finite() && seconds > LONGEST_SECONDS;
    lasting_time("max_hold", if is_longer { LONGEST_SECONDS } else { seconds })
}

fn no_time(argument: &'static str, least: &str, seconds: f64) -> LockError {
    let message = if seconds.is_finite() && seconds > LONGEST_SECONDS {
        format!("{argument} must be at most {LONGEST_SECONDS} seconds, not {seconds:?}")
    } else {
        format!("{argument} must be a finite number of seconds {least}, not {seconds:?}")
    };
    LockError::invalid(argument, message)
}
