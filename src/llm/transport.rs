//! The way to the network: one connection pool, one set of TLS roots, one limit on connections.
//!
//! A process has one transport for each combination of settings (nearly always one), handed in by whoever owns the process's
//! state. Sockets belong to the runtime that first used them, not to any event loop.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, Identity, Proxy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;
use super::proxies::{self, Environment};
use super::route::Route;
use super::tls;

/// The most header fields of an answer. A gateway in front of another one sends some 80.
const MOST_HEADERS: usize = 1000;

/// How long an HTTP/2 connection with calls under way may be silent before the client sends a ping.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long the server may take to answer the ping before the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TransportSettings {
    /// The longest wait for a connection (name, TCP, TLS).
    pub connect_timeout: Duration,
    /// Requests under way at once; more wait in line.
    pub max_connections: usize,
    /// Whether the client uses HTTP/2 with servers that offer it. All calls to such a server share
    /// one connection: the server's limit on streams (often 100) limits the calls under way, and a
    /// fault of the connection fails all of them.
    pub http2: bool,
    /// Where the way to the server is not the process's.
    pub route: Option<Arc<Route>>,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            max_connections: 1000,
            http2: false,
            route: None,
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
    /// [`Error::Connection`] if TLS can't be set up, or the file that `SSL_CERT_FILE` names has no certificates;
    /// [`Error::InvalidArgument`] naming a setting of the route, or a proxy's variable, that can't be used.
    pub fn new(settings: TransportSettings) -> Result<Self, Error> {
        // Fails only if some provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let none = Route::default();
        let route = settings.route.as_deref().unwrap_or(&none);
        let builder = Client::builder().http1_max_headers(MOST_HEADERS);
        let builder = with_way(with_tls(builder, &settings, route)?, route)?;
        let builder = if settings.http2 {
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
            connections: Arc::new(Semaphore::new(settings.max_connections)),
            settings,
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

/// How many certificates are trusted: those of `SSL_CERT_FILE`, or else the system's. It reads files.
///
/// # Errors
/// [`Error::Connection`] if the file that `SSL_CERT_FILE` names has no certificates.
pub fn trusted_certificates() -> Result<usize, Error> {
    let named = tls::named_certificates(&Route::default())?;
    Ok(named.map_or_else(
        || rustls_native_certs::load_native_certs().certs.len(),
        |certificates| certificates.len(),
    ))
}

/// Sets whom the client trusts, and the certificate by which it is known.
fn with_tls(
    builder: ClientBuilder,
    settings: &TransportSettings,
    route: &Route,
) -> Result<ClientBuilder, Error> {
    let client_pem = route.client_pem()?;
    if !route.trusts_anyone
        && let Some(trusted) = tls::named_certificates(route)?
    {
        let config = tls::config(trusted, client_pem.as_deref(), settings.http2)?;
        return Ok(builder.tls_backend_preconfigured(config));
    }
    let builder = builder.tls_danger_accept_invalid_certs(route.trusts_anyone);
    let Some(pem) = client_pem else {
        return Ok(builder);
    };
    let identity = Identity::from_pem(&pem).map_err(|error| {
        let reason = error
            .source()
            .map_or_else(|| error.to_string(), ToString::to_string);
        Error::invalid("client_cert", reason)
    })?;
    Ok(builder.identity(identity))
}

/// Sets how the client reaches the server's host.
fn with_way(builder: ClientBuilder, route: &Route) -> Result<ClientBuilder, Error> {
    if let Some(socket) = &route.unix_socket {
        return with_unix_socket(builder, socket);
    }
    if let Some(url) = &route.proxy {
        let proxy = Proxy::all(proxies::proxy_url("proxy", url)?);
        let proxy = proxy.map_err(|_| Error::invalid("proxy", "is not the URL of a proxy"))?;
        return Ok(builder.proxy(proxy));
    }
    Ok(match proxies::of_environment()? {
        Environment::Silent => builder,
        Environment::Direct => builder.no_proxy(),
        Environment::Proxied(proxy) => builder.proxy(*proxy),
    })
}

#[cfg(unix)]
fn with_unix_socket(builder: ClientBuilder, socket: &Path) -> Result<ClientBuilder, Error> {
    Ok(builder.unix_socket(socket))
}

#[cfg(not(unix))]
fn with_unix_socket(_: ClientBuilder, _: &Path) -> Result<ClientBuilder, Error> {
    Err(Error::invalid("unix_socket", "this system has no Unix sockets"))
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
