//! The thread that owns the connection: gathers requests, carries them out in one transaction, answers after the commit.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::oneshot;

use super::{Location, WallClock, neighbours, schema, statements};
use crate::lock::error::StoreError;
use crate::lock::operation::{Acquire, HandOver, Operation, Release, Renew, Reply, Won};
use crate::lock::store::{Listener, key_hash};

/// The most requests that share a transaction: more would keep other processes from writing for too long.
const LARGEST_BATCH: usize = 512;

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

impl Operation {
    /// Answers with an error.
    pub(crate) fn fail(self, error: &StoreError) {
        fn answer<T>(reply: Reply<T>, error: &StoreError) {
            let _ = reply.send(Err(error.clone()));
        }
        match self {
            Self::Acquire(acquire) => acquire.failed(error.clone()),
            Self::Renew(Renew { reply, .. }) => answer(reply, error),
            Self::Release(Release { reply, .. }) => answer(reply, error),
            Self::HandOver(HandOver { reply, .. }) => answer(reply, error),
            Self::Observe { reply, .. } | Self::List { reply, .. } => answer(reply, error),
            Self::Count { reply, .. } | Self::Clear { reply, .. } | Self::Sweep { reply, .. } => {
                answer(reply, error)
            }
        }
    }
}

pub(super) struct Worker {
    location: Arc<Location>,
    clock: WallClock,
    listener: Arc<dyn Listener>,
    connection: Option<OpenDatabase>,
    watched: HashSet<Arc<str>>,
}

/// The connection, and what was known when it was opened.
struct OpenDatabase {
    connection: Connection,
    file: Option<FileIdentity>,
    data_version: i64,
    seen: statements::Seen,
}

impl Worker {
    pub(super) fn new(location: Location, clock: WallClock, listener: Arc<dyn Listener>) -> Self {
        Self {
            location: Arc::new(location),
            clock,
            listener,
            connection: None,
            watched: HashSet::new(),
        }
    }

    /// Works until told to close, or until nobody is left who could tell anything.
    pub(super) fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut batch = Vec::new();
        while let Ok(first) = messages.recv() {
            let _no_fork_meanwhile = neighbours::working();
            let mut closing = false;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Operation(operation) => batch.push(operation),
                    Message::Watch { key, waiting: true } => drop(self.watched.insert(key)),
                    Message::Watch { key, waiting: false } => drop(self.watched.remove(&key)),
                    Message::Probe(answer) => drop(answer.send(self.probe())),
                    Message::Close => closing = true,
                }
                next = if batch.len() < LARGEST_BATCH && !closing {
                    messages.try_recv().ok()
                } else {
                    None
                };
            }
            if !batch.is_empty() {
                self.carry_out(std::mem::take(&mut batch));
            }
            if closing {
                break;
            }
        }
        let _no_fork_meanwhile = neighbours::working();
        self.connection = None;
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
            let database = self.database().map_err(Failure::of_all)?;
            let error = match run_batch(database, batch, &clock, &location) {
                Ok(answers) => return Ok(answers),
                Err(error) => error,
            };
            database.seen = statements::Seen::default(); // the rollback may undo the rows that were seen
            if !database.connection.is_autocommit() && database.connection.execute_batch("ROLLBACK").is_err()
            {
                self.let_go();
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
                self.let_go();
            }
            return Err(failure);
        }
    }

    /// Closes the file, so that the next request opens what is there then. A database in memory would be gone: it stays.
    fn let_go(&mut self) {
        if *self.location != Location::Memory {
            self.connection = None;
        }
    }

    fn database(&mut self) -> Result<&mut OpenDatabase, StoreError> {
        // A file that was deleted or replaced goes on working for those who have it open, but excludes nobody else.
        if let (Some(database), Location::File { path, .. }) = (&self.connection, &*self.location)
            && FileIdentity::of(path) != database.file
        {
            self.connection = None;
        }
        let database = match self.connection.take() {
            Some(database) => database,
            None => open(&self.location)?,
        };
        Ok(self.connection.insert(database))
    }

    /// If another connection has committed since the last look, tells the listener which watched keys are free; whether any is.
    fn probe(&mut self) -> bool {
        if self.watched.is_empty() {
            return false;
        }
        let clock = Arc::clone(&self.clock);
        let Ok(database) = self.database() else {
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
        for key in &self.watched {
            if matches!(statements::observe(&database.connection, key, now), Ok(None)) {
                any_is_free = true;
                self.listener.changed(key_hash(key));
            }
        }
        any_is_free
    }
}

