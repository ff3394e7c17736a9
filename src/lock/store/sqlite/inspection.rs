//! A look at the file. Nothing is made beside it either: a journal of a look's own might belong to a user who keeps the
//! application from its database.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

use super::database::{obstacle, store_error};
use super::identity::other_names;
use super::{Location, neighbours, schema, statements, system_clock};
use crate::lock::error::StoreError;
use crate::lock::inspection::{Inspection, Tables};
use crate::lock::operation::LockRow;

/// How long `look` waits for another connection that writes to a file without a write-ahead log.
const WRITER_PATIENCE: Duration = Duration::from_secs(2);

/// See [`crate::lock::inspect`]. It blocks.
pub(in crate::lock) fn inspect(location: &Location) -> Result<Inspection, StoreError> {
    let Location::File { path, create_folders } = location else {
        return Ok(inspect_memory());
    };
    let mut found = Inspection {
        place: format!("SQLite database {}", path.display()),
        ..blank()
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let obstacle = obstacle(path).filter(|_| path.exists());
    if let Some(obstacle) = obstacle {
        found.obstacles.push(obstacle);
    } else if path.exists() {
        found.tables = tables(location, path)?;
        found.cautions.extend(other_names(path));
        if !is_writable(path) {
            found
                .obstacles
                .push("this user may not write the file".to_owned());
        }
    } else if let Some(folder) = folder.filter(|folder| !folder.exists() && !create_folders) {
        let obstacle = format!("the folder {} does not exist", folder.display());
        found.obstacles.push(obstacle);
    }
    if let Some(folder) = folder.filter(|folder| folder.exists() && !is_writable(folder)) {
        let obstacle = format!("this user may not write in the folder {}", folder.display());
        found.obstacles.push(obstacle);
    }
    Ok(found)
}

/// What there is to say of a database in memory.
pub(in crate::lock) fn inspect_memory() -> Inspection {
    Inspection {
        cautions: vec!["locks in memory exclude nobody outside of the process".to_owned()],
        ..blank()
    }
}

/// A database that is not there yet.
fn blank() -> Inspection {
    Inspection {
        place: "SQLite database in memory".to_owned(),
        server: format!("SQLite {}", rusqlite::version()),
        tables: Tables::Usable {
            missing: schema::tables().collect(),
        },
        clock_ahead: None,
        encrypted: None,
        obstacles: Vec::new(),
        cautions: Vec::new(),
    }
}

fn tables(location: &Location, path: &Path) -> Result<Tables, StoreError> {
    neighbours::install();
    let _no_fork_meanwhile = neighbours::working();
    let failed = |error: rusqlite::Error| store_error(location, &error);
    schema::look(&open(path).map_err(failed)?).map_err(failed)
}

/// Reads the rows of a file; see [`crate::lock::look`]. This function blocks.
pub(in crate::lock) fn look(path: &Path) -> Result<Vec<LockRow>, StoreError> {
    let why_not = match std::fs::metadata(path) {
        Ok(data) if data.is_file() => None,
        Ok(data) if data.is_dir() => Some(format!("{} is a directory", path.display())),
        Ok(_) => Some(format!("{} is not a file", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Some(format!("there is no file {}", path.display()))
        }
        Err(error) => Some(format!("{} can't be read: {error}", path.display())),
    };
    if let Some(why_not) = why_not {
        return Err(StoreError::permanent(why_not));
    }
    neighbours::install();
    let _no_fork_meanwhile = neighbours::working();
    let location = Location::File {
        path: path.to_owned(),
        create_folders: false,
    };
    let failed = |error: rusqlite::Error| store_error(&location, &error);
    let connection = open(path).map_err(failed)?;
    connection.busy_timeout(WRITER_PATIENCE).map_err(failed)?;
    match schema::look(&connection).map_err(failed)? {
        Tables::AnotherShape(difference) => {
            let message = format!("SQLite database {}: {difference}", path.display());
            Err(StoreError::permanent(message))
        }
        Tables::Usable { missing } if missing.contains(&schema::LOCK_TABLE) => Ok(Vec::new()),
        _ => rows(&connection).map_err(failed),
    }
}

fn rows(connection: &Connection) -> rusqlite::Result<Vec<LockRow>> {
    let now = system_clock()();
    connection
        .prepare(statements::ROWS)?
        .query_map([], |row| {
            let expires_at = number(row, 4)?;
            Ok(LockRow {
                key: text(row, 0)?.into(),
                id: text(row, 1)?,
                holder: text(row, 2)?,
                acquired_at: number(row, 3)?,
                expires_at,
                expires_in: expires_at - now,
            })
        })?
        .collect()
}

/// Reads a time. Columns of SQLite accept values of any type. A value that is no number becomes
/// NaN, so that one odd row does not fail the whole list.
fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<f64> {
    #[allow(clippy::cast_precision_loss, reason = "seconds fit")]
    Ok(match row.get_ref(column)? {
        ValueRef::Real(number) => number,
        ValueRef::Integer(number) => number as f64,
        _ => f64::NAN,
    })
}

/// Reads a name, from a value of any type.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Null => String::new(),
    })
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(address(path), flags)
}

/// Returns the path as a URI. If the file is in WAL mode and has no write-ahead log, no connection
/// is open. Then the URI declares the file immutable, so that SQLite creates no log to read it.
fn address(path: &Path) -> String {
    let mut address = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                address.push(char::from(*byte))
            }
            byte => drop(write!(address, "%{byte:02X}")),
        }
    }
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if is_in_wal_mode(path) && !Path::new(&log).exists() {
        address.push_str("?immutable=1");
    }
    address
}

/// Whether the file is in WAL mode, according to its header:
/// <https://www.sqlite.org/fileformat2.html#file_format_version_numbers>
fn is_in_wal_mode(path: &Path) -> bool {
    let mut header = [0; 20];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut header))
        .is_ok_and(|()| header[19] == 2)
}

#[cfg(unix)]
fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(not(unix))]
fn is_writable(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| !data.permissions().readonly())
}
