//! What the state machine of an acquisition is told, and what it answers.

use std::time::Duration;

use crate::lock::boot_time::BootTime;

/// An expiry in Unix seconds by the database's clock, as a value that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Expiry(u64);

impl Expiry {
    pub(crate) fn at(unix_seconds: f64) -> Self {
        Self(unix_seconds.to_bits())
    }

    pub(crate) fn unix_seconds(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A lease is made of it.
    Keep {
        auto_renew: bool,
        /// When max_hold will have passed.
        end: Option<BootTime>,
        margin: Duration,
    },
    /// Its holder wants it renewed; the number is that of the request.
    Renew {
        number: u64,
        ttl: Duration,
    },
    /// The database has answered to the renewal under way.
    Answered(Answer),
    /// The database has answered to the hand-off that began it in memory.
    Arrived(Arrival),
    /// Its row has gone, or is another's.
    Lost(&'static str),
    Release,
    /// The release is over. True if the row had certainly gone before.
    Released {
        was_gone: bool,
    },
    /// Whether its time is over is to be found out.
    Check,
    /// The time has come that [`Life::wake_at`](super::Life::wake_at) gave: also send what is due.
    Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Renewed(Expiry),
    /// The row is not ours any more.
    Gone,
    Failed {
        cause: String,
        /// Whether the renewal may have been carried out, or may yet be.
        is_in_doubt: bool,
    },
    /// The store has been closed.
    Closed,
}

/// How far a hand-off that began in memory has got in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Arrival {
    OnItsWay,
    /// The row has this acquisition's id.
    Here {
        until: BootTime,
        expiry: Expiry,
    },
    /// The row no longer belonged to this process.
    Refused,
    /// The database did not answer: the row has the one id or the other.
    Unknown,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    /// Send a renewal, and wait for the answer until then.
    Send {
        ttl: Duration,
        until: BootTime,
    },
    /// Tell the one who asked for a renewal.
    Tell(u64, Told),
    /// The row expires at another time than before.
    Extended,
    /// The status has changed, or the end comes sooner: wake who waits for either.
    Changed,
    /// It was lost while it was held.
    Lost,
    Count(Counted),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    Renewed(Expiry),
    NotHeld,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Counted {
    Loss,
    Renewal,
    BackendError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Status {
    /// Ours as far as is known, unless its time is over.
    Held,
    /// Its release is under way.
    Leaving,
    Released,
    Lost,
}
