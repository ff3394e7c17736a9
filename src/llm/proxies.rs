//! Which proxy a request goes through, by the variables that everybody uses for it.
//!
//! A setting that can't be understood is an error: without its proxy, a request would take a way that nobody wanted. As with
//! Python's `urllib` (and so with OpenAI's SDK), a name in small letters overrides the one in capitals.

use std::env;
use std::net::IpAddr;

use reqwest::{Proxy, Url};

use super::endpoint::url_of_kind;
use super::error::Error;

const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// How the environment sends requests.
pub(super) enum Environment {
    /// It says nothing: the operating system may have a setting of its own.
    Silent,
    /// By no proxy.
    Direct,
    Proxied(Box<Proxy>),
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
        // An empty variable switches off what the operating system says.
        return Ok(if PROXIES.into_iter().any(is_set) {
            Environment::Direct
        } else {
            Environment::Silent
        });
    }
    let excepted: Vec<Excepted> = excepted.split(',').filter_map(Excepted::read).collect();
    let proxy = Proxy::custom(move |url| {
        let proxy = if url.scheme() == "https" { &https } else { &http };
        let is_excepted = excepted.iter().any(|excepted| excepted.means(url));
        proxy.clone().filter(|_| !is_excepted)
    });
    Ok(Environment::Proxied(Box::new(proxy)))
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

fn is_set(name: &str) -> bool {
    env::var_os(name).is_some() || env::var_os(name.to_ascii_lowercase()).is_some()
}

/// An entry of `NO_PROXY`: reqwest's own reading of it knows no port.
struct Excepted {
    hosts: Hosts,
    port: Option<u16>,
}

enum Hosts {
    /// A host, and all hosts below it.
    Named(String),
    /// The addresses that begin with these bits.
    Within(IpAddr, u8),
}

impl Excepted {
    /// Reads `host`, `.host`, `*.host`, `address` or `address/bits`, each with or without a scheme and a port.
    fn read(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        let entry = entry.rsplit_once("://").map_or(entry.as_str(), |(_, host)| host);
        // The colons of an IPv6 address without brackets come before no port.
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
            _ => (entry, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let (address, bits) = match host.split_once('/') {
            Some((address, bits)) => (address, bits.parse().ok()?),
            None => (host, 128),
        };
        let hosts = if let Ok(address) = address.parse() {
            Hosts::Within(address, bits)
        } else {
            Hosts::Named(host.trim_start_matches('*').trim_start_matches('.').to_owned())
        };
        Some(Self { hosts, port })
    }

    fn means(&self, url: &Url) -> bool {
        let asked = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let address = asked
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        let is_among = match &self.hosts {
            Hosts::Named(host) => {
                let below = asked.strip_suffix(host.as_str());
                address.is_err()
                    && !host.is_empty()
                    && below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Hosts::Within(base, bits) => address.is_ok_and(|address| begin_alike(*base, address, *bits)),
        };
        is_among
            && self
                .port
                .is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

/// Whether two addresses have the same first bits; all of them, if they have fewer.
fn begin_alike(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let differing = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => return false,
    };
    let length = if one.is_ipv4() { 32 } else { 128 };
    differing >= u32::from(bits).min(length)
}
