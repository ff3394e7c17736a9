//! Redis's URLs, with the parameters of `redis-py`.

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
    let from_path = if is_socket {
        ""
    } else {
        parts.path.trim_end_matches('/')
    };
    let database = query.first("db").unwrap_or(from_path);
    let database: i64 = match database {
        "" => 0,
        number => number
            .parse()
            .ok()
            .filter(|number| *number >= 0)
            .ok_or_else(|| bad_parameter(ARGUMENT, "database number", number))?,
    };
    let address = if is_socket {
        ConnectionAddr::Unix(decode(parts.path).into())
    } else {
        let host = if parts.host.is_empty() {
            "localhost".into()
        } else {
            parts.host
        };
        let port = match parts.port {
            "" => PORT,
            number => number.parse().map_err(|_| unreadable_port(ARGUMENT))?,
        };
        match scheme.split('+').next() {
            Some("rediss" | "valkeys") => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: query.first("ssl_cert_reqs").is_some_and(|reqs| reqs == "none"),
                tls_params: None,
            },
            _ => ConnectionAddr::Tcp(host, port),
        }
    };
    let mut connection =
        RedisConnectionInfo::default().set_lib_name("arbitrageai-native", env!("CARGO_PKG_VERSION"));
    connection = connection.set_db(database);
    let given = |name: &str, in_place: &str| match in_place {
        "" => query.first(name).unwrap_or_default().to_owned(),
        _ => decode(in_place),
    };
    let (user, password) = (given("username", parts.user), given("password", parts.password));
    let others: std::collections::BTreeMap<&str, &str> = query
        .iter()
        .filter(|(name, _)| !["db", "username", "password"].contains(name))
        .collect();
    let identity = format!("{address:?}{database}{:?}{others:?}", (&user, &password));
    if !user.is_empty() {
        connection = connection.set_username(user);
    }
    if !password.is_empty() {
        connection = connection.set_password(password);
    }
    let connect_timeout = match query.first("socket_connect_timeout") {
        None => CONNECT_TIMEOUT,
        Some(seconds) => seconds
            .parse()
            .ok()
            .and_then(|seconds| names::lasting_time(ARGUMENT, seconds).ok())
            .ok_or_else(|| bad_parameter(ARGUMENT, "socket_connect_timeout", seconds))?,
    };
    let keepalive = Keepalive::read(
        |name| query.first(name),
        |name, value| bad_parameter(ARGUMENT, name, value),
    )?;
    Ok(RedisSettings {
        identity: identity.into(),
        place: format!("Redis database {database} at {}", shown(&address.to_string())),
        client: client(address, connection, &query, &keepalive)?,
        connect_timeout: connect_timeout.max(Duration::from_millis(1)),
        keepalive,
    })
}

fn client(
    address: ConnectionAddr,
    connection: RedisConnectionInfo,
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
        .set_redis_settings(connection)
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
