//! Where requests go: a base URL, the headers of every request, and the secret among them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING, USER_AGENT,
};
use serde::Serialize;

use super::error::Error;

/// An OpenAI-compatible server: `{base_url}/chat/completions`.
#[derive(Clone)]
pub struct Endpoint {
    chat_completions: Url,
    headers: HeaderMap,
}

/// The key is in the headers: they are not shown.
impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("host", &self.chat_completions.host_str())
            .finish_non_exhaustive()
    }
}

/// The HTTP request of one call, ready to be sent any number of times.
#[derive(Clone)]
pub struct HttpRequest {
    /// Where to.
    pub url: Url,
    /// With what headers; the key is marked as sensitive.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The model that was asked for, for servers that don't repeat it.
    pub model: String,
}

/// Headers that a caller adds: their values need not be text.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// What a caller adds to one request.
#[derive(Debug, Default, Clone)]
pub struct Extras {
    /// More headers; they replace the endpoint's of the same name, and `None` removes it.
    pub headers: Headers,
    /// More query parameters.
    pub query: Vec<(String, String)>,
}

impl Endpoint {
    /// A user and a password in `base_url` are sent by Basic authorization, in the place of the key.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `base_url` is not an http(s) URL with a host, or the key can't be sent.
    pub fn new(base_url: &str, api_key: &str) -> Result<Self, Error> {
        let mut chat_completions = join(&http_url("base_url", base_url)?, "chat/completions");
        let basic = basic_authorization(&chat_completions);
        // Neither can fail for a URL with a host. What is left would be shown in errors.
        let _ = chat_completions.set_username("");
        let _ = chat_completions.set_password(None);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("arbitrageai-native/", env!("CARGO_PKG_VERSION"))),
        );
        let authorization = basic.unwrap_or_else(|| format!("Bearer {api_key}"));
        let mut authorization = HeaderValue::from_bytes(authorization.as_bytes())
            .map_err(|_| Error::invalid("api_key", "holds characters that no header may hold"))?;
        authorization.set_sensitive(true);
        headers.insert(AUTHORIZATION, authorization);
        Ok(Self {
            chat_completions,
            headers,
        })
    }

    /// # Errors
    /// [`Error::InvalidArgument`] if an extra header can't be sent.
    pub fn request(&self, model: &str, body: &impl Serialize, extras: &Extras) -> Result<HttpRequest, Error> {
        let mut url = self.chat_completions.clone();
        if !extras.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&extras.query);
        }
        let mut headers = self.headers.clone();
        add_headers(&mut headers, &extras.headers)?;
        let body = serde_json::to_vec(body).map_err(|error| Error::invalid("body", error.to_string()))?;
        Ok(HttpRequest {
            url,
            headers,
            body: body.into(),
            model: model.to_owned(),
        })
    }
}

/// Parses an argument that has to be an http(s) URL with a host.
///
/// # Errors
/// [`Error::InvalidArgument`] naming the argument. The value is shown only if it can't hold a password.
pub fn http_url(argument: &str, value: &str) -> Result<Url, Error> {
    url_of_kind(argument, value, &["http", "https"], "an http:// or https:// URL")
}

/// Parses an argument that has to be a URL with a host and one of these schemes.
///
/// # Errors
/// As [`http_url`].
pub(super) fn url_of_kind(argument: &str, value: &str, schemes: &[&str], kind: &str) -> Result<Url, Error> {
    let shown = if value.contains('@') {
        "the given value".to_owned()
    } else {
        format!("{value:?}")
    };
    let url = Url::parse(value.trim())
        .map_err(|error| Error::invalid(argument, format!("{shown} is not a URL ({error})")))?;
    // Of `http:///v1` and `http:v1` the parser makes `http://v1/`: the key would go to a host that
    // nobody named.
    let names_a_host = value
        .split_once("://")
        .is_some_and(|(_, host)| !host.starts_with(['/', '\\']));
    if !schemes.contains(&url.scheme()) || !names_a_host || url.host_str().is_none_or(str::is_empty) {
        return Err(Error::invalid(argument, format!("{shown} is not {kind}")));
    }
    Ok(url)
}

/// Appends to the path, keeping a query that the base URL may have (Azure's `?api-version=`).
pub(super) fn join(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url.set_fragment(None);
    url
}

/// The header for the user and the password in a URL, if it has one of them.
fn basic_authorization(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut credentials: Vec<u8> = percent_decode_str(url.username()).collect();
    credentials.push(b':');
    credentials.extend(percent_decode_str(url.password().unwrap_or_default()));
    Some(format!("Basic {}", STANDARD.encode(credentials)))
}

fn add_headers(headers: &mut HeaderMap, additions: &Headers) -> Result<(), Error> {
    for (name, value) in additions {
        let refuse = |what: &str| {
            Error::invalid(
                format!("extra_headers[{name:?}]"),
                format!("{what} can't be sent in a header"),
            )
        };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse("the name"))?;
        // The body's length is known here: another one would cut the body, or hold the server up.
        if value.is_some() && [CONTENT_LENGTH, TRANSFER_ENCODING].contains(&header) {
            return Err(Error::invalid(
                format!("extra_headers[{name:?}]"),
                "this client sets it, because it knows the body's length",
            ));
        }
        match value {
            None => {
                headers.remove(header);
            }
            Some(value) => {
                let mut value = HeaderValue::from_bytes(value).map_err(|_| refuse("the value"))?;
                // It may be a key of another scheme (`api-key`, a gateway's token).
                value.set_sensitive(true);
                headers.insert(header, value);
            }
        }
    }
    Ok(())
}
