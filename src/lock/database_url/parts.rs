//! Splits the URL of a server into the same parts as SQLAlchemy does.

use std::borrow::Cow;

use crate::lock::error::LockError;

/// Parameters whose values may contain an `@`. An `@` anywhere else after the host shows that the
/// URL was split inside a password.
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

/// `user:password@host:port/path?query`. The host is decoded; all other parts are as written.
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
    /// Splits the part of a URL after `://`. Only an `@` has to be escaped in a password.
    ///
    /// # Errors
    /// [`LockError::InvalidArgument`] if the end of the password is ambiguous, or the host is
    /// malformed.
    pub fn of(rest: &'a str, argument: &'static str) -> Result<Self, LockError> {
        let (credentials, place) = credentials(rest);
        Self::with_credentials(credentials, place, argument)
    }

    /// As [`Parts::of`], but splits the URL as `redis-py` does if the result has a host and a valid
    /// port: then an `@` in the path or the query is not the end of a password.
    ///
    /// # Errors
    /// As [`Parts::of`].
    pub fn of_redis(rest: &'a str, argument: &'static str) -> Result<Self, LockError> {
        let (authority, _) = split_before(rest, &['/', '?', '#']);
        if let Some((credentials, place)) = authority.rfind('@').and_then(|at| around(rest, at)) {
            return Self::with_credentials(credentials, place, argument);
        }
        match Self::with_credentials("", rest, argument) {
            Ok(parts) if !rest.contains('@') || is_number_or_empty(parts.port) && !parts.host.is_empty() => {
                Ok(parts)
            }
            _ => Self::of(rest, argument),
        }
    }

    /// Splits `path?query` or `user:password@/path?query`, for a scheme that means a Unix socket.
    pub fn of_socket(rest: &'a str) -> Self {
        let has_credentials = !rest.starts_with('/');
        let end = rest.rfind("@/").filter(|_| has_credentials);
        let (credentials, place) = end.and_then(|at| around(rest, at)).unwrap_or(("", rest));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (path, query) = place.split_once('?').unwrap_or((place, ""));
        // The text before the first slash is the name of a host, which a Unix socket does not have.
        let (_, path) = split_before(path, &['/']);
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
                format!("{argument} has an @ after its host: write %40 for an @ in a password or a name");
            return Err(LockError::invalid(argument, message));
        }
        let (address, path) = address.split_once('/').unwrap_or((address, ""));
        let in_brackets = address
            .strip_prefix('[')
            .and_then(|address| address.split_once(']'));
        let (host, port) = match in_brackets {
            Some((host, "")) => (host.to_owned(), ""),
            Some((host, behind)) => {
                let Some(port) = behind.strip_prefix(':') else {
                    let message = format!("{argument} has a host that can't be read");
                    return Err(LockError::invalid(argument, message));
                };
                (host.to_owned(), port)
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

/// Returns the parts before and after the `@` that ends the credentials.
fn credentials(rest: &str) -> (&str, &str) {
    let (name, behind) = split_before(rest, &[':', '/']);
    let in_password = behind.strip_prefix(':').and_then(|password| password.find('@'));
    let first = match in_password {
        Some(at) => Some(name.len() + 1 + at),
        None => name.rfind('@'),
    };
    let split = |first: usize| {
        let (_, place) = around(rest, first)?;
        let (host, _) = split_before(place, &['/', '?']);
        around(rest, host.rfind('@').map_or(first, |at| first + 1 + at))
    };
    first.and_then(split).unwrap_or(("", rest))
}

/// Splits before the first of these characters, or at the end.
fn split_before<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    let end = text.find(ends).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// What is before and behind the character of one byte at `at`.
fn around(text: &str, at: usize) -> Option<(&str, &str)> {
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// The parameters of a URL, in their order. Parameters without a value are ignored.
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

/// Decodes percent-encoding. An invalid encoding stays unchanged.
pub(super) fn decode(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((byte, behind)) = rest.split_first() {
        let escaped = behind.split_first_chunk().filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|(digits, behind)| Some((hexadecimal(*digits)?, behind)));
        let (byte, behind) = escaped.unwrap_or((*byte, behind));
        decoded.push(byte);
        rest = behind;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hexadecimal(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

/// Returns a piece of a URL for a message, with `***` in place of the part before an `@`.
pub(super) fn shown(piece: &str) -> Cow<'_, str> {
    match piece.rsplit_once('@') {
        None => piece.into(),
        Some((_, behind)) => format!("***@{behind}").into(),
    }
}
