//! The body of an answer, received part by part, each within its limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::content_coding::Decoder;
use super::error::{Error, TimeoutKind};
use super::limit::{Limit, within};

/// How long the end of a finished body may take to arrive, so that its connection can be used again.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// A body that is being received. Dropping it closes the request.
///
/// It has only what reading needs. The request, with the prompt in it, is freed when the answer's
/// head has come: a stream may last for minutes, and a thousand of them would otherwise keep a
/// thousand prompts in memory.
pub(super) struct Body {
    pub response: Response,
    /// The place among the limited connections: the connection is in use until the body's end.
    pub turn: OwnedSemaphorePermit,
    pub deadline: Option<Limit>,
    pub idle_timeout: Option<Duration>,
    pub connect_timeout: Duration,
    /// For a body that the server compressed.
    pub decoder: Option<Box<Decoder>>,
}

impl Body {
    /// Returns the next part, or `None` at the end. `limit` holds besides the deadline and the idle timeout.
    pub async fn chunk(&mut self, limit: Option<Limit>) -> Result<Option<Bytes>, Error> {
        if self.decoder.is_none() {
            return self.receive(limit).await;
        }
        loop {
            if let Some(decoder) = &mut self.decoder
                && let Some(decoded) = decoder.decode().map_err(broken)?
            {
                return Ok(Some(decoded));
            }
            let received = self.receive(limit).await?;
            let Some(decoder) = &mut self.decoder else {
                return Ok(received);
            };
            match received {
                Some(bytes) => decoder.push(bytes),
                None => return decoder.finish().map_err(broken),
            }
        }
    }

    async fn receive(&mut self, limit: Option<Limit>) -> Result<Option<Bytes>, Error> {
        let idle = Limit::after(Instant::now(), self.idle_timeout, TimeoutKind::Idle);
        within(&[self.deadline, limit, idle], self.response.chunk())
            .await?
            .map_err(|error| Error::from_transport(error, self.connect_timeout))
    }

    /// Reads to the end, or until there are more than `longest` bytes: a server can send without end.
    pub async fn read_all(&mut self, limit: Option<Limit>, longest: usize) -> Result<Bytes, Error> {
        let Some(first) = self.chunk(limit).await? else {
            return Ok(Bytes::new());
        };
        let mut length = first.len();
        let mut rest = Vec::new();
        while length <= longest {
            let part = match self.chunk(limit).await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                // Blank lines before an answer keep the connection alive (DeepSeek).
                Err(error) => {
                    let is_blank = rest
                        .iter()
                        .chain([&first])
                        .all(|part: &Bytes| part.trim_ascii().is_empty());
                    return Err(if is_blank { error.amid_keep_alives() } else { error });
                }
            };
            length += part.len();
            rest.push(part);
        }
        if rest.is_empty() {
            // Nearly every body comes in one part, which need not be copied.
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(length);
        whole.extend_from_slice(&first);
        rest.iter().for_each(|part| whole.extend_from_slice(part));
        Ok(whole.freeze())
    }

    /// Receives what may follow the part that ended the answer (`[DONE]`). HTTP/1.1 can use a
    /// connection again only after the whole body was read (RFC 9112, section 9.3).
    pub fn drain(mut self) {
        // As a rule the end has come already: then no task has to be spawned for it.
        if matches!(self.response.chunk().now_or_never(), Some(Ok(None) | Err(_))) {
            return;
        }
        tokio::spawn(async move {
            let reading = async { while let Ok(Some(_)) = self.response.chunk().await {} };
            // A server that sends on and on does not get to keep the connection.
            let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
            drop(self.turn);
        });
    }
}

/// A body that can't be decoded was damaged on its way, as one that breaks off.
fn broken(detail: String) -> Error {
    Error::Connection {
        detail,
        os_error: None,
    }
}