struct Failure {
    error: StoreError,
    /// Whether every other request would fail in the same way now.
    concerns_all: bool,
}

impl Failure {
    fn of_all(error: StoreError) -> Self {
        Self {
            error,
            concerns_all: true,
        }
    }
}

/// Whether the file, or its state at the moment, caused a failure, and not one of the requests.
fn concerns_all(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        None | Some(
            ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::TooBig
                | ErrorCode::ParameterOutOfRange
                | ErrorCode::OperationAborted
                | ErrorCode::DiskFull // a smaller request may still succeed
                | ErrorCode::Unknown
        )
    )
}

/// What came of one operation, to be told once the transaction is committed.
enum Answer {
    Attempt(crate::lock::operation::Attempt),
    /// The expiry of the existing row can't be read.
    Unreadable(StoreError),
    Renewed(Option<f64>),
    Released(bool),
    HandedOver(Option<Won>),
    Rows(Vec<crate::lock::operation::LockRow>),
    Number(u64),
}

impl Answer {
    fn give(self, operation: Operation) {
        use crate::lock::operation::Attempt;
        match (self, operation) {
            (Self::Attempt(Attempt::Won(won)), Operation::Acquire(acquire)) => acquire.won(won),
            (Self::Attempt(Attempt::Held(by)), Operation::Acquire(acquire)) => acquire.held(by),
            (Self::Unreadable(error), operation) => operation.fail(&error),
            (Self::Renewed(expiry), Operation::Renew(Renew { reply, .. })) => drop(reply.send(Ok(expiry))),
            (Self::Released(existed), Operation::Release(Release { reply, .. })) => {
                drop(reply.send(Ok(existed)))
            }
            (Self::HandedOver(won), Operation::HandOver(HandOver { reply, .. })) => drop(reply.send(Ok(won))),
            (Self::Rows(rows), Operation::Observe { reply, .. } | Operation::List { reply, .. }) => {
                drop(reply.send(Ok(rows)));
            }
            (
                Self::Number(number),
                Operation::Count { reply, .. }
                | Operation::Clear { reply, .. }
                | Operation::Sweep { reply, .. },
            ) => {
                drop(reply.send(Ok(number)));
            }
            (_, operation) => operation.fail(&StoreError::permanent("the lock store mixed up its answers")),
        }
    }
}

fn give_each(batch: Vec<Operation>, answers: Vec<Answer>) {
    for (operation, answer) in batch.into_iter().zip(answers) {
        answer.give(operation);
    }
}

fn run_batch(
    database: &mut OpenDatabase,
    batch: &[Operation],
    clock: &WallClock,
    location: &Location,
) -> rusqlite::Result<Vec<Answer>> {
    let writes = batch.iter().any(|operation| {
        !matches!(
            operation,
            Operation::Observe { .. } | Operation::List { .. } | Operation::Count { .. }
        )
    });
    let OpenDatabase { connection, seen, .. } = database;
    statements::begin(connection, writes)?;
    let now = clock();
    let mut fence = statements::Fence::default();
    let mut answers = Vec::with_capacity(batch.len());
    for operation in batch {
        answers.push(match operation {
            Operation::Acquire(Acquire { claim, .. }) => {
                match statements::acquire(connection, claim, now, &mut fence)? {
                    Ok(attempt) => Answer::Attempt(attempt),
                    Err(what) => Answer::Unreadable(
                        StoreError::unreadable_row(&claim.key, &what).at(&place_of(location)),
                    ),
                }
            }
            Operation::Renew(renew) => {
                Answer::Renewed(statements::renew(connection, &renew.id, renew.ttl, now)?)
            }
            Operation::Release(release) => {
                Answer::Released(statements::release(connection, &release.target)?)
            }
            Operation::HandOver(hand_over) => {
                Answer::HandedOver(statements::hand_over(connection, hand_over, now, &mut fence)?)
            }
            Operation::Observe { keys, .. } => Answer::Rows(seen.observe(connection, keys, now)?),
            Operation::List { .. } => Answer::Rows(statements::list(connection, now)?),
            Operation::Count { .. } => Answer::Number(statements::count(connection, now)?),
            Operation::Clear { .. } => Answer::Number(statements::clear(connection)?),
            Operation::Sweep { .. } => Answer::Number(statements::sweep(connection, now)?),
        });
    }
    fence.store(connection)?;
    statements::commit(connection)?;
    Ok(answers)
}

