//! The connection to one database, and how it is opened and closed.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::identity::{Change, FileIdentity};
use super::{Location, neighbours, schema, statements};
use crate::lock::error::StoreError;

/// The connection, and what was known when it was opened.
pub(super) struct OpenDatabase {
    pub(super) connection: Connection,
    /// None in memory.
    pub(super) file: Option<FileIdentity>,
    pub(super) data_version: i64,
    pub(super) seen: statements::Seen,
}

impl OpenDatabase {
    /// Looks whether the connection still leads to the file that others find.
    pub(super) fn change(&mut self) -> Change {
        self.file.as_mut().map_or(Change::Nothing, FileIdentity::change)
    }

    /// Closes the file, and moves what is in its write-ahead log to it. SQLite does so by itself
    /// only if nobody else has the file open.
    pub(super) fn close(mut self) {
        if self.change() != Change::Nothing {
            self.abandon();
        } else if self.file.is_some() {
            let moved = self
                .connection
                .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            drop(moved); // what is left in the log is found there
        }
    }

    /// Closes a file whose name, or the name of whose log, others use for another file by now.
    /// Moving our log into the database would destroy what they have written.
    pub(super) fn abandon(self) {
        let _ = self
            .connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        drop(self.connection);
        if let Some(file) = self.file {
            file.remove_what_is_left_of_a_replaced_file();
        }
    }
}

pub(super) fn open(location: &Location) -> Result<OpenDatabase, StoreError> {
    neighbours::install();
    let connection = match location {
        Location::Memory => Connection::open_in_memory(),
        Location::File { path, create_folders } => {
            if *create_folders && let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|error| {
                    StoreError::permanent(format!("cannot make the folder {}: {error}", folder.display()))
                })?;
            }
            if let Some(obstacle) = obstacle(path) {
                return Err(StoreError::permanent(format!(
                    "cannot open the database {}: {obstacle}",
                    path.display()
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
        Location::File { path, .. } => Some(FileIdentity::of(path)),
        Location::Memory => None,
    };
    Ok(OpenDatabase {
        connection,
        file,
        data_version,
        seen: statements::Seen::default(),
    })
}

/// Why there can be no database under this path. Something that is no file must not be opened: to
/// open a pipe waits for its other end.
pub(super) fn obstacle(path: &Path) -> Option<String> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Some("it is a directory".into()),
        Ok(found) if !found.is_file() => Some("it is not a file".into()),
        Ok(_) => None,
        Err(_) => path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
            .map(|folder| format!("the folder {} does not exist", folder.display())),
    }
}

pub(super) fn prepare(location: &Location, connection: &Connection) -> Result<(), StoreError> {
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

pub(super) fn place_of(location: &Location) -> String {
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
