//! Which proxy a request goes through, by the variables that everybody uses for it.
//!
//! A setting that can't be understood is an error: without its proxy, a request would take a way that nobody wanted. As with
//! Python's `urllib` (and so with OpenAI's SDK), a name in small letters overrides the one in capitals.

use std::env;

use reqwest::{NoProxy, Proxy, Url};

use super::endpoint::url_of_kind;
use super::error::Error;

const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// How the environment sends requests.
pub(super) enum Environment {
    /// It says nothing: the operating system may have a setting of its own.
    Silent,
    /// By no proxy.
    Direct,
    Proxied(Proxy),
}

/// Reads the environment.
///
/// # Errors
/// [`Error::InvalidArgument`] naming the variable that is no URL of a proxy.
pub(super) fn of_environment() -> Result<Environment, Error> {
    let all = proxy("ALL_PROXY")?;
    // A web server hands a request's header `Proxy` to a CGI program in this variable.
    let is_cgi = env::var_os("REQUEST_METHOD").is_some();
    let http = if is_cgi { None } else { proxy("HTTP_PROXY")? };
    let http = http.or_else(|| all.clone());
    let https = proxy("HTTPS_PROXY")?.or(all);
    let excepted = variable("NO_PROXY").map_or_else(String::new, |(_, value)| value);
    // reqwest takes `*` for all names, but for no address.
    if excepted.split(',').any(|host| host.trim() == "*") {
        return Ok(Environment::Direct);
    }
    if http.is_none() && https.is_none() {
        return Ok(Environment::Silent);
    }
    let (with_port, others): (Vec<_>, Vec<_>) = excepted
        .split(',')
        .map(|host| host.trim().to_ascii_lowercase())
        .partition(|host| port_of(host).is_some());
    let proxy = Proxy::custom(move |url| {
        let proxy = if url.scheme() == "https" { &https } else { &http };
        let is_excepted = with_port.iter().any(|excepted| is_meant(excepted, url));
        proxy.clone().filter(|_| !is_excepted)
    });
    Ok(Environment::Proxied(
        proxy.no_proxy(NoProxy::from_string(&others.join(","))),
    ))
}

/// The URL of a proxy, as a setting has it: without a scheme, it is one of HTTP.
///
/// # Errors
/// [`Error::InvalidArgument`] naming the setting.
pub fn proxy_url(setting: &str, value: &str) -> Result<Url, Error> {
    let value = value.trim();
    // `http:/proxy` has a scheme, and is not a host of this name.
    let has_scheme = value.contains("://") || value.contains(":/");
    let with_scheme = if has_scheme {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    url_of_kind(
        setting,
        &with_scheme,
        &SCHEMES,
        "the URL of an HTTP or SOCKS proxy",
    )
}

fn proxy(name: &str) -> Result<Option<Url>, Error> {
    variable(name)
        .map(|(name, value)| proxy_url(&name, &value))
        .transpose()
}

/// The variable, unless it is empty, and the name that it has.
fn variable(name: &str) -> Option<(String, String)> {
    for name in [name.to_ascii_lowercase(), name.to_owned()] {
        if let Some(value) = env::var_os(&name) {
            let value = value.to_string_lossy().into_owned();
            return (!value.trim().is_empty()).then_some((name, value));
        }
    }
    None
}

/// The port that an entry of `NO_PROXY` names. The colons of an IPv6 address name none.
fn port_of(entry: &str) -> Option<u16> {
    let (host, port) = entry.rsplit_once(':')?;
    let is_address = host.contains(':') && !host.ends_with(']');
    if is_address { None } else { port.parse().ok() }
}

/// Whether an entry with a port means this URL: its host, or a host below it.
fn is_meant(entry: &str, url: &Url) -> bool {
    let Some((host, _)) = entry.rsplit_once(':') else {
        return false;
    };
    let host = host.rsplit_once("://").map_or(host, |(_, host)| host);
    let host = host.trim_start_matches('*').trim_start_matches('.');
    let asked = url.host_str().unwrap_or_default().to_ascii_lowercase();
    let is_below = asked.strip_suffix(host).is_some_and(|rest| rest.ends_with('.'));
    (asked == host || is_below) && url.port_or_known_default() == port_of(entry)
}
