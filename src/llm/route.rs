//! The way to a server where a service goes another one than its process: certificates, a proxy, a socket.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::Error;

/// What a service says about the way to its server. Nothing: the process's environment says it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Route {
    /// A file with the certificates that are trusted instead of the system's.
    pub ca_certs: Option<PathBuf>,
    /// Files with the client's certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Whether the server's certificate need not be valid.
    pub trusts_anyone: bool,
    /// The URL of the proxy for all requests.
    pub proxy: Option<String>,
    /// The Unix socket for all connections.
    pub unix_socket: Option<PathBuf>,
}

/// The proxy's URL may hold a password.
impl fmt::Debug for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Route(…)")
    }
}

impl Route {
    /// The client's certificate and its key, as PEM.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a file can't be read.
    pub(super) fn client_pem(&self) -> Result<Option<Vec<u8>>, Error> {
        let Some((certificate, key)) = &self.client_cert else {
            return Ok(None);
        };
        let mut pem = read("client_cert", certificate)?;
        if key != certificate {
            pem.push(b'\n');
            pem.extend(read("client_cert", key)?);
        }
        Ok(Some(pem))
    }
}

fn read(argument: &str, file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|error| Error::invalid(argument, format!("{}: {error}", file.display())))
}
