//! Locks in Redis (or Valkey): for many machines, as long as the server keeps what it was told.
//!
//! One connection ([`lane`]) takes what has been asked for since it last looked and sends it as one pipeline of scripts
//! ([`scripts`]), each of which decides about one key by the server's clock. One more connection listens for releases of the
//! keys that are waited for ([`listener`]): every release is published on its key's own channel, which costs next to nothing
//! when nobody listens. What goes over all keys walks through them beside the other work ([`listing`]).
//!
//! A key is as the original writes it: its value is the holder's name, and it expires with the lock ([`keys`]). What the
//! original does not know of, above all which acquisition the value belongs to, stands beside it in a note of its own that
//! expires at the same time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::patience::Keepalive;
use super::turns::Turns;
use super::{Listener, Store, key_hash};
use crate::lock::error::StoreError;
use crate::lock::operation::Operation;
use crate::mutex::lock;

mod acquire;
mod connection;
mod errors;
mod hand_over;
mod inspection;
mod keys;
mod lane;
mod listener;
mod listing;
mod observe;
mod release;
mod renew;
mod scripts;
mod values;

pub(in crate::lock) use inspection::inspect;

/// How to reach a server. Equal when the URL is.
pub struct RedisSettings {
    pub(crate) identity: Arc<str>,
    pub(crate) client: redis::Client,
    /// The server and the database, for messages.
    pub(crate) place: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) keepalive: Keepalive,
}

/// Without the password.
impl std::fmt::Debug for RedisSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RedisSettings")
            .field("server", &self.place)
            .finish_non_exhaustive()
    }
}

/// A store in Redis. It connects at the first request.
pub struct RedisStore {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Arc<RedisSettings>,
    listener: Arc<dyn Listener>,
    work: Mutex<Work>,
    /// Something came into `work`, or it was closed.
    more_work: Notify,
    /// `work.watched` has more than it had.
    more_watched: Notify,
    closing: watch::Sender<bool>,
    /// Requests come from any thread.
    runtime: Handle,
}

#[derive(Default)]
struct Work {
    operations: VecDeque<Operation>,
    /// Hashes of the keys that are waited for, and by how many.
    watched: HashMap<u64, usize>,
    /// Hashes of the keys whose channels the listener is subscribed to.
    subscribed: HashSet<u64>,
    turns: Turns,
    working: bool,
    listening: bool,
    closed: bool,
}

impl RedisStore {
    /// A store on the server of `settings`. Needs an ambient tokio runtime.
    #[must_use]
    pub fn new(settings: Arc<RedisSettings>, listener: Arc<dyn Listener>) -> Self {
        let shared = Shared {
            settings,
            listener,
            work: Mutex::default(),
            more_work: Notify::new(),
            more_watched: Notify::new(),
            closing: watch::channel(false).0,
            runtime: Handle::current(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    fn add(self: &Arc<Self>, operation: Operation) {
        let mut work = self.work();
        if work.closed {
            drop(work);
            operation.fail(&StoreError::closed());
            return;
        }
        work.operations.push_back(operation);
        if !std::mem::replace(&mut work.working, true) {
            self.runtime.spawn(lane::run(Arc::clone(self)));
        }
        drop(work);
        self.more_work.notify_one();
    }

    /// This process has released a lock, and so many subscribers have heard of it.
    fn released(&self, key: &str, subscribers: i64) {
        let hash = key_hash(key);
        let mut work = self.work();
        let ours = i64::from(work.subscribed.contains(&hash));
        work.turns.released(hash, subscribers > ours);
    }

    /// Another process has a lock.
    fn taken_by_others(&self, key: &str) {
        self.work().turns.taken_by_others(key_hash(key));
    }

    fn begin_to_watch(self: &Arc<Self>, hash: u64) {
        let mut work = self.work();
        *work.watched.entry(hash).or_default() += 1;
        if work.closed {
            return;
        }
        if !std::mem::replace(&mut work.listening, true) {
            self.runtime.spawn(listener::run(Arc::clone(self)));
        }
        drop(work);
        self.more_watched.notify_one();
    }

    fn end_watch(&self, hash: u64) {
        let mut work = self.work();
        if let Some(count) = work.watched.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                work.watched.remove(&hash);
            }
        }
    }
}

impl Store for RedisStore {
    fn submit(&self, operation: Operation) {
        let turn = self.shared.work().turns.may_send_at(&operation);
        if let Some(turn) = turn {
            let shared = Arc::clone(&self.shared);
            self.shared.runtime.spawn(async move {
                tokio::time::sleep_until(turn).await;
                shared.add(operation);
            });
            return;
        }
        self.shared.add(operation);
    }

    fn watch(&self, key: &Arc<str>, waiting: bool) {
        let hash = key_hash(key);
        if waiting {
            self.shared.begin_to_watch(hash);
        } else {
            self.shared.end_watch(hash);
        }
    }

    fn describe(&self) -> String {
        self.shared.settings.place.clone()
    }

    fn close(&self) {
        self.shared.closing.send_replace(true);
        self.shared.work().closed = true;
        self.shared.more_work.notify_one();
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.close();
    }
}
