//! A stream over the network.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::server::{Ending, HEAD, Reply, Server, answer, finish, impatient, next_texts, piece, stream};
use crate::llm::error::TimeoutKind;
use crate::llm::{CallOptions, CircuitState, EndpointHealth, Error, SharedHealth};

/// The pieces that came, and how the stream ended.
async fn read(server: &Server, options: CallOptions) -> (Vec<String>, Result<(), Error>) {
    let mut pieces = Vec::new();
    let mut stream = match server.call(options).stream().await {
        Ok(stream) => stream,
        Err(error) => return (pieces, Err(error)),
    };
    loop {
        match next_texts(&mut stream).await {
            Ok(Some(texts)) => pieces.extend(texts),
            Ok(None) => return (pieces, Ok(())),
            Err(error) => return (pieces, Err(error)),
        }
    }
}

#[tokio::test]
async fn pieces_come_in_order_and_the_summary_is_kept() {
    let usage =
        json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}});
    let usage = format!("data: {usage}\n\n");
    let server = Server::start([stream(&[
        piece("a"),
        piece(""),
        piece("b"),
        finish(),
        usage,
        "data: [DONE]\n\n".into(),
    ])])
    .await;
    let mut stream = server.call(impatient()).stream().await.unwrap();
    let mut pieces = Vec::new();
    while let Some(texts) = next_texts(&mut stream).await.unwrap() {
        pieces.extend(texts);
    }
    assert_eq!(pieces, ["a", "b"]);
    let summary = stream.summary();
    assert_eq!(
        (summary.model.as_deref(), summary.finish_reason.as_deref()),
        (Some("m"), Some("stop"))
    );
    assert_eq!(summary.usage.unwrap().total_tokens, 3);
}

#[tokio::test]
async fn a_stream_is_complete_with_done_or_with_a_finish_reason() {
    for end in ["data: [DONE]\n\n".to_owned(), "data: [DONE]".to_owned(), finish()] {
        let server = Server::start([stream(&[piece("a"), end])]).await;
        let (pieces, end) = read(&server, impatient()).await;
        assert_eq!(pieces, ["a"]);
        end.unwrap();
    }
}

#[tokio::test]
async fn a_stream_cut_before_its_end_is_an_error_after_its_pieces() {
    let server = Server::start([stream(&[piece("a"), piece("b")])]).await;
    let (pieces, end) = read(&server, impatient()).await;
    assert_eq!(pieces, ["a", "b"]);
    assert!(matches!(end, Err(Error::Connection { .. })), "{end:?}");
    assert_eq!(server.tries(), 1, "what has begun is not tried again");
}

#[tokio::test]
async fn a_stream_that_visibly_breaks_before_done_is_an_error_though_its_choice_has_finished() {
    let cases = [
        ("transfer-encoding: chunked", "", Ending::Close),
        ("content-length: 100000", "", Ending::Close),
        ("content-length: 100000", "", Ending::Reset),
        ("connection: close", "data: {\"error\": {\"mess", Ending::Close),
        ("connection: close", "data: {\"error\": {}}\n", Ending::Close),
        ("connection: close", "event: error\n", Ending::Close),
    ];
    for (header, rest, ending) in cases {
        let body = format!("{}{}{rest}", piece("a"), finish());
        let body = if header.contains("chunked") {
            format!("{:x}\r\n{body}\r\n", body.len())
        } else {
            body
        };
        let reply = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n{body}");
        let server = Server::start([Reply::Then(reply.into(), ending)]).await;
        let (pieces, end) = read(&server, impatient()).await;
        if ending == Ending::Close {
            assert_eq!(pieces, ["a"], "{header}"); // a reset may overtake it
        }
        assert!(
            matches!(end, Err(Error::Connection { .. })),
            "{header} {rest}: {end:?}"
        );
    }
}

#[tokio::test]
async fn an_error_in_mid_stream_is_told() {
    let server = Server::start([stream(&[
        piece("a"),
        "data: {\"error\": {\"message\": \"overloaded\"}}\n\n".into(),
    ])])
    .await;
    let (pieces, end) = read(&server, impatient()).await;
    assert_eq!(pieces, ["a"]);
    let Err(Error::Reported { message, .. }) = end else {
        panic!("{end:?}")
    };
    assert_eq!(message, "overloaded");
}