fn open(location: &Location) -> Result<OpenDatabase, StoreError> {
    neighbours::install();
    let connection = match location {
        Location::Memory => Connection::open_in_memory(),
        Location::File { path, create_folders } => {
            if *create_folders && let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|error| {
                    StoreError::permanent(format!("cannot make the folder {}: {error}", folder.display()))
                })?;
            }
            if path.is_dir() {
                return Err(StoreError::permanent(format!(
                    "the database {} is a directory",
                    path.display()
                )));
            }
            if let Some(folder) = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
            {
                return Err(StoreError::permanent(format!(
                    "cannot open the database {}: the folder {} does not exist",
                    path.display(),
                    folder.display()
                )));
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Connection::open_with_flags(path, flags)
        }
    };
    let mut connection = connection.map_err(|error| store_error(location, &error))?;
    configure(&mut connection).map_err(|error| store_error(location, &error))?;
    prepare(location, &connection)?;
    let data_version =
        statements::data_version(&connection).map_err(|error| store_error(location, &error))?;
    let file = match location {
        Location::File { path, .. } => FileIdentity::of(path),
        Location::Memory => None,
    };
    Ok(OpenDatabase {
        connection,
        file,
        data_version,
        seen: statements::Seen::default(),
    })
}

fn prepare(location: &Location, connection: &Connection) -> Result<(), StoreError> {
    schema::prepare(connection).map_err(|error| error.at(&place_of(location)))
}

fn configure(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(wait_for_writer))?;
    connection.set_prepared_statement_cache_capacity(32);
    // On a network drive WAL is refused: the mode found there serves, too.
    match connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get::<_, String>(0)) {
        Ok(_) => {}
        Err(error) if is_busy(&error) => return Err(error),
        Err(_) => {
            connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))?;
        }
    }
    connection.execute_batch("PRAGMA synchronous=NORMAL")
}

/// Another process writes: look again soon, since its transaction lasts well under a millisecond; give up after about half
/// a second, so that requests can meet their own time limits.
fn wait_for_writer(times: i32) -> bool {
    let pause = match times {
        0..20 => Duration::from_micros(100),
        20..500 => Duration::from_millis(1),
        _ => return false,
    };
    std::thread::sleep(pause);
    true
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

fn place_of(location: &Location) -> String {
    match location {
        Location::File { path, .. } => format!("SQLite database {}", path.display()),
        Location::Memory => "SQLite database :memory:".into(),
    }
}

pub(super) fn store_error(location: &Location, error: &rusqlite::Error) -> StoreError {
    let message = format!("{}: {error}", place_of(location));
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::SchemaChanged) => {
            StoreError::transient(message)
        }
        // A write that failed half-way may have reached the disk.
        Some(ErrorCode::SystemIoFailure) => StoreError {
            outcome_unknown: true,
            ..StoreError::permanent(message)
        },
        _ => StoreError::permanent(message),
    }
}

/// Tells one file from another under the same path.
#[derive(PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    #[cfg(unix)]
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).ok().map(|data| Self {
            device: data.dev(),
            inode: data.ino(),
        })
    }

    #[cfg(not(unix))]
    fn of(path: &Path) -> Option<Self> {
        path.exists().then_some(Self { device: 0, inode: 0 })
    }
}
