//! The way to the network: one connection pool, one set of TLS roots, one limit on connections.
//!
//! A process has one transport for each combination of settings (nearly always one), handed in by whoever owns the process's
//! state. Sockets belong to the runtime that first used them, not to any event loop.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::{Attempt, Policy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;

/// Names the file with the certificates that are trusted instead of the system's.
const CERTIFICATE_FILE: &str = "SSL_CERT_FILE";

/// How long an HTTP/2 connection with calls under way may be silent before the client sends a ping.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long the server may take to answer the ping before the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransportSettings {
    /// The longest wait for a connection (name, TCP, TLS).
    pub connect_timeout: Duration,
    /// Requests under way at once; more wait in line.
    pub max_connections: usize,
    /// Whether the client uses HTTP/2 with servers that offer it. All calls to such a server share
    /// one connection: the server's limit on streams (often 100) limits the calls under way, and a
    /// fault of the connection fails all of them.
    pub http2: bool,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            max_connections: 1000,
            http2: false,
        }
    }
}

pub struct Transport {
    pub(super) client: Client,
    pub(super) settings: TransportSettings,
    connections: Arc<Semaphore>,
}

impl Transport {
    /// Loads the TLS roots (`SSL_CERT_FILE` and the system's) and the system's proxy settings; opens nothing.
    ///
    /// # Errors
    /// [`Error::Connection`] if TLS can't be set up, or the file that `SSL_CERT_FILE` names has no certificates.
    pub fn new(settings: TransportSettings) -> Result<Self, Error> {
        // Fails only if some provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        check_certificate_file()?;
        let mut builder = Client::builder();
        if proxies_are_switched_off() {
            builder = builder.no_proxy();
        }
        builder = if settings.http2 {
            // No server closes a connection that has failed silently. Without pings, the client
            // would send every further call on such a connection.
            builder
                .http2_keep_alive_interval(PING_INTERVAL)
                .http2_keep_alive_timeout(PING_TIMEOUT)
        } else {
            builder.http1_only()
        };
        let client = builder
            .connect_timeout(settings.connect_timeout)
            .redirect(Policy::custom(follow_within_origin))
            .tcp_nodelay(true)
            .pool_max_idle_per_host(settings.max_connections)
            .build()
            .map_err(|error| Error::from_transport(error, settings.connect_timeout))?;
        Ok(Self {
            client,
            settings,
            connections: Arc::new(Semaphore::new(settings.max_connections)),
        })
    }

    /// Waits for its turn to have a connection.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.connections
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::Closed("the transport"))
    }

    /// Requests under way now.
    pub fn requests_under_way(&self) -> usize {
        self.settings.max_connections - self.connections.available_permits()
    }
}

/// Those who set up TLS for us pass over a file that they can't read, as long as the system has other certificates; then
/// every server of a private authority is refused, and nothing says why.
fn check_certificate_file() -> Result<(), Error> {
    let Some(file) = env::var_os(CERTIFICATE_FILE) else {
        return Ok(());
    };
    let found = rustls_native_certs::load_certs_from_paths(Some(file.as_ref()), None);
    if !found.certs.is_empty() {
        return Ok(());
    }
    let problem = found
        .errors
        .first()
        .map_or_else(|| "no certificate is in it".to_owned(), ToString::to_string);
    Err(Error::Connection {
        detail: format!("{CERTIFICATE_FILE} is {}: {problem}", file.display()),
        os_error: None,
    })
}

/// How many certificates are trusted: those of `SSL_CERT_FILE`, or else the system's. It reads files.
///
/// # Errors
/// [`Error::Connection`] if the file that `SSL_CERT_FILE` names has no certificates.
pub fn trusted_certificates() -> Result<usize, Error> {
    check_certificate_file()?;
    Ok(rustls_native_certs::load_native_certs().certs.len())
}

/// `NO_PROXY=*` switches proxies off; the library takes it for all names, but for no address.
fn proxies_are_switched_off() -> bool {
    env::var("NO_PROXY")
        .or_else(|_| env::var("no_proxy"))
        .is_ok_and(|excepted| excepted.split(',').any(|host| host.trim() == "*"))
}

/// A redirect to another host, or from https to http, would hand prompts (and keys in headers of other names) to whoever it points
/// to: it is not followed, and the 3xx answer becomes the call's error.
fn follow_within_origin(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let Some(origin) = attempt.previous().first() else {
        return attempt.stop();
    };
    let next = attempt.url();
    let upgraded = origin.scheme() == "http"
        && next.scheme() == "https"
        && origin.port().is_none()
        && next.port().is_none();
    let same =
        origin.scheme() == next.scheme() && origin.port_or_known_default() == next.port_or_known_default();
    if origin.host_str() == next.host_str() && (same || upgraded) && attempt.previous().len() <= 10 {
        attempt.follow()
    } else {
        attempt.stop()
    }
}
