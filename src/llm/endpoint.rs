//! Where requests go: a base URL, the headers of every request, and the secret among them.

use std::fmt;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING, USER_AGENT,
};
use serde_json::{Map, Value};

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

/// What a caller adds to one request.
#[derive(Debug, Default, Clone)]
pub struct Extras {
    /// More headers; they replace the endpoint's of the same name, and `None` removes it.
    pub headers: Vec<(String, Option<String>)>,
    /// More query parameters.
    pub query: Vec<(String, String)>,
}

impl Endpoint {
    /// # Errors
    /// [`Error::InvalidArgument`] if `base_url` is not an http(s) URL with a host, or the key can't be sent.
    pub fn new(base_url: &str, api_key: &str) -> Result<Self, Error> {
        let chat_completions = join(&http_url("base_url", base_url)?, "chat/completions");
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("arbitrageai-native/", env!("CARGO_PKG_VERSION"))),
        );
        let mut authorization = HeaderValue::from_bytes(format!("Bearer {api_key}").as_bytes())
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
    pub fn request(&self, body: &Map<String, Value>, extras: &Extras) -> Result<HttpRequest, Error> {
        let mut url = self.chat_completions.clone();
        if !extras.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&extras.query);
        }
        let mut headers = self.headers.clone();
        add_headers(&mut headers, &extras.headers)?;
        let model = body
            .get("model")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let body = serde_json::to_vec(body).map_err(|error| Error::invalid("body", error.to_string()))?;
        Ok(HttpRequest {
            url,
            headers,
            body: body.into(),
            model,
        })
    }
}

/// Parses an argument that has to be an http(s) URL with a host.
///
/// # Errors
/// [`Error::InvalidArgument`] naming the argument. The value is shown only if it can't hold a password.
pub fn http_url(argument: &str, value: &str) -> Result<Url, Error> {
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
    if !matches!(url.scheme(), "http" | "https") || !names_a_host || url.host_str().is_none_or(str::is_empty)
    {
        return Err(Error::invalid(
            argument,
            format!("{shown} is not an http:// or https:// URL"),
        ));
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

fn add_headers(headers: &mut HeaderMap, additions: &[(String, Option<String>)]) -> Result<(), Error> {
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
                let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| refuse("the value"))?;
                // It may be a key of another scheme (`api-key`, a gateway's token).
                value.set_sensitive(true);
                headers.insert(header, value);
            }
        }
    }
    Ok(())
}