#[tokio::test]
async fn what_is_no_event_stream_is_an_error() {
    for (body, expected) in [
        ("<html></html>", "not an event stream"),
        ("{\"choices\": []}", "not an event stream"),
        (
            "{\"error\": {\"message\": \"still loading\"}}",
            "but an error: still loading",
        ),
        ("data: nonsense\n\n", "not JSON"),
        ("data: []\n\n", "not a JSON object"),
    ] {
        let server = Server::start([answer("200 OK", "", body)]).await;
        let (_, end) = read(&server, impatient()).await;
        let Err(error @ Error::InvalidResponse { .. }) = end else {
            panic!("{body}: {end:?}")
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn the_first_piece_and_each_gap_are_limited_but_not_the_whole() {
    let options = CallOptions {
        timeout: Some(Duration::from_millis(400)),
        ..impatient()
    };
    for (text, count) in [("a", 5), ("", 0)] {
        let mut steady = vec![HEAD.to_owned()];
        steady.extend((0..5).map(|_| piece(text))); // without text it is an event all the same: a model that thinks
        steady.push(finish());
        let steady = steady.into_iter().map(String::into_bytes).collect();
        let server = Server::start([Reply::Slowly(steady, Duration::from_millis(100))]).await;
        let (pieces, end) = read(&server, options.clone()).await;
        assert_eq!(pieces.len(), count);
        end.unwrap(); // the server leaves the connection open after its finish_reason
    }

    for parts in [
        vec![HEAD.to_owned()],
        vec![HEAD.to_owned(), piece("a")],
        vec![HEAD.to_owned(), ":\n".repeat(9)],
    ] {
        let parts = parts.into_iter().map(String::into_bytes).collect();
        let server = Server::start([Reply::Slowly(parts, Duration::from_millis(20))]).await;
        let (_, end) = read(&server, options.clone()).await;
        assert!(
            matches!(
                end,
                Err(Error::Timeout {
                    kind: TimeoutKind::Try,
                    ..
                })
            ),
            "{end:?}"
        );
    }
}

#[tokio::test]
async fn the_deadline_limits_the_whole_stream() {
    let parts: Vec<Vec<u8>> = [HEAD.to_owned()]
        .into_iter()
        .chain((0..100).map(|_| piece("x")))
        .map(String::into_bytes)
        .collect();
    let server = Server::start([Reply::Slowly(parts, Duration::from_millis(50))]).await;
    let options = CallOptions {
        deadline: Some(Duration::from_millis(400)),
        ..impatient()
    };
    let (pieces, end) = read(&server, options).await;
    assert!(!pieces.is_empty() && pieces.len() < 20);
    assert!(
        matches!(
            end,
            Err(Error::Timeout {
                kind: TimeoutKind::Deadline,
                ..
            })
        ),
        "{end:?}"
    );
}

#[tokio::test]
async fn a_stream_counts_in_the_breaker_by_how_it_ends() {
    let health = SharedHealth::new(EndpointHealth::new("http://endpoint", 1, 60.0), Arc::default());
    let server = Server::start([stream(&[piece("a")])]).await;
    let mut stream = server
        .call_with(impatient(), Some(health.clone()))
        .stream()
        .await
        .unwrap();
    while let Ok(Some(_)) = next_texts(&mut stream).await {}
    assert_eq!(health.lock().state(), CircuitState::Open);
}

#[tokio::test]
async fn dropping_a_stream_gives_its_place_back() {
    let server = Server::start([Reply::Slowly(
        vec![format!("{HEAD}{}", piece("a")).into()],
        Duration::ZERO,
    )])
    .await;
    let call = server.call(impatient());
    let transport = call.transport.clone();
    let mut stream = call.stream().await.unwrap();
    assert!(next_texts(&mut stream).await.unwrap().is_some());
    assert_eq!(transport.requests_under_way(), 1);
    drop(stream);
    assert_eq!(transport.requests_under_way(), 0);
}

#[tokio::test]
async fn a_stream_does_not_keep_its_request() {
    let server = Server::start([Reply::Slowly(
        vec![format!("{HEAD}{}", piece("a")).into()],
        Duration::ZERO,
    )])
    .await;
    let mut call = server.call(impatient());
    call.request.body = vec![b' '; 1 << 20].into();
    let body = call.request.body.clone();
    let mut stream = call.stream().await.unwrap();
    assert!(next_texts(&mut stream).await.unwrap().is_some());
    assert!(body.is_unique());
}
