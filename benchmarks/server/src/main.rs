//! A chat-completions server that costs next to nothing, so that what is measured is the client.
//!
//!     model-server [PORT]
//!
//! Listens on loopback (port 0, the default, takes a free one), prints `listening on PORT`, and ends when its standard input
//! closes: it never outlives the process that started it. One thread, because the client under measurement needs the other core.
//!
//! What an answer is like stands in the path, before `/v1`, so that one server serves every axis:
//!
//! - `/delay-ms=2000/v1/chat/completions` answers after two seconds;
//! - `/chunks=200/interval-ms=5/v1/chat/completions` streams 200 pieces, 5 ms apart on average, if the body asks for a stream;
//! - `GET /counters` says how many requests were answered and how many connections were accepted.

mod answers;
mod script;

use std::convert::Infallible;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};

use answers::Events;
use script::Script;

/// Ten thousand clients connect at once.
const BACKLOG: u32 = 16_384;

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

type Body = Either<Full<Bytes>, Events>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if request.method() == Method::GET {
        return Ok(json(Bytes::from(format!(
            r#"{{"requests":{},"connections":{}}}"#,
            REQUESTS.load(Ordering::Relaxed),
            CONNECTIONS.load(Ordering::Relaxed)
        ))));
    }
    let Some(script) = Script::from_path(request.uri().path()) else {
        let mut response = Response::new(Either::Left(Full::default()));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    };
    let Ok(body) = request.into_body().collect().await else {
        return Ok(Response::new(Either::Left(Full::default()))); // the client has gone
    };
    REQUESTS.fetch_add(1, Ordering::Relaxed);
    if !script.delay.is_zero() {
        tokio::time::sleep(script.delay).await;
    }
    if !answers::wants_stream(&body.to_bytes()) {
        return Ok(json(Bytes::from_static(answers::COMPLETION.as_bytes())));
    }
    let mut response = Response::new(Either::Right(Events::new(script.chunks, script.interval)));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    Ok(response)
}

fn json(body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn serve(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await; // out of descriptors: some will be closed
            continue;
        };
        CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        tokio::spawn(
            http1::Builder::new()
                .pipeline_flush(true)
                .serve_connection(TokioIo::new(stream), service_fn(answer)),
        );
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    socket.listen(BACKLOG)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let port = std::env::args().nth(1).map_or(Ok(0), |argument| argument.parse());
    let Ok(port) = port else {
        eprintln!("usage: model-server [PORT]");
        return ExitCode::from(2);
    };
    let listener = match listen(port) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("port {port} on 127.0.0.1 can't be used: {error}");
            return ExitCode::from(2);
        }
    };
    match listener.local_addr() {
        Ok(address) => println!("listening on {}", address.port()),
        Err(error) => eprintln!("{error}"),
    }
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    serve(listener).await;
    ExitCode::SUCCESS
}
