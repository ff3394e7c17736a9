//! A server whose every byte a test decides.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::llm::chunks::text;
use crate::llm::stream::ChatStream;
use crate::llm::transport::Transport;
use crate::llm::{
    Batch, Call, CallOptions, Endpoint, Error, Extras, Items, Shape, SharedHealth, TransportSettings,
};
use serde_json::{Map, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with one request.
pub enum Reply {
    /// Sends these bytes and closes the connection.
    Bytes(Vec<u8>),
    /// Sends these parts, so long apart, and then nothing more, without closing.
    Slowly(Vec<Vec<u8>>, Duration),
    /// Closes the connection without a word.
    Nothing,
    /// Sends these bytes, and then what follows.
    Then(Vec<u8>, Ending),
}

/// What follows the last byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ending {
    /// An orderly close.
    Close,
    /// A reset, which may overtake what was sent.
    Reset,
    /// Nothing, ever.
    Silence,
}

/// A scripted server: one reply per request, the last one again and again.
pub struct Server {
    pub base_url: String,
    pub requests: Arc<Mutex<Vec<String>>>,
}

pub fn answer(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}")
            .into(),
    )
}

pub fn completion(content: &str) -> Reply {
    let body = json!({"model": "m", "choices": [{"message": {"content": content}}]}).to_string();
    answer("200 OK", "", &body)
}

impl Server {
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_as("http", replies).await
    }

    /// One that takes whatever comes first for the whole request: to an `https` client it is no TLS server.
    pub async fn start_without_tls(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_as("https", replies).await
    }

    async fn start_as(scheme: &'static str, replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("{scheme}://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let mut replies: VecDeque<Arc<Reply>> = replies.into_iter().map(Arc::new).collect();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let reply = replies[0].clone();
                if replies.len() > 1 {
                    replies.pop_front();
                }
                tokio::spawn(serve(connection, reply, seen.clone(), scheme == "http"));
            }
        });
        Self { base_url, requests }
    }

    pub fn tries(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub fn call(&self, options: CallOptions) -> Call {
        self.call_with(options, None)
    }

    pub fn call_with(&self, options: CallOptions, health: Option<SharedHealth>) -> Call {
        let transport = Transport::new(TransportSettings::default()).unwrap();
        Call {
            health,
            ..call_of(&self.base_url, options, &Arc::new(transport))
        }
    }
}

/// A call, whoever listens there.
pub fn call_of(base_url: &str, options: CallOptions, transport: &Arc<Transport>) -> Call {
    let mut body = Map::new();
    body.insert("model".to_owned(), "asked".into());
    let endpoint = Endpoint::new(base_url, "secret-key").unwrap();
    Call {
        transport: transport.clone(),
        request: endpoint.request("asked", &body, &Extras::default()).unwrap(),
        options,
        health: None,
        metrics: Arc::default(),
        totals: Arc::default(),
        delay: Duration::ZERO,
    }
}

/// Retries at once, everything else as by default.
pub fn impatient() -> CallOptions {
    let mut options = CallOptions::default();
    options.retry.base = Duration::from_millis(1);
    options
}

async fn serve(mut connection: TcpStream, reply: Arc<Reply>, seen: Arc<Mutex<Vec<String>>>, is_http: bool) {
    let request = if is_http {
        read_request(&mut connection).await
    } else {
        let read = connection.read(&mut [0; 4096]).await;
        format!("{read:?}")
    };
    seen.lock().unwrap().push(request);
    match &*reply {
        Reply::Nothing => {}
        Reply::Bytes(bytes) => {
            let _ = connection.write_all(bytes).await;
        }
        Reply::Slowly(parts, pause) => {
            for part in parts {
                if connection.write_all(part).await.is_err() {
                    return;
                }
                tokio::time::sleep(*pause).await;
            }
            std::future::pending::<()>().await;
        }
        Reply::Then(bytes, ending) => {
            let _ = connection.write_all(bytes).await;
            match ending {
                Ending::Close => {}
                Ending::Reset => connection.set_zero_linger().unwrap(),
                Ending::Silence => std::future::pending::<()>().await,
            }
        }
    }
}

async fn read_request(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length: ")
                        .map(str::to_owned)
                })
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return text;
            }
        }
        match connection.read(&mut buffer).await {
            Ok(0) | Err(_) => return text,
            Ok(read) => request.extend_from_slice(&buffer[..read]),
        }
    }
}

/// The pieces of text in a batch of either shape.
pub fn texts(batch: Batch) -> Vec<String> {
    match batch.items {
        Items::Texts(texts) => texts,
        Items::Chunks(chunks) => chunks.iter().filter_map(|chunk| text(chunk).unwrap()).collect(),
    }
}

/// The stream's next pieces of text.
pub async fn next_texts(stream: &mut ChatStream) -> Result<Option<Vec<String>>, Error> {
    Ok(stream.next_batch(Shape::Texts).await?.map(texts))
}

/// The head of a streamed answer that ends with its connection.
pub const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// An event with a piece of text.
pub fn piece(content: &str) -> String {
    format!(
        "data: {}\n\n",
        json!({"model": "m", "choices": [{"index": 0, "delta": {"content": content}}]})
    )
}

/// The event that ends the text.
pub fn finish() -> String {
    format!(
        "data: {}\n\n",
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    )
}

/// An answer of these events.
pub fn stream(events: &[String]) -> Reply {
    Reply::Bytes(format!("{HEAD}{}", events.concat()).into())
}
