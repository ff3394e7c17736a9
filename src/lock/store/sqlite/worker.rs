//! The thread that owns the connection: gathers requests, carries them out in one transaction, answers after the commit.

use std::sync::{Arc, mpsc};

use rusqlite::ErrorCode;
use tokio::sync::oneshot;

use super::batch::{Answer, Failure, concerns_all, give_each, run_batch};
use super::database::{OpenDatabase, open, place_of, prepare, store_error};
use super::identity::{Change, other_names};
use super::turns::Turns;
use super::{Location, WallClock, files, neighbours, statements};
use crate::lock::error::StoreError;
use crate::lock::operation::Operation;
use crate::lock::store::{Listener, key_hash};
use crate::notices::Trouble;

/// The most requests that share a transaction: more would keep other processes from writing for too long.
const LARGEST_BATCH: usize = 512;

/// The cause that is reported, for which a missing lock has no words.
const LOG_REMOVED: &str = "its -wal or -shm file was removed or replaced while it was in use, and what was written since the last \
                           checkpoint is lost, acquired locks among it: these files belong to the database";

/// What the thread is told.
pub(super) enum Message {
    Operation(Operation),
    /// A key is waited for, or no longer.
    Watch {
        key: Arc<str>,
        waiting: bool,
    },
    /// Someone may have written; the answer tells whether a lock that is waited for was found free.
    Probe(oneshot::Sender<bool>),
    End(End),
}

/// What ends the use of the file.
pub(super) enum End {
    /// It is closed until the next request. The sender is dropped when that is done.
    LetGo(mpsc::Sender<()>),
    /// The thread ends.
    Close,
}

impl Message {
    /// Answers without doing anything.
    pub(super) fn refuse(self, why: &str) {
        if let Self::Operation(operation) = self {
            operation.fail(&StoreError::permanent(why));
        }
    }
}

pub(super) struct Worker {
    location: Arc<Location>,
    clock: WallClock,
    listener: Arc<dyn Listener>,
    connection: Option<OpenDatabase>,
    /// The worker's place in the list of open files; none in memory.
    number: Option<u64>,
    turns: Turns,
}

impl Worker {
    pub(super) fn new(
        location: Location,
        clock: WallClock,
        listener: Arc<dyn Listener>,
        number: Option<u64>,
    ) -> Self {
        Self {
            location: Arc::new(location),
            clock,
            listener,
            connection: None,
            number,
            turns: Turns::new(),
        }
    }

