//! Redis's URLs, with the parameters of `redis-py`.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates,
};

use super::parts::{Parameters, Parts, decode, shown};
use super::{CONNECT_TIMEOUT, bad_parameter, unreadable_port};
use crate::lock::error::LockError;
use crate::lock::names;
use crate::lock::store::patience::Keepalive;
use crate::lock::store::redis::RedisSettings;

const ARGUMENT: &str = "database_url";
const PORT: u16 = 6379;

/// Takes apart `user:password@host:port/database?parameters`, or `user:password@/path/of/socket?db=database` where the scheme
/// says that it is a socket.
pub(super) fn settings(scheme: &str, rest: &str) -> Result<RedisSettings, LockError> {
    let scheme = scheme.to_ascii_lowercase();
    let is_socket = scheme.split('+').any(|part| part == "unix");
    let parts = if is_socket {
        Parts::of_socket(rest)
    } else {
        Parts::of_redis(rest, ARGUMENT)?
    };
    let query = Parameters::read(parts.query);
    let path = if is_socket { "" } else { parts.path };
    let database = database(query.first("db").unwrap_or(path.trim_end_matches('/')))?;
    let address = if is_socket {
        ConnectionAddr::Unix(decode(parts.path).into())
    } else {
        address(&scheme, &parts, &query)?
    };
    let given = |name: &str, in_place: &str| match in_place {
        "" => query.first(name).unwrap_or_default().to_owned(),
        _ => decode(in_place),
    };
    let (user, password) = (given("username", parts.user), given("password", parts.password));
    let others: BTreeMap<&str, &str> = query
        .iter()
        .filter(|(name, _)| !["db", "username", "password"].contains(name))
        .collect();
    let identity = format!("{address:?}{database}{:?}{others:?}", (&user, &password));
    let connect_timeout = connect_timeout(&query)?;
    let keepalive = Keepalive::read(
        |name| query.first(name),
        |name, value| bad_parameter(ARGUMENT, name, value),
    )?;
    let place = format!("Redis database {database} at {}", shown(&address.to_string()));
    let login = login(database, user, password);
    Ok(RedisSettings {
        identity: identity.into(),
        place,
        client: client(address, login, &query, &keepalive)?,
        connect_timeout,
        keepalive,
    })
}

fn database(number: &str) -> Result<i64, LockError> {
    if number.is_empty() {
        return Ok(0);
    }
    let parsed = number.parse().ok().filter(|number| *number >= 0);
    parsed.ok_or_else(|| bad_parameter(ARGUMENT, "database number", number))
}

fn address(scheme: &str, parts: &Parts<'_>, query: &Parameters) -> Result<ConnectionAddr, LockError> {
    let host = match &*parts.host {
        "" => "localhost".to_owned(),
        host => host.to_owned(),
    };
    let port = match parts.port {
        "" => PORT,
        number => number.parse().map_err(|_| unreadable_port(ARGUMENT))?,
    };
    Ok(match scheme.split('+').next() {
        Some("rediss" | "valkeys") => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: query.first("ssl_cert_reqs").is_some_and(|reqs| reqs == "none"),
            tls_params: None,
        },
        _ => ConnectionAddr::Tcp(host, port),
    })
}

fn login(database: i64, user: String, password: String) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        .set_lib_name("arbitrageai-native", env!("CARGO_PKG_VERSION"))
        .set_db(database);
    if !user.is_empty() {
        login = login.set_username(user);
    }
    if !password.is_empty() {
        login = login.set_password(password);
    }
    login
}

fn connect_timeout(query: &Parameters) -> Result<Duration, LockError> {
    let Some(seconds) = query.first("socket_connect_timeout") else {
        return Ok(CONNECT_TIMEOUT);
    };
    let timeout = seconds
        .parse()
        .ok()
        .and_then(|seconds| names::lasting_time(ARGUMENT, seconds).ok())
        .ok_or_else(|| bad_parameter(ARGUMENT, "socket_connect_timeout", seconds))?;
    Ok(timeout.max(Duration::from_millis(1)))
}

fn client(
    address: ConnectionAddr,
    login: RedisConnectionInfo,
    query: &Parameters,
    keepalive: &Keepalive,
) -> Result<Client, LockError> {
    let refused =
        |error: redis::RedisError| LockError::invalid(ARGUMENT, format!("{ARGUMENT} can't be used: {error}"));
    let file = |name: &str| -> Result<Option<Vec<u8>>, LockError> {
        let Some(path) = query.first(name) else {
            return Ok(None);
        };
        let unreadable = |error| format!("{ARGUMENT}'s {name} can't be read: {}: {error}", shown(path));
        std::fs::read(path)
            .map(Some)
            .map_err(|error| LockError::invalid(ARGUMENT, unreadable(error)))
    };
    let encrypted = matches!(address, ConnectionAddr::TcpTls { .. });
    let info = address
        .into_connection_info()
        .map_err(refused)?
        .set_redis_settings(login)
        .set_tcp_settings(keepalive.tcp_settings());
    let (root_cert, certificate, key) = (file("ssl_ca_certs")?, file("ssl_certfile")?, file("ssl_keyfile")?);
    if !encrypted || (root_cert.is_none() && certificate.is_none()) {
        return Client::open(info).map_err(refused);
    }
    let client_tls = match (certificate, key) {
        (None, _) => None,
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig {
            client_cert,
            client_key,
        }),
        (Some(_), None) => {
            let message = format!("{ARGUMENT} has ssl_certfile without ssl_keyfile");
            return Err(LockError::invalid(ARGUMENT, message));
        }
    };
    Client::build_with_tls(
        info,
        TlsCertificates {
            client_tls,
            root_cert,
        },
    )
    .map_err(refused)
}
