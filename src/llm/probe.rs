//! Asks a model server whether it is alive, and whether it takes a key, without a completion.

use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::endpoint::{http_url, join};
use super::error::{Error, TimeoutKind};
use super::transport::Transport;

/// Where to ask, in this order: the first that is not 404 decides. Ollama has the second, every OpenAI-compatible server the third.
const PATHS: [&str; 3] = ["api/health", "api/version", "v1/models"];

/// Asks the server at `endpoint` (with or without `/v1` at its end) whether it is alive: the status that it answers within
/// `limit`. 200 means that it is.
///
/// # Errors
/// [`Error::InvalidArgument`] if `endpoint` is none; [`Error::Timeout`] or [`Error::Connection`] if nothing answered.
pub async fn ask_for_health(transport: &Transport, endpoint: &str, limit: Duration) -> Result<u16, Error> {
    let root = without_version(&http_url("endpoint", endpoint)?);
    let asked = async {
        let mut status = StatusCode::NOT_FOUND;
        for path in PATHS {
            let answer = transport.client.get(join(&root, path)).send().await;
            status = answer
                .map_err(|error| Error::from_transport(error, transport.settings.connect_timeout))?
                .status();
            if status != StatusCode::NOT_FOUND {
                break;
            }
        }
        Ok(status.as_u16())
    };
    tokio::time::timeout(limit, asked)
        .await
        .unwrap_or_else(|_| Err(timeout(limit)))
}

/// Asks for the list of models, as a client with this key does: the status of the answer. That costs no tokens.
///
/// # Errors
/// [`Error::InvalidArgument`] if `base_url` is none; [`Error::Timeout`] or [`Error::Connection`] if nothing answered.
pub async fn ask_for_models(
    transport: &Transport,
    base_url: &str,
    api_key: &str,
    limit: Duration,
) -> Result<u16, Error> {
    let url = join(&http_url("base_url", base_url)?, "models");
    let has_own_key = !url.username().is_empty() || url.password().is_some();
    let mut asking = transport.client.get(url);
    if !has_own_key {
        asking = asking.bearer_auth(api_key);
    }
    let asking = asking.send();
    match tokio::time::timeout(limit, asking).await {
        Ok(Ok(answer)) => Ok(answer.status().as_u16()),
        Ok(Err(error)) => Err(Error::from_transport(error, transport.settings.connect_timeout)),
        Err(_) => Err(timeout(limit)),
    }
}

fn timeout(limit: Duration) -> Error {
    Error::Timeout {
        kind: TimeoutKind::Try,
        limit,
        amid_keep_alives: false,
    }
}

fn without_version(base: &Url) -> Url {
    let mut root = base.clone();
    let path = base.path().trim_end_matches('/');
    root.set_path(path.strip_suffix("/v1").unwrap_or(path));
    root.set_query(None);
    root
}
