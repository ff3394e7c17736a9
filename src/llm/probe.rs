//! Asks a model server whether it is alive, without a completion.

use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::endpoint::{http_url, join};
use super::transport::Transport;

/// Where to ask, in this order: the first that is not 404 decides. Ollama has the second, every OpenAI-compatible server the third.
const PATHS: [&str; 3] = ["api/health", "api/version", "v1/models"];

/// Whether the server at `endpoint` (with or without `/v1` at its end) answers 200 within `limit`. Never fails.
pub async fn is_healthy(transport: &Transport, endpoint: &str, limit: Duration) -> bool {
    let Ok(base) = http_url("endpoint", endpoint) else {
        return false;
    };
    let root = without_version(&base);
    let asked = async {
        for path in PATHS {
            let answer = transport.client.get(join(&root, path)).send().await;
            match answer.map(|answer| answer.status()) {
                Ok(StatusCode::NOT_FOUND) => {}
                Ok(status) => return status == StatusCode::OK,
                Err(_) => return false,
            }
        }
        false
    };
    tokio::time::timeout(limit, asked).await.unwrap_or(false)
}

fn without_version(base: &Url) -> Url {
    let mut root = base.clone();
    let path = base.path().trim_end_matches('/');
    root.set_path(path.strip_suffix("/v1").unwrap_or(path));
    root.set_query(None);
    root
}
