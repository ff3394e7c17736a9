//! A look at the file. Nothing is made beside it either: a journal of a look's own might belong to a user who keeps the
//! application from its database.

use std::fmt::Write as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::worker::store_error;
use super::{Location, neighbours, schema};
use crate::lock::error::StoreError;
use crate::lock::inspection::{Inspection, Tables};

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
    if path.is_dir() {
        found.obstacles.push("it is a directory".to_owned());
    } else if path.exists() {
        found.tables = tables(location, path)?;
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
            missing: schema::TABLES.to_vec(),
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
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(address(path), flags).map_err(failed)?;
    schema::look(&connection).map_err(failed)
}

/// The file as a URI. Without a log beside it nobody writes it now: it is read as it is, which spares SQLite a log of ours.
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
    if !Path::new(&log).exists() {
        address.push_str("?immutable=1");
    }
    address
}

#[cfg(unix)]
fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(not(unix))]
fn is_writable(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| !data.permissions().readonly())
}
