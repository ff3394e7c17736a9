//! Where locks are kept: one trait, one file or folder per kind of database.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::operation::Operation;
use crate::notices::Trouble;

pub mod patience;
pub mod postgres;
pub mod redis;
pub mod sqlite;
mod turns;

/// A table of locks.
///
/// A store takes requests at any time, gathers them as suits its database, and answers each. Requests for one key may be
/// under way together (an abandoned attempt beside its successor): the database decides between them.
pub trait Store: Send + Sync + 'static {
    /// Takes a request; never waits. After [`Store::close`] every request is answered with an error.
    fn submit(&self, operation: Operation);

    /// Tells that a key is waited for from now on, or is no more: while it is, the store calls the listener it was made with
    /// when the key may have become free. It may miss a change (polling makes up for it) and may call in vain.
    fn watch(&self, key: &Arc<str>, waiting: bool);

    /// How far this process's looks for its rows are to be apart at least, so that those of all
    /// processes together don't burden the database. Never waits.
    fn looks_apart(&self) -> Duration {
        Duration::ZERO
    }

    /// Which database it is, for messages; without secrets.
    fn describe(&self) -> String {
        "the database".into()
    }

    /// Lets go of connections and threads, requests already taken excepted: those are still carried out.
    fn close(&self);
}

/// What a store tells the engine unasked.
pub trait Listener: Send + Sync + 'static {
    /// The lock may be free now.
    fn changed(&self, key_hash: u64);

    /// Something changed; any lock may be free now.
    fn anything_changed(&self);

    /// Another connection has taken the place of one that was lost: the database may lack rows now.
    fn connected_anew(&self) {}

    /// Something does not work, and why.
    fn failed(&self, _trouble: Trouble, _cause: &str) {}

    /// It works; perhaps it always did.
    fn works(&self, _trouble: Trouble) {}
}

/// For how long attempts to listen fail before that is reported. A server that restarts is away for a moment, and whoever works
/// with the database finds that out without a listener.
const REPORTED_AFTER: Duration = Duration::from_millis(500);

/// Since when a store can't listen.
#[derive(Default)]
struct Outage(Option<Instant>);

impl Outage {
    /// An attempt begins.
    fn attempt(&mut self) {
        self.0.get_or_insert_with(Instant::now);
    }

    fn failed(&mut self, listener: &dyn Listener, cause: &str) {
        // A connection that was listening and broke has just begun to fail.
        let since = self.0.get_or_insert_with(Instant::now);
        if since.elapsed() >= REPORTED_AFTER {
            listener.failed(Trouble::Listening, cause);
        }
    }

    fn over(&mut self, listener: &dyn Listener) {
        self.0 = None;
        listener.works(Trouble::Listening);
    }
}

/// Whether a number of Unix seconds is a plausible time of writing a row. Other numbers are not
/// times that a calendar has, so they are not shown.
fn is_a_date(unix_seconds: f64) -> bool {
    (0.0..1e11).contains(&unix_seconds)
}

/// A key as a number that every process computes alike (FNV-1a): for notifications and for the counters of fencing tokens.
#[must_use]
pub fn key_hash(key: &str) -> u64 {
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
