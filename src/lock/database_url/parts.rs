//! The parts of a server's URL, as SQLAlchemy takes them apart.

use std::borrow::Cow;

use crate::lock::error::LockError;

/// Parameters whose values may have an `@`. Anywhere else behind the host it is a password's that has been cut.
const WITH_AT: [&str; 15] = [
    "application_name",
    "client_name",
    "fallback_application_name",
    "krbsrvname",
    "options",
    "passfile",
    "password",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "user",
    "username",
];

/// `user:password@host:port/path?query`, all but the host as they are written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    pub user: &'a str,
    pub password: &'a str,
    pub host: String,
    pub port: &'a str,
    pub path: &'a str,
    pub query: &'a str,
}

impl<'a> Parts<'a> {
    /// Takes apart what follows the scheme. A password may have everything but an `@`, unescaped.
    ///
    /// # Errors
    /// [`LockError::InvalidArgument`] where it can't be told what is the password's.
    pub fn of(rest: &'a str, argument: &'static str) -> Result<Self, LockError> {
        let (credentials, place) = credentials(rest);
        Self::with_credentials(credentials, place, argument)
    }

    /// As [`Parts::of`], read as `redis-py` does where it can: a first `@` behind the host is none of a password's.
    ///
    /// # Errors
    /// As [`Parts::of`].
    pub fn of_redis(rest: &'a str, argument: &'static str) -> Result<Self, LockError> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if let Some(at) = rest[..end].rfind('@') {
            return Self::with_credentials(&rest[..at], &rest[at + 1..], argument);
        }
        match Self::with_credentials("", rest, argument) {
            Ok(parts) if !rest.contains('@') || is_number_or_empty(parts.port) && !parts.host.is_empty() => {
                Ok(parts)
            }
            _ => Self::of(rest, argument),
        }
    }

    /// Takes apart `path?query`, or `user:password@/path?query`, where the scheme says that it is a path.
    pub fn of_socket(rest: &'a str) -> Self {
        let has_credentials = !rest.starts_with('/');
        let end = rest.rfind("@/").filter(|_| has_credentials);
        let (credentials, place) = end.map_or(("", rest), |at| (&rest[..at], &rest[at + 1..]));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (path, query) = place.split_once('?').unwrap_or((place, ""));
        // What stands between the slashes is a host's name, and means nothing here.
        let path = path.find('/').map_or("", |slash| &path[slash..]);
        Self {
            user,
            password,
            path,
            query,
            ..Self::default()
        }
    }

    fn with_credentials(
        credentials: &'a str,
        place: &'a str,
        argument: &'static str,
    ) -> Result<Self, LockError> {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (address, query) = place.split_once('?').unwrap_or((place, ""));
        let stray = |piece: &str| {
            let name = piece.split_once('=').map_or("", |(name, _)| name);
            piece.contains('@') && !WITH_AT.contains(&name)
        };
        if address.contains('@') || query.split('&').any(stray) {
            let message =
                format!("{argument} has an @ behind its host: in a password or a name it is written %40");
            return Err(LockError::invalid(argument, message));
        }
        let (address, path) = address.split_once('/').unwrap_or((address, ""));
        let in_brackets = address
            .strip_prefix('[')
            .and_then(|address| address.split_once(']'));
        let (host, port) = match in_brackets {
            Some((host, "")) => (host.to_owned(), ""),
            Some((host, port)) if port.starts_with(':') => (host.to_owned(), &port[1..]),
            Some(_) => {
                let message = format!("{argument} has a host that can't be read");
                return Err(LockError::invalid(argument, message));
            }
            None => {
                let (host, port) = address.split_once(':').unwrap_or((address, ""));
                (decode(host), port)
            }
        };
        Ok(Self {
            user,
            password,
            host,
            port,
            path,
            query,
        })
    }
}

fn is_number_or_empty(port: &str) -> bool {
    port.is_empty() || port.parse::<u16>().is_ok()
}

/// What stands before the `@` that ends the credentials, and what stands behind it.
fn credentials(rest: &str) -> (&str, &str) {
    let name_end = rest.find([':', '/']).unwrap_or(rest.len());
    let with_password = rest[name_end..]
        .strip_prefix(':')
        .and_then(|password| password.find('@'));
    let first = match with_password {
        Some(at) => Some(name_end + 1 + at),
        None => rest[..name_end].rfind('@'),
    };
    let Some(first) = first else {
        return ("", rest);
    };
    let place = &rest[first + 1..];
    let end = place.find(['/', '?']).unwrap_or(place.len());
    let last = place[..end].rfind('@').map_or(first, |at| first + 1 + at);
    (&rest[..last], &rest[last + 1..])
}

/// A URL's parameters, in their order; those without a value count for nothing.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub fn read(query: &str) -> Self {
        let decoded = |text: &str| decode(&text.replace('+', " "));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let given = pairs.filter(|(_, value)| !value.is_empty());
        Self(
            given
                .map(|(name, value)| (decoded(name), decoded(value)))
                .collect(),
        )
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn first(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value)
    }

    pub fn last(&self, name: &str) -> Option<&str> {
        self.iter()
            .filter(|(given, _)| *given == name)
            .last()
            .map(|(_, value)| value)
    }
}

/// Undoes percent-encoding; what is no valid encoding stays as it is.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut position = 0;
    while position < bytes.len() {
        let byte = text
            .get(position + 1..position + 3)
            // A sign before a digit would be read as a number, too.
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
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

/// A piece of a URL as it may be shown: without what stands before an `@`.
pub(super) fn shown(piece: &str) -> Cow<'_, str> {
    match piece.rsplit_once('@') {
        None => piece.into(),
        Some((_, behind)) => format!("***@{behind}").into(),
    }
}
