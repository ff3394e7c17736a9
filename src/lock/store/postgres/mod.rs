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
use self::verb::Job;
use super::patience::Keepalive;
use super::turns::Turns;
use super::{Listener, Store, key_hash};
use crate::lock::error::StoreError;
use crate::lock::operation::Operation;
use crate::mutex::lock;

mod acquire;
mod batch;
mod crowd;
mod errors;
mod hand_over;
mod inspection;
mod lane;
mod limits;
mod listener;
mod note;
mod observe;
mod release;
mod renew;
mod row;
mod rule;
mod schema;
mod session;
mod verb;

pub(in crate::lock) use inspection::{inspect, look};

/// How long a note that somebody waits is good for.
const NOTE_LASTS: Duration = Duration::from_secs(30);
/// A note younger than this need not be written again.
const NOTE_FRESH: Duration = Duration::from_secs(10);
/// Tokens are drawn from so many counters, chosen by the key: enough that batches seldom meet, few enough to keep for ever.
const FENCE_BUCKETS: u64 = 4096;

/// How to reach a server. Equal when the URL is: the other settings are the first comer's.
pub struct PostgresSettings {
    pub(crate) identity: Arc<str>,
    pub(crate) connect: PgConnectOptions,
    pub(crate) listen: Option<PgConnectOptions>,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) statement_cache: bool,
    pub(crate) keepalive: Keepalive,
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
    /// Held by the lane that replaces its connection.
    replacing: tokio::sync::Mutex<()>,
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
    turns: Turns,
    crowd: crowd::Crowd,
    listening: bool,
    closed: bool,
}

impl PostgresStore {
    /// A store on the server of `settings`. Needs an ambient tokio runtime.
    #[must_use]
    pub fn new(settings: Arc<PostgresSettings>, listener: Arc<dyn Listener>) -> Self {
        Self {
            shared: Arc::new(Shared::new(settings, listener)),
        }
    }
}

impl Shared {
    fn new(settings: Arc<PostgresSettings>, listener: Arc<dyn Listener>) -> Self {
        Self {
            settings,
            listener,
            work: Mutex::default(),
            schema: tokio::sync::Mutex::new(false),
            limits: limits::Limits::default(),
            replacing: tokio::sync::Mutex::default(),
            closing: watch::channel(false).0,
            runtime: Handle::current(),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    /// Whether notifications pass; None as long as that is not known. A pooler in transaction mode
    /// would leave the `LISTEN` behind in a session of others.
    fn may_listen(&self) -> Option<bool> {
        let settings = &self.settings;
        if settings.listen.is_some() {
            return Some(true);
        }
        self.limits
            .are_known(settings)
            .then(|| settings.listen_options().is_some() && !self.limits.by_transaction(settings))
    }

    /// A lane that has no connection and nothing to do, if there is one: then there is room for a
    /// connection.
    fn vacant_lane(self: &Arc<Self>) -> Option<Lane> {
        let mut work = self.work();
        let mut lane = match work.idle.pop() {
            Some(lane) => lane,
            None if work.lanes < self.settings.lanes() => {
                work.lanes += 1;
                Lane::new(Arc::clone(self))
            }
            None => return None,
        };
        drop(work);
        lane.vacate();
        Some(lane)
    }

    /// Room for one more connection, if the lanes leave some.
    fn room(self: &Arc<Self>) -> Option<Room> {
        let mut work = self.work();
        if work.lanes >= self.settings.lanes() {
            return None;
        }
        work.lanes += 1;
        Some(Room(Arc::clone(self)))
    }

    fn put_to_work(&self, lane: Option<Lane>) {
        if let Some(lane) = lane {
            self.runtime.spawn(lane.run());
        }
    }

    /// This process has released the row of a key, and has notified those who wait, if any.
    fn released(&self, hash: i64, notified: bool) {
        self.work().turns.released(hash.cast_unsigned(), notified);
    }

    /// Another process has the row of a key.
    fn taken_by_others(&self, key: &str) {
        self.work().turns.taken_by_others(key_hash(key));
    }

    fn add(self: &Arc<Self>, job: Job) {
        let mut work = self.work();
        if work.closed {
            drop(work);
            job.fail(&StoreError::closed());
            return;
        }
        let is_look = matches!(job, Job::Operation(Operation::Observe { .. }));
        work.jobs.push_back(job);
        // After a look, over whose connection it goes then: it is worth no further one.
        if is_look && work.crowd.begin_count() {
            work.jobs.push_back(Job::CountSessions);
        }
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
            if work.lanes == 0 && self.settings.keepalive.on {
                self.runtime.spawn(keep_alive(Arc::clone(self)));
            }
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

/// The place of a lane, taken by a connection of another one for a moment.
struct Room(Arc<Shared>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.work().lanes -= 1;
    }
}

/// Probes the connections that lie idle, so that a dead one is closed before it is needed, and no
/// firewall forgets a living one.
///
/// This stands in for TCP's own probes: sqlx gives no access to its sockets.
async fn keep_alive(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    let idle = shared.settings.keepalive.idle;
    loop {
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return,
            () = tokio::time::sleep(idle / 2) => {}
        }
        let silent: Vec<Lane> = shared
            .work()
            .idle
            .extract_if(.., |lane| lane.is_silent_for(idle))
            .collect();
        for lane in silent {
            shared.runtime.spawn(lane.probe());
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "there are few buckets")]
fn fence_bucket(key: &str) -> i32 {
    (key_hash(key) % FENCE_BUCKETS) as i32
}

fn signed_hash(key: &str) -> i64 {
    key_hash(key).cast_signed()
}

impl Store for PostgresStore {
    fn submit(&self, operation: Operation) {
        let turn = self.shared.work().turns.may_send_at(&operation);
        if let Some(turn) = turn {
            let shared = Arc::clone(&self.shared);
            self.shared.runtime.spawn(async move {
                tokio::time::sleep_until(turn).await;
                shared.add(Job::Operation(operation));
            });
            return;
        }
        self.shared.add(Job::Operation(operation));
    }

    fn watch(&self, key: &Arc<str>, waiting: bool) {
        let passes = self.shared.settings.listen_options().is_some();
        if passes && self.shared.may_listen() != Some(false) {
            self.shared.watch(signed_hash(key), waiting);
        }
    }

    fn looks_apart(&self) -> Duration {
        self.shared.work().crowd.looks_apart()
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
