//! Database URLs in SQLAlchemy's form, with libpq's parameters; and Redis's.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::error::LockError;
use super::store::postgres::PostgresSettings;
use super::store::redis::RedisSettings;
use super::store::sqlite::Location;

mod redis;

/// The database used when none is named.
pub const DEFAULT_URL: &str = "sqlite:///data/tasks.db";

/// How long a connection may take to be made, unless the URL's `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A database, and how to reach it. Two values are equal when they mean the same database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Database {
    /// A SQLite file, or the process's one database in memory.
    Sqlite(Location),
    /// A database in memory that only those who know its number share.
    PrivateMemory(u64),
    /// A PostgreSQL server.
    Postgres(Arc<PostgresSettings>),
    /// A Redis server.
    Redis(Arc<RedisSettings>),
}

/// What a caller may set beside the URL.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most connections to a server, the one that listens included.
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

impl Database {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`LockError::InvalidArgument`] for a URL that names no database known here. The message never has the password.
    pub fn parse(url: &str, options: &Options) -> Result<Self, LockError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(LockError::invalid(
                "database_url",
                "database_url is not a URL: it has no \"://\"",
            ));
        };
        let dialect = scheme.split('+').next().unwrap_or_default().to_ascii_lowercase();
        match dialect.as_str() {
            "sqlite" => sqlite_location(rest, options.create_folders).map(Self::Sqlite),
            "postgres" | "postgresql" => {
                postgres(rest, options).map(|settings| Self::Postgres(Arc::new(settings)))
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

impl fmt::Display for Database {
    /// The kind and the place, without secrets.
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

fn sqlite_location(rest: &str, create_folders: bool) -> Result<Location, LockError> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() {
        return Ok(Location::Memory);
    }
    let Some(path) = path.strip_prefix('/') else {
        return Err(LockError::invalid(
            "database_url",
            "a SQLite URL has three slashes before a relative path and four before an absolute one",
        ));
    };
    let query = parameters(query);
    let in_memory = query.get("mode").is_some_and(|mode| mode == "memory");
    let path = path.strip_prefix("file:").unwrap_or(path);
    if path.is_empty() || path == ":memory:" || in_memory {
        return Ok(Location::Memory);
    }
    if path.contains('\0') {
        return Err(LockError::invalid(
            "database_url",
            "database_url must not contain NUL characters",
        ));
    }
    Ok(Location::File {
        path: absolute(Path::new(path)),
        create_folders,
    })
}

/// One path for one file, so that everyone who means it shares an engine.
fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (Some(folder), Some(name)) = (whole.parent(), whole.file_name()) else {
        return whole;
    };
    whole
        .canonicalize()
        .or_else(|_| folder.canonicalize().map(|folder| folder.join(name)))
        .unwrap_or(whole)
}

/// A PostgreSQL URL, taken apart: `user:password@host:port/database?parameters`.
fn postgres(rest: &str, options: &Options) -> Result<PostgresSettings, LockError> {
    let (connect, query) = connect_options(rest, "database_url")?;
    let listen = match &options.listen_url {
        None => None,
        Some(url) => match url.split_once("://") {
            Some((scheme, rest)) if scheme.starts_with("postgres") => {
                Some(connect_options(rest, "listen_url")?.0)
            }
            _ => {
                return Err(LockError::invalid(
                    "listen_url",
                    "listen_url must be a PostgreSQL URL",
                ));
            }
        },
    };
    if options.max_connections < 1 {
        return Err(LockError::invalid(
            "max_connections",
            "max_connections must be at least 1, not 0",
        ));
    }
    let cache_switched_off = ["prepared_statement_cache_size", "statement_cache_size"]
        .iter()
        .any(|name| query.get(*name).is_some_and(|size| size == "0"));
    let connect_timeout = match query.get("connect_timeout") {
        None => CONNECT_TIMEOUT,
        // libpq: zero or less waits for ever, which a lock's caller never wants.
        Some(seconds) => match seconds.parse::<u16>() {
            Ok(0) => CONNECT_TIMEOUT,
            Ok(seconds) => Duration::from_secs(u64::from(seconds)),
            Err(_) => return Err(bad_parameter("database_url", "connect_timeout", seconds)),
        },
    };
    Ok(PostgresSettings {
        identity: rest.to_owned().into(),
        connect,
        listen,
        connect_timeout,
        max_connections: options.max_connections,
        statement_cache: options.statement_cache && !cache_switched_off,
    })
}

fn connect_options(
    rest: &str,
    argument: &'static str,
) -> Result<(PgConnectOptions, HashMap<String, String>), LockError> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let query = parameters(query);
    // How floats are written means nothing here, where all are binary; and PgBouncer refuses who asks for it.
    let mut options = PgConnectOptions::new_without_pgpass()
        .application_name("arbitrageai-native")
        .extra_float_digits(None);
    let (host, port) = match address.rsplit_once(':') {
        // The colons of an IPv6 address are inside brackets.
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (address, ""),
    };
    let host = decode(host.trim_start_matches('[').trim_end_matches(']'));
    options = with_host(options, &host);
    for (value, set) in [
        (
            decode(user),
            PgConnectOptions::username as fn(PgConnectOptions, &str) -> PgConnectOptions,
        ),
        (decode(password), PgConnectOptions::password),
        (decode(database), PgConnectOptions::database),
    ] {
        if !value.is_empty() {
            options = set(options, &value);
        }
    }
    if !port.is_empty() {
        options = options.port(port.parse().map_err(|_| bad_parameter(argument, "port", port))?);
    }
    for (name, value) in &query {
        options = parameter(options, argument, name, value)?;
    }
    Ok((options, query))
}

