//! Locks in a SQLite file (or in memory).
//!
//! One thread owns the one connection. It takes every request that has come since it last looked and carries them out in
//! one transaction, so that a hundred requests share a commit (group commit), and nobody else in this process ever finds
//! the database locked. Other processes' releases are noticed by a watch on the file ([`change_watch`]).
//!
//! The journal is WAL with `synchronous=NORMAL`: a lock is worthless once the machine has died, so that waiting for the disk
//! at each commit would buy nothing.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::runtime::Handle;

use super::{Listener, Store};
use crate::lock::operation::Operation;

mod batch;
mod change_watch;
mod database;
mod files;
mod identity;
mod inspection;
mod neighbours;
mod rule;
mod schema;
mod statements;
mod turns;
mod worker;

use crate::mutex::lock;
use change_watch::ChangeWatch;
use files::Entry;
pub(in crate::lock) use files::let_go_of_file;
pub use files::{close_files, unused_files_are_closed};
pub(in crate::lock) use inspection::{inspect, inspect_memory, look};
use worker::{End, Message, Worker};

/// The location of a SQLite database.
#[derive(Debug, Clone)]
pub enum Location {
    File {
        path: PathBuf,
        /// Whether missing parent folders are made.
        create_folders: bool,
    },
    /// Memory, private to this store.
    Memory,
}

impl Location {
    fn path(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Memory => None,
        }
    }
}

/// Tells Unix seconds. The rows' times are by it, as SQLite's own clock is the machine's.
pub type WallClock = Arc<dyn Fn() -> f64 + Send + Sync>;

/// The machine's clock.
#[must_use]
pub fn system_clock() -> WallClock {
    Arc::new(|| {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0.0, |since| since.as_secs_f64())
    })
}

/// A store in SQLite. Its thread starts at the first request and ends with [`Store::close`] or with the store.
pub struct SqliteStore {
    location: Location,
    clock: WallClock,
    listener: Arc<dyn Listener>,
    /// Requests come from any thread.
    runtime: Handle,
    state: Mutex<State>,
}

enum State {
    Idle,
    Running {
        inbox: mpsc::Sender<Message>,
        watch: Option<ChangeWatch>,
        /// The place in the list of open files; none in memory.
        number: Option<u64>,
    },
    Closed,
}

impl SqliteStore {
    /// A store that opens its database when it is first asked for something. Needs an ambient tokio runtime.
    pub fn new(location: Location, clock: WallClock, listener: Arc<dyn Listener>) -> Self {
        Self {
            location,
            clock,
            listener,
            runtime: Handle::current(),
            state: Mutex::new(State::Idle),
        }
    }

    fn send(&self, message: Message) {
        let mut state = lock(&self.state);
        if matches!(*state, State::Idle) {
            match self.start() {
                Ok(running) => *state = running,
                Err(error) => return message.refuse(&format!("no thread for the lock store: {error}")),
            }
        }
        match &*state {
            State::Running { inbox, watch, .. } => {
                if let (Some(watch), Message::Watch { waiting, .. }) = (watch, &message) {
                    watch.count(*waiting);
                }
                if let Err(mpsc::SendError(message)) = inbox.send(message) {
                    message.refuse("the lock store's thread has ended");
                }
            }
            State::Idle | State::Closed => message.refuse("the lock store has been closed"),
        }
    }

    fn start(&self) -> std::io::Result<State> {
        let (inbox, messages) = mpsc::channel();
        neighbours::install();
        let entry = self.location.path().map(|path| Entry::new(path, inbox.clone()));
        let number = entry.as_ref().map(Entry::number);
        let worker = Worker::new(
            self.location.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.listener),
            number,
        );
        std::thread::Builder::new()
            .name("arbitrageai-sqlite".into())
            .spawn(move || {
                worker.run(&messages);
                drop(entry);
            })?;
        let watch = match &self.location {
            Location::File { path, .. } => {
                let listener = Arc::clone(&self.listener);
                Some(ChangeWatch::start(
                    path.clone(),
                    inbox.clone(),
                    listener,
                    &self.runtime,
                ))
            }
            Location::Memory => None,
        };
        Ok(State::Running { inbox, watch, number })
    }
}

impl Store for SqliteStore {
    fn submit(&self, operation: Operation) {
        self.send(Message::Operation(operation));
    }

    fn watch(&self, key: &Arc<str>, waiting: bool) {
        if self.location.path().is_some() {
            self.send(Message::Watch {
                key: Arc::clone(key),
                waiting,
            });
        }
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        if let State::Running { inbox, number, .. } = std::mem::replace(&mut *state, State::Closed) {
            if let Some(number) = number {
                files::closing(number);
            }
            let _ = inbox.send(Message::End(End::Close));
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
