//! PostgreSQL's URLs, with libpq's parameters.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::parts::{Parameters, Parts, decode};
use super::{CONNECT_TIMEOUT, Options, bad_parameter, unreadable_port};
use crate::lock::error::LockError;
use crate::lock::store::patience::Keepalive;
use crate::lock::store::postgres::PostgresSettings;

/// Takes apart `user:password@host:port/database?parameters`.
pub(super) fn settings(rest: &str, options: &Options) -> Result<PostgresSettings, LockError> {
    let server = server(rest, "database_url")?;
    let listen = options.listen_url.as_deref().map(listen_options).transpose()?;
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

/// Reads the URL of the direct connection for notifications.
pub(super) fn listen_options(url: &str) -> Result<PgConnectOptions, LockError> {
    match url.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => Ok(server(rest, "listen_url")?.connect),
        _ => Err(LockError::invalid(
            "listen_url",
            "listen_url must be a PostgreSQL URL",
        )),
    }
}

/// Whether a scheme, which may name a driver, means PostgreSQL.
pub(super) fn is_scheme(scheme: &str) -> bool {
    let dialect = scheme.split('+').next().unwrap_or_default();
    ["postgres", "postgresql"].contains(&dialect.to_ascii_lowercase().as_str())
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
