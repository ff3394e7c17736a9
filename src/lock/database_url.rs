//! Database URLs in SQLAlchemy's form, with libpq's parameters; and Redis's.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::LockError;
use super::store::postgres::PostgresSettings;
use super::store::redis::RedisSettings;
use super::store::sqlite::Location;

use self::parts::shown;

mod parts;
mod postgres;
mod redis;
mod sqlite;

/// The database used when none is named.
pub const DEFAULT_URL: &str = "sqlite:///data/tasks.db";

/// The most connections that a PostgreSQL server can be set to take.
const MOST_CONNECTIONS: usize = 262_143;

/// How long a connection may take to be made, unless the URL's `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A database, and how to reach it. Two values are equal when they mean the same database: when
/// their [`Identity`] is.
#[derive(Debug, Clone)]
pub enum Database {
    /// A SQLite file, or the process's one database in memory.
    Sqlite(Location),
    /// A database in memory that only those who know its number share.
    PrivateMemory(u64),
    Postgres(Arc<PostgresSettings>),
    Redis(Arc<RedisSettings>),
}

/// Which database it is, however its URL is written.
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Identity<'a> {
    /// A file, by its path without symbolic links.
    File(&'a Path),
    /// The process's one database in memory.
    Memory,
    PrivateMemory(u64),
    /// A server, its database, and whatever else decides what is seen there.
    Server(&'a str),
}

/// What a caller may set beside the URL.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most connections to a server, the one that listens included: see [`connections`].
    pub max_connections: usize,
    /// A direct connection for notifications, where the URL leads through a pooler.
    pub listen_url: Option<String>,
    /// Whether statements may be kept prepared between transactions; not behind a pooler in transaction mode.
    pub statement_cache: bool,
    /// Whether missing parent folders of a SQLite file are made.
    pub create_folders: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 5,
            listen_url: None,
            statement_cache: true,
            create_folders: false,
        }
    }
}

impl Options {
    /// Checks what can be checked without a database.
    ///
    /// # Errors
    /// [`LockError::InvalidArgument`] if `listen_url` is not the URL of a PostgreSQL server.
    pub fn check(&self) -> Result<(), LockError> {
        self.listen_url
            .as_deref()
            .map_or(Ok(()), |url| postgres::listen_options(url).map(drop))
    }
}

/// Checks a number of connections.
///
/// # Errors
/// [`LockError::InvalidArgument`] if it is less than 1, or more than PostgreSQL can have.
pub fn connections(number: i64) -> Result<usize, LockError> {
    usize::try_from(number)
        .ok()
        .filter(|number| (1..=MOST_CONNECTIONS).contains(number))
        .ok_or_else(|| {
            LockError::invalid(
                "max_connections",
                format!("max_connections must be from 1 to {MOST_CONNECTIONS}, not {number}"),
            )
        })
}

impl Database {
    /// Which database it is.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        match self {
            Self::Sqlite(Location::File { path, .. }) => Identity::File(path),
            Self::Sqlite(Location::Memory) => Identity::Memory,
            Self::PrivateMemory(number) => Identity::PrivateMemory(*number),
            Self::Postgres(settings) => Identity::Server(&settings.identity),
            Self::Redis(settings) => Identity::Server(&settings.identity),
        }
    }

    /// The name of the database, for messages; without secrets.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Sqlite(Location::File { path, .. }) => format!("SQLite database {}", path.display()),
            Self::Sqlite(Location::Memory) | Self::PrivateMemory(_) => "SQLite database in memory".into(),
            Self::Postgres(settings) => settings.describe(),
            Self::Redis(settings) => settings.place.clone(),
        }
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// [`LockError::InvalidArgument`] if the URL names no supported database. The message never
    /// contains the part of the URL before an `@`, but for the name of a database before `://`.
    pub fn parse(url: &str, options: &Options) -> Result<Self, LockError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(LockError::invalid(
                "database_url",
                "database_url is not a URL: it has no \"://\"",
            ));
        };
        let is_in_scheme = |character: char| character.is_ascii_alphanumeric() || "+-._".contains(character);
        if !scheme.chars().all(is_in_scheme) {
            return Err(LockError::invalid(
                "database_url",
                "database_url is not a URL: it does not begin with the name of a database and \"://\"",
            ));
        }
        let dialect = scheme.split('+').next().unwrap_or_default().to_ascii_lowercase();
        match dialect.as_str() {
            "sqlite" => sqlite::location(rest, options.create_folders).map(Self::Sqlite),
            _ if postgres::is_scheme(scheme) => {
                postgres::settings(rest, options).map(|settings| Self::Postgres(Arc::new(settings)))
            }
            "redis" | "rediss" | "valkey" | "valkeys" | "unix" => {
                redis::settings(scheme, rest).map(|settings| Self::Redis(Arc::new(settings)))
            }
            _ => Err(LockError::invalid(
                "database_url",
                format!(
                    "database_url has the unknown scheme {scheme:?}; known are sqlite, postgresql and redis"
                ),
            )),
        }
    }
}

impl PartialEq for Database {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Database {}

impl Hash for Database {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl fmt::Display for Database {
    /// Writes the kind and the place of the database, without secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(Location::File { path, .. }) => write!(formatter, "SQLite {}", path.display()),
            Self::Sqlite(Location::Memory) | Self::PrivateMemory(_) => {
                formatter.write_str("SQLite in memory")
            }
            Self::Postgres(settings) => formatter.write_str(&settings.describe()),
            Self::Redis(settings) => formatter.write_str(&settings.place),
        }
    }
}

fn bad_parameter(argument: &'static str, name: &str, value: &str) -> LockError {
    LockError::invalid(
        argument,
        format!("{argument} has a {name} that can't be read: {:?}", shown(value)),
    )
}

/// The message does not contain the port, because the text in its place may be a part of a
/// password.
fn unreadable_port(argument: &'static str) -> LockError {
    LockError::invalid(argument, format!("{argument} has a port that can't be read"))
}

#[cfg(test)]
mod tests;