    /// Works until told to close, or until nobody is left who could tell anything.
    pub(super) fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut batch = Vec::new();
        while let Ok(first) = messages.recv() {
            let _no_fork_meanwhile = neighbours::working();
            let mut end = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Operation(operation) => batch.push(operation),
                    Message::Watch { key, waiting: true } => self.turns.waits(key, (self.clock)()),
                    Message::Watch { key, waiting: false } => self.turns.waits_no_more(&key),
                    Message::Probe(answer) => drop(answer.send(self.probe())),
                    Message::End(what) => end = Some(what),
                }
                next = if batch.len() < LARGEST_BATCH && end.is_none() {
                    messages.try_recv().ok()
                } else {
                    None
                };
            }
            if !batch.is_empty() {
                self.carry_out(std::mem::take(&mut batch));
            }
            self.note_turns();
            if let Some(end) = end {
                self.close_file();
                match end {
                    End::LetGo(done) => drop(done),
                    End::Close => return,
                }
            }
        }
        let _no_fork_meanwhile = neighbours::working();
        self.close_file();
    }

    /// Writes down what is waited for, if that is due. A failure is no harm: the next message
    /// brings the next try.
    fn note_turns(&mut self) {
        if let Some(database) = &self.connection {
            let noted = self.turns.note(&database.connection, (self.clock)());
            drop(noted);
        }
    }

    /// Carries out a batch in one transaction. If that fails, each request gets its own
    /// transaction, so that a trigger, a constraint or a value that can't be stored fails only the
    /// request that caused the failure, even if its caller repeats it all the time. Savepoints
    /// would not suffice: a trigger may roll back the whole transaction, and so may a failing
    /// commit.
    fn carry_out(&mut self, batch: Vec<Operation>) {
        let mut failure = match self.transaction(&batch) {
            Ok(answers) => return give_each(batch, answers),
            Err(failure) => failure,
        };
        let several = batch.len() > 1;
        for operation in batch {
            if several && !failure.concerns_all {
                match self.transaction(std::slice::from_ref(&operation)) {
                    Ok(answers) => {
                        give_each(vec![operation], answers);
                        continue;
                    }
                    Err(alone) => failure = alone,
                }
            }
            operation.fail(&failure.error);
        }
    }

    /// Carries out the whole batch, or nothing of it.
    fn transaction(&mut self, batch: &[Operation]) -> Result<Vec<Answer>, Failure> {
        let mut looked_again = false;
        loop {
            let (clock, location) = (Arc::clone(&self.clock), Arc::clone(&self.location));
            let (database, turns) = self.database().map_err(Failure::of_all)?;
            let error = match run_batch(database, turns, batch, &clock, &location) {
                Ok(answers) => return Ok(answers),
                Err(error) => error,
            };
            database.seen = statements::Seen::default(); // the rollback may undo the rows that were seen
            if !database.connection.is_autocommit() && database.connection.execute_batch("ROLLBACK").is_err()
            {
                self.close_file();
            }
            // Another connection may have dropped or created the table since it was prepared:
            // prepare it again, once.
            if error.sqlite_error_code() == Some(ErrorCode::Unknown)
                && !std::mem::replace(&mut looked_again, true)
                && let Some(database) = &self.connection
            {
                prepare(&location, &database.connection).map_err(Failure::of_all)?;
                continue;
            }
            let failure = Failure {
                error: store_error(&location, &error),
                concerns_all: concerns_all(&error),
            };
            if failure.concerns_all && !failure.error.transient {
                self.close_file();
            }
            return Err(failure);
        }
    }

    /// Closes the file, so that the next request opens what is there then. A database in memory would be gone: it stays.
    fn close_file(&mut self) {
        if self.location.path().is_some()
            && let Some(database) = self.connection.take()
        {
            database.close();
        }
    }

    /// The open database. A file that was deleted or replaced goes on working for those who have it open, but excludes nobody else:
    /// then the file that is there now is opened.
    fn database(&mut self) -> Result<(&mut OpenDatabase, &mut Turns), StoreError> {
        let change = self
            .connection
            .as_mut()
            .map_or(Change::Nothing, OpenDatabase::change);
        if change != Change::Nothing
            && let Some(database) = self.connection.take()
        {
            database.abandon();
        }
        let database = match self.connection.take() {
            Some(database) => database,
            None => self.open()?,
        };
        if change == Change::Log {
            self.listener.failed(Trouble::LogRemoved, LOG_REMOVED);
            self.listener.works(Trouble::LogRemoved);
        }
        Ok((self.connection.insert(database), &mut self.turns))
    }

    fn open(&self) -> Result<OpenDatabase, StoreError> {
        let database = open(&self.location)?;
        let (Some(number), Location::File { path, .. }) = (self.number, &*self.location) else {
            return Ok(database);
        };
        let inode = database.file.as_ref().and_then(|file| file.inode());
        if let Some(other) = files::found(number, inode) {
            database.abandon();
            return Err(StoreError::permanent(format!(
                "{}: this process uses the same file under the name {}, and the two names do not exclude each \
                 other: use one name, or a symbolic link",
                place_of(&self.location),
                other.display()
            )));
        }
        match other_names(path) {
            Some(caution) => self.listener.failed(Trouble::OtherNames, &caution),
            None => self.listener.works(Trouble::OtherNames),
        }
        Ok(database)
    }

    /// If another connection has committed since the last look, tells the listener which watched keys are free; whether any is.
    fn probe(&mut self) -> bool {
        if self.turns.awaited().len() == 0 {
            return false;
        }
        let clock = Arc::clone(&self.clock);
        let Ok((database, _)) = self.database() else {
            return false;
        };
        let Ok(version) = statements::data_version(&database.connection) else {
            return false;
        };
        if version == database.data_version {
            return false;
        }
        database.data_version = version;
        let Some(database) = &self.connection else {
            return false;
        };
        let now = clock();
        let mut any_is_free = false;
        for key in self.turns.awaited() {
            if matches!(statements::observe(&database.connection, key, now), Ok(None)) {
                any_is_free = true;
                self.listener.changed(key_hash(key));
            }
        }
        any_is_free
    }
}
