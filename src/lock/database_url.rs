//! Database URLs in SQLAlchemy's form, with libpq's parameters; and Redis's.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::error::LockError;
use super::store::patience::Keepalive;
use super::store::postgres::PostgresSettings;
use super::store::redis::RedisSettings;
use super::store::sqlite::Location;

use self::parts::{Parameters, Parts, decode, shown};

mod parts;
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
    Postgres(Arc<PostgresSettings>),
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
    /// Which database it is, for messages; without secrets.
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
    /// contains the part of the URL before an `@`.
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
    let query = Parameters::read(query);
    let is_uri = query.last("uri").is_some_and(|value| {
        let value = value.trim().to_ascii_lowercase();
        ["true", "yes", "on", "y", "t", "1"].contains(&value.as_str())
    });
    let in_memory = query.last("mode").is_some_and(|mode| mode == "memory");
    // SQLite reads a file name as a URI only if the parameter `uri` is true.
    let path = match path.strip_prefix("file:").filter(|_| is_uri) {
        Some(uri) => decode(uri.strip_prefix("//localhost").unwrap_or(uri)),
        None => path.to_owned(),
    };
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
        path: absolute(Path::new(&path)),
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
    let server = server(rest, "database_url")?;
    let listen = match &options.listen_url {
        None => None,
        Some(url) => match url.split_once("://") {
            Some((scheme, rest)) if scheme.starts_with("postgres") => {
                Some(self::server(rest, "listen_url")?.connect)
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
        .any(|name| server.parameters.last(name).is_some_and(|size| size == "0"));
    let connect_timeout = match server.parameters.last("connect_timeout") {
        None => CONNECT_TIMEOUT,
        // libpq: zero or less waits for ever, which a lock's caller never wants.
        Some(seconds) => match seconds.parse::<u16>() {
            Ok(0) => CONNECT_TIMEOUT,
            Ok(seconds) => Duration::from_secs(u64::from(seconds)),
            Err(_) => return Err(bad_parameter("database_url", "connect_timeout", seconds)),
        },
    };
    Ok(PostgresSettings {
        identity: server.identity().into(),
        connect: server.connect,
        listen,
        connect_timeout,
        max_connections: options.max_connections,
        statement_cache: options.statement_cache && !cache_switched_off,
        keepalive: Keepalive::read(
            |name| server.parameters.last(name),
            |name, value| bad_parameter("database_url", name, value),
        )?,
    })
}

/// A server, its password, and the settings and parameters of its URL.
struct Server {
    connect: PgConnectOptions,
    password: String,
    settings: BTreeMap<String, String>,
    parameters: Parameters,
}

impl Server {
    /// Returns a text that is equal for all URLs of the same database, however they are written.
    fn identity(&self) -> String {
        let connect = &self.connect;
        let database = connect.get_database().unwrap_or_else(|| connect.get_username());
        let place = (
            connect.get_socket(),
            connect.get_host(),
            connect.get_port(),
            database,
        );
        let others: BTreeMap<&str, &str> = self
            .parameters
            .iter()
            .filter(|(name, _)| !IN_PLACE.contains(name) && *name != "options")
            .collect();
        let user = (connect.get_username(), &self.password);
        format!("{place:?}{user:?}{:?}{others:?}", self.settings)
    }
}

/// Parameters that override the user, password, host, port and path of the URL.
const IN_PLACE: [&str; 6] = ["host", "hostaddr", "port", "dbname", "user", "password"];

fn server(rest: &str, argument: &'static str) -> Result<Server, LockError> {
    let parts = Parts::of(rest, argument)?;
    let parameters = Parameters::read(parts.query);
    refuse_several_hosts(&parts, &parameters, argument)?;
    if parameters.last("service").is_some() {
        let message = format!("{argument} has the parameter service, which is not supported");
        return Err(LockError::invalid(argument, message));
    }
    // How floats are written means nothing here, where all are binary; and PgBouncer refuses who asks for it.
    let mut options = PgConnectOptions::new_without_pgpass()
        .application_name("arbitrageai-native")
        .extra_float_digits(None);
    options = with_host(options, &parts.host);
    let password = decode(parts.password);
    for (value, set) in [
        (
            decode(parts.user),
            PgConnectOptions::username as fn(PgConnectOptions, &str) -> PgConnectOptions,
        ),
        (password.clone(), PgConnectOptions::password),
        (decode(parts.path), PgConnectOptions::database),
    ] {
        if !value.is_empty() {
            options = set(options, &value);
        }
    }
    if !parts.port.is_empty() {
        options = options.port(parts.port.parse().map_err(|_| unreadable_port(argument))?);
    }
    for (name, value) in parameters.iter() {
        options = parameter(options, argument, name, value)?;
    }
    let settings = parameters
        .last("options")
        .map(command_line_options)
        .unwrap_or_default();
    if !settings.is_empty() {
        options = options.options(&settings);
    }
    Ok(Server {
        connect: options,
        password: parameters.last("password").map_or(password, str::to_owned),
        settings,
        parameters,
    })
}

/// libpq and SQLAlchemy accept several hosts and choose one of them. Here the list would be taken
/// for the name of one host, which does not exist.
fn refuse_several_hosts(
    parts: &Parts<'_>,
    parameters: &Parameters,
    argument: &'static str,
) -> Result<(), LockError> {
    let several = |name: &str| {
        let mut values = parameters.iter().filter(|(given, _)| *given == name);
        values.clone().count() > 1 || values.any(|(_, value)| value.contains(','))
    };
    if parts.host.contains(',')
        || parts.port.contains(',')
        || ["host", "hostaddr", "port"].into_iter().any(several)
    {
        let message =
            format!("{argument} names several hosts: one is supported, and target_session_attrs is not");
        return Err(LockError::invalid(argument, message));
    }
    Ok(())
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
        // SQLAlchemy's form is `host=name:port`. A value with several colons is an IPv6 address.
        "host" => match value.split_once(':') {
            Some((host, port)) if !value.starts_with('/') && !port.contains(':') => with_host(
                options.port(port.parse().map_err(|_| bad_parameter(argument, name, value))?),
                host,
            ),
            _ => with_host(options, value),
        },
        "hostaddr" => with_host(options, value),
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
        _ => options,
    })
}

/// Returns the settings in libpq's `options`: `-c name=value` and `--name=value`. If a name occurs
/// twice, the last value wins. A backslash escapes the next character.
fn command_line_options(value: &str) -> BTreeMap<String, String> {
    let mut words = vec![String::new()];
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (character, words.last_mut()) {
            ('\\', Some(word)) => word.extend(characters.next()),
            (space, _) if space.is_whitespace() => words.push(String::new()),
            (character, Some(word)) => word.push(character),
            (_, None) => {}
        }
    }
    let mut settings = BTreeMap::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            Some("") => words.next().unwrap_or_default(),
            Some(setting) => setting.to_owned(),
            None => continue,
        };
        if let Some((name, value)) = setting.split_once('=') {
            settings.insert(name.replace('-', "_").to_ascii_lowercase(), value.to_owned());
        }
    }
    settings
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