fn with_host(options: PgConnectOptions, host: &str) -> PgConnectOptions {
    match host {
        "" => options,
        _ if host.starts_with('/') => options.socket(host),
        _ => options.host(host),
    }
}

/// One of libpq's parameters, or of the drivers that write such URLs. Those that mean nothing here are passed over.
fn parameter(
    options: PgConnectOptions,
    argument: &'static str,
    name: &str,
    value: &str,
) -> Result<PgConnectOptions, LockError> {
    let bad = |_| bad_parameter(argument, name, value);
    Ok(match name {
        "host" | "hostaddr" => with_host(options, value),
        "port" => options.port(value.parse().map_err(|_| bad_parameter(argument, name, value))?),
        "dbname" => options.database(value),
        "user" => options.username(value),
        "password" => options.password(value),
        "application_name" => options.application_name(value),
        "sslmode" => options.ssl_mode(value.parse().map_err(bad)?),
        // asyncpg's name for it.
        "ssl" => options.ssl_mode(match value.to_ascii_lowercase().as_str() {
            "true" | "1" => PgSslMode::Require,
            "false" | "0" => PgSslMode::Disable,
            mode => mode.parse().map_err(bad)?,
        }),
        "sslrootcert" => options.ssl_root_cert(value),
        "sslcert" => options.ssl_client_cert(value),
        "sslkey" => options.ssl_client_key(value),
        "options" => command_line_options(options, value),
        _ => options,
    })
}

/// `-c name=value` settings, as libpq's `options` has them.
fn command_line_options(options: PgConnectOptions, value: &str) -> PgConnectOptions {
    let words = value
        .split_whitespace()
        .filter(|word| *word != "-c")
        .map(|word| word.trim_start_matches("-c"));
    let settings: Vec<(&str, &str)> = words
        .filter_map(|word| word.trim_start_matches('-').split_once('='))
        .collect();
    options.options(settings)
}

fn bad_parameter(argument: &'static str, name: &str, value: &str) -> LockError {
    LockError::invalid(
        argument,
        format!("{argument} has a {name} that can't be read: {value:?}"),
    )
}

fn parameters(query: &str) -> HashMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Undoes percent-encoding; what is no valid encoding stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while position < bytes.len() {
        let byte = text
            .get(position + 1..position + 3)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[position], byte) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                position += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                position += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

impl PartialEq for RedisSettings {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for RedisSettings {}

impl Hash for RedisSettings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

impl PartialEq for PostgresSettings {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for PostgresSettings {}

impl Hash for PostgresSettings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

#[cfg(test)]
mod tests;
