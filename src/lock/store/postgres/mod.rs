//! Locks in a PostgreSQL database: the engine for many machines.
//!
//! A few connections ([`lane`]) each take what has been asked for since they last looked and carry it out in one statement,
//! many rows at a time; an idle engine uses one, and whoever asks it for something writes the statement itself. Statements are short, commit by themselves and keep nothing in the session,
//! so that they work behind a pooler in transaction mode. One more connection listens for releases ([`listener`]); a release
//! notifies only when somebody has noted that it waits, since notifying makes commits wait for each other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::lane::Lane;
use super::{Listener, Store, key_hash};
use crate::lock::error::StoreError;
use crate::lock::operation::Operation;
use crate::mutex::lock;

mod answers;
mod errors;
mod inspection;
mod lane;
mod limits;
mod listener;
mod queries;
mod schema;
mod statements;

pub(in crate::lock) use inspection::{inspect, look};

/// How long a note that somebody waits is good for.
const NOTE_LASTS: Duration = Duration::from_secs(30);
/// A note younger than this need not be written again.
const NOTE_FRESH: Duration = Duration::from_secs(10);
/// How often the wait before a silent connection is given up grows fourfold. At this number the
/// wait takes hours and grows no further.
const MOST_GIVEN_UP: u32 = 6;
/// The most rows in one statement.
const LARGEST_BATCH: usize = 256;

/// How to reach a server. Equal when the URL is: the other settings are the first comer's.
pub struct PostgresSettings {
    pub(crate) identity: Arc<str>,
    pub(crate) connect: PgConnectOptions,
    pub(crate) listen: Option<PgConnectOptions>,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) statement_cache: bool,
}

/// Without the password, which the options' own `Debug` would show.
impl std::fmt::Debug for PostgresSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PostgresSettings")
            .field("server", &self.describe())
            .finish_non_exhaustive()
    }
}

impl PostgresSettings {
    /// The server and the database, for messages.
    pub(crate) fn describe(&self) -> String {
        let host = match self.connect.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => self.connect.get_host().to_owned(),
        };
        let port = self.connect.get_port();
        match self.connect.get_database() {
            Some(database) => format!("PostgreSQL database {database} at {host}:{port}"),
            // The server takes the user's name then, which no message shows.
            None => format!("PostgreSQL at {host}:{port}"),
        }
    }

    /// Where notifications come from; None when they can't be had.
    fn listen_options(&self) -> Option<&PgConnectOptions> {
        match &self.listen {
            Some(options) => Some(options),
            // Without a statement cache a pooler in transaction mode is to be expected, and LISTEN does not pass it.
            None if self.statement_cache && self.max_connections > 1 => Some(&self.connect),
            None => None,
        }
    }

    fn lanes(&self) -> usize {
        let listening = usize::from(self.listen.is_none() && self.listen_options().is_some());
        (self.max_connections - listening).max(1)
    }
}

/// A store in PostgreSQL. It connects at the first request.
pub struct PostgresStore {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Arc<PostgresSettings>,
    listener: Arc<dyn Listener>,
    work: Mutex<Work>,
    schema: tokio::sync::Mutex<bool>,
    limits: limits::Limits,
    closing: watch::Sender<bool>,
    /// Requests come from any thread.
    runtime: Handle,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    /// Lanes with nothing to do, the latest last: it is used first, so that few connections are used when few will do.
    idle: Vec<Lane>,
    lanes: usize,
    watched: HashMap<i64, usize>,
    noted: HashMap<i64, Instant>,
    listening: bool,
    closed: bool,
}

/// Something for a lane to do.
enum Job {
    Operation(Operation),
    /// Note that somebody waits for the key of this hash.
    Note(i64),
}

impl Job {
    fn fail(self, error: &StoreError) {
        match self {
            Self::Operation(operation) => operation.fail(error),
            Self::Note(_) => {}
        }
    }
}

impl PostgresStore {
    /// A store on the server of `settings`. Needs an ambient tokio runtime.
    #[must_use]
    pub fn new(settings: Arc<PostgresSettings>, listener: Arc<dyn Listener>) -> Self {
        let shared = Shared {
            settings,
            listener,
            work: Mutex::default(),
            schema: tokio::sync::Mutex::new(false),
            limits: limits::Limits::default(),
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

    fn add(self: &Arc<Self>, job: Job) {
        let mut work = self.work();
        if work.closed {
            drop(work);
            job.fail(&StoreError::closed());
            return;
        }
        work.jobs.push_back(job);
        self.set_to_work(work);
    }

    fn set_to_work(self: &Arc<Self>, mut work: MutexGuard<'_, Work>) {
        let others_work = work.idle.len() < work.lanes;
        if let Some(lane) = work.idle.pop() {
            drop(work);
            if others_work {
                self.runtime.spawn(lane.run());
            } else {
                lane.run_from_here(&self.runtime);
            }
        } else if work.lanes < self.settings.lanes() {
            work.lanes += 1;
            self.runtime.spawn(Lane::new(Arc::clone(self)).run());
        }
    }

    fn watch(self: &Arc<Self>, hash: i64, waiting: bool) {
        let mut work = self.work();
        if !waiting {
            if let Some(count) = work.watched.get_mut(&hash) {
                *count -= 1;
                if *count == 0 {
                    work.watched.remove(&hash);
                }
            }
            return;
        }
        *work.watched.entry(hash).or_default() += 1;
        if !work.listening {
            work.listening = true;
            self.runtime.spawn(listener::run(Arc::clone(self)));
        }
        if work
            .noted
            .get(&hash)
            .is_none_or(|noted| noted.elapsed() > NOTE_FRESH)
        {
            work.noted.insert(hash, Instant::now());
            drop(work);
            self.add(Job::Note(hash));
        }
    }

    /// Writes the notes anew that are getting old and still meant, and forgets the rest.
    fn refresh_notes(self: &Arc<Self>) {
        let mut work = self.work();
        let watched: Vec<i64> = work.watched.keys().copied().collect();
        work.noted.retain(|_, noted| noted.elapsed() <= NOTE_LASTS);
        for hash in &watched {
            work.noted.insert(*hash, Instant::now());
        }
        if !watched.is_empty() && !work.closed {
            // All at once, so that one lane finds them together.
            work.jobs.extend(watched.into_iter().map(Job::Note));
            self.set_to_work(work);
        }
    }
}

fn signed_hash(key: &str) -> i64 {
    key_hash(key).cast_signed()
}

impl Store for PostgresStore {
    fn submit(&self, operation: Operation) {
        self.shared.add(Job::Operation(operation));
    }

    fn watch(&self, key: &Arc<str>, waiting: bool) {
        if self.shared.settings.listen_options().is_some() {
            self.shared.watch(signed_hash(key), waiting);
        }
    }

    fn describe(&self) -> String {
        self.shared.settings.describe()
    }

    fn close(&self) {
        self.shared.closing.send_replace(true);
        let mut work = self.shared.work();
        work.closed = true;
        for lane in work.idle.drain(..) {
            self.shared.runtime.spawn(lane.run());
        }
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.close();
    }
}
