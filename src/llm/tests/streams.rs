use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::server::{Ending, Reply, Server, answer, impatient, next_texts, texts};
use crate::llm::chunks::{ChunkReader, MOST_CHOICES, Summary};
use crate::llm::error::TimeoutKind;
use crate::llm::read_ahead::GRACE;
use crate::llm::{
    Batch, CallOptions, CircuitState, EndpointHealth, Error, Loop, ReadAhead, Shape, SharedHealth,
};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

fn piece(content: &str) -> String {
    format!(
        "data: {}\n\n",
        json!({"model": "m", "choices": [{"index": 0, "delta": {"content": content}}]})
    )
}

fn finish() -> String {
    format!(
        "data: {}\n\n",
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    )
}

fn stream(events: &[String]) -> Reply {
    Reply::Bytes(format!("{HEAD}{}", events.concat()).into())
}

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

#[test]
fn what_is_cut_after_done_or_is_no_event_breaks_nothing() {
    for rest in [
        "data: [DONE]",
        "data: [DONE]\n",
        ": pin",
        ": ping\n",
        "\n\n",
        "\r\n",
        " ",
    ] {
        for shape in [Shape::Texts, Shape::Chunks] {
            read_after_a_piece(&format!("{}{rest}", finish()), shape).unwrap();
        }
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
    let health = SharedHealth::new(EndpointHealth::new("http://endpoint", 1, 60.0));
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

#[tokio::test]
async fn pieces_that_wait_are_handed_over_together() {
    let chunked = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let pieces: String = (0..200).map(|_| chunked(&piece("x"))).collect();
    let whole = format!("{head}{pieces}{}{}", chunked(&finish()), chunked(""));
    let server = Server::start([Reply::Bytes(whole.into())]).await;
    let stream = ReadAhead::new(server.call(impatient()).stream());
    stream.start(Shape::Texts);
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await.unwrap() {
        batches.push(texts(batch).len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(batches.iter().sum::<usize>(), 200);
    assert!(batches.len() <= 2, "{batches:?}");
}

/// Returns a stream whose server sends one piece and then nothing, after that piece was taken, and
/// a function that counts the open requests.
async fn silent_after_a_piece() -> (Arc<ReadAhead>, impl Fn() -> usize) {
    let parts = vec![format!("{HEAD}{}", piece("a")).into()];
    let server = Server::start([Reply::Slowly(parts, Duration::ZERO)]).await;
    let call = server.call(CallOptions {
        timeout: None,
        ..impatient()
    });
    let transport = call.transport.clone();
    let stream = Arc::new(ReadAhead::new(call.stream()));
    stream.start(Shape::Texts);
    assert_eq!(texts(stream.next().await.unwrap().unwrap()), ["a"]);
    (stream, move || transport.requests_under_way())
}

#[tokio::test]
async fn a_stream_that_is_left_in_the_middle_is_closed_after_the_grace_and_says_so() {
    for way in ["a loop that is left", "the wait of a loop", "a single wait"] {
        let (stream, requests) = silent_after_a_piece().await;
        tokio::time::pause();
        let iterated = (way != "a single wait").then(|| stream.iterate());
        let given_up = stream.wait_was_given_up();
        let left = if way == "a loop that is left" {
            iterated.and_then(Loop::leave)
        } else {
            given_up
        };
        let leaving = tokio::spawn(left.unwrap());
        tokio::time::sleep(GRACE - Duration::from_millis(10)).await;
        assert_eq!(requests(), 1);
        leaving.await.unwrap();
        while requests() > 0 {
            tokio::task::yield_now().await;
        }
        let end = stream.next().await;
        assert!(matches!(end, Err(Error::Abandoned(_))), "{end:?}");
        assert!(stream.next().await.unwrap().is_none(), "the error is raised once");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn who_comes_back_within_the_grace_or_never_left_keeps_the_stream() {
    for way in ["a new loop", "a new wait", "another loop", "another wait"] {
        let (stream, requests) = silent_after_a_piece().await;
        tokio::time::pause();
        let other = (way == "another loop").then(|| stream.iterate());
        let waiting = (way == "another wait").then(|| {
            let stream = stream.clone();
            tokio::spawn(async move { stream.next().await })
        });
        tokio::task::yield_now().await;
        let iterated = stream.iterate();
        let given_up = stream.wait_was_given_up();
        let left = iterated.leave();
        assert_eq!(
            (given_up.is_none(), left.is_none()),
            (other.is_some(), other.is_some())
        );
        let leaving: Vec<_> = [given_up, left].into_iter().flatten().map(tokio::spawn).collect();
        tokio::time::sleep(GRACE / 2).await;
        let back = (way == "a new loop").then(|| stream.iterate());
        if way == "a new wait" {
            tokio::time::timeout(Duration::from_millis(10), stream.next())
                .await
                .unwrap_err();
        }
        tokio::time::sleep(10 * GRACE).await;
        assert!(leaving.iter().all(|closing| closing.is_finished()));
        assert_eq!(requests(), 1, "{way}");
        drop((other, waiting, back));
        tokio::time::resume();
    }
}

#[tokio::test]
async fn single_waits_cut_short_may_be_made_again_and_those_that_were_not_cut_lie_far_apart() {
    let (stream, requests) = silent_after_a_piece().await;
    tokio::time::pause();
    tokio::time::sleep(10 * GRACE).await;
    assert_eq!(requests(), 1, "no wait was cut short");
    let mut closings = Vec::new();
    for _ in 0..20 {
        tokio::time::timeout(GRACE / 4, stream.next()).await.unwrap_err();
        closings.push(tokio::spawn(stream.wait_was_given_up().unwrap()));
        tokio::time::sleep(GRACE / 2).await;
    }
    assert_eq!(requests(), 1, "it was taken up again each time");
    for closing in closings {
        closing.await.unwrap();
    }
    while requests() > 0 {
        tokio::task::yield_now().await;
    }
    let end = stream.next().await;
    assert!(matches!(end, Err(Error::Abandoned(_))), "{end:?}");
}

#[tokio::test]
async fn nothing_that_was_left_keeps_a_stream_alive() {
    let (stream, requests) = silent_after_a_piece().await;
    let leaving = stream.iterate().leave().unwrap();
    drop(stream);
    while requests() > 0 {
        tokio::task::yield_now().await;
    }
    drop(leaving);
}

#[tokio::test]
async fn what_was_delivered_and_not_received_comes_again() {
    let server = Server::start([stream(&[piece("a"), piece("b")])]).await;
    let stream = ReadAhead::new(server.call(impatient()).stream());
    stream.start(Shape::Texts);
    let mut pieces = Vec::new();
    let end = loop {
        let undelivered = stream.next().await;
        stream.give_back(undelivered);
        match stream.next().await {
            Ok(Some(batch)) => pieces.extend(texts(batch)),
            Ok(None) => panic!("the stream ended as if it were complete"),
            Err(error) => break error,
        }
    };
    assert_eq!(pieces, ["a", "b"]);
    assert!(matches!(end, Error::Connection { .. }), "{end:?}");
}

#[test]
fn what_means_not_yet_is_no_reason_to_end() {
    for shape in [Shape::Texts, Shape::Chunks] {
        for reason in ["", " ", "null", "None"] {
            let event =
                json!({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": reason}]});
            let (texts, summary, complete) = read_event(&event.to_string(), shape);
            assert_eq!((texts, complete), (vec!["a".to_owned()], false), "{reason:?}");
            assert_eq!(summary.finish_reason, None);
        }
    }
}

/// Feeds a first piece and then `events` to a reader, and returns the reader's result.
fn read_after_a_piece(events: &str, shape: Shape) -> Result<(), Error> {
    let mut reader = ChunkReader::new(200, 1 << 20);
    let mut batch = Batch::new(shape);
    let bytes = format!("{}{events}", piece("a"));
    let end = reader
        .feed(bytes.as_bytes(), &mut batch)
        .and_then(|()| reader.end(None));
    assert_eq!(texts(batch), ["a"]);
    end
}

#[test]
fn an_error_of_any_dialect_is_told_in_the_servers_words() {
    for shape in [Shape::Texts, Shape::Chunks] {
        for (event, words) in [
            (r#"data: {"error": {"message": "engine died"}}"#, "engine died"),
            (r#"data: {"error": "engine died"}"#, "engine died"),
            (
                r#"data: {"object": "error", "message": "engine died", "code": 500}"#,
                "engine died",
            ),
            (
                r#"data: {"type": "error", "choices": [], "message": "engine died"}"#,
                "engine died",
            ),
            (r#"data: {"detail": "engine died"}"#, "engine died"),
            (r#"data: {"detail": [{"msg": "engine died"}]}"#, "engine died"),
            (
                r#"data: {"message": "engine died", "choices": []}"#,
                "engine died",
            ),
            ("event: error\ndata: {\"reason\": 5}", "An error occurred"),
            ("event: error\ndata: engine died", "engine died"),
            (
                "event: error\ndata: {\"message\": \"engine died\"}",
                "engine died",
            ),
            ("event: ERROR\ndata: engine died", "engine died"),
            ("event: error", "An error occurred"),
            ("event: Error\ndata:", "An error occurred"),
            (r#"data: {"error": {}}"#, "An error occurred"),
            (r#"data: {"error": "", "choices": null}"#, "An error occurred"),
            (r#"data: {"errors": [{"message": "engine died"}]}"#, "engine died"),
            (
                r#"data: {"errors": ["engine died"], "choices": []}"#,
                "engine died",
            ),
            (r#"data: {"errors": [{"code": 5}]}"#, "An error occurred"),
            (
                r#"data: {"choices": [{"index": 0, "delta": {}, "error": {"message": "engine died"}}]}"#,
                "engine died",
            ),
            (
                r#"data: {"choices": [{"delta": {}, "error": "engine died", "finish_reason": "error"}]}"#,
                "engine died",
            ),
            (
                r#"data: {"choices": [{"delta": {}}, {"index": 1, "delta": {}, "finish_reason": "error"}]}"#,
                "An error occurred",
            ),
        ] {
            let end = read_after_a_piece(&format!("{event}\n\ndata: [DONE]\n\n"), shape);
            let Err(Error::Reported { message, .. }) = end else {
                panic!("{event}: {end:?}")
            };
            assert!(message.contains(words), "{event}: {message}");
        }
        for event in [
            r#"data: {"choices": []}"#,
            r#"data: {"type": "ping"}"#,
            r#"data: {"message": "", "detail": null, "error": null}"#,
            r#"data: {"message": "x", "choices": [{"index": 0, "delta": {}}]}"#,
            r#"data: {"choices": [{"index": 0, "delta": {}, "error": null}], "errors": null}"#,
            r#"data: {"choices": [{"index": 0, "delta": {}, "error": {}}], "error": ""}"#,
            r#"data: {"choices": [], "error": {}, "prompt_filter_results": [{"prompt_index": 0}]}"#,
            r#"data: {"usage": {"total_tokens": 3}, "error": "", "errors": []}"#,
            "event: message\ndata: {}",
            "event: ping",
            ": error",
        ] {
            read_after_a_piece(&format!("{event}\n\ndata: [DONE]\n\n"), shape).unwrap();
        }
    }
}

#[test]
fn content_in_parts_is_read_and_content_that_is_no_text_is_an_error() {
    let event = |content: &serde_json::Value| {
        let event = json!({"choices": [{"index": 0, "delta": {"content": content}}]});
        format!("data: {event}\n\ndata: [DONE]\n\n")
    };
    let parts = json!([
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "b"},
        {"type": "text", "text": "c"},
    ]);
    let mut reader = ChunkReader::new(200, 1 << 20);
    let mut batch = Batch::new(Shape::Texts);
    reader.feed(event(&parts).as_bytes(), &mut batch).unwrap();
    assert_eq!(texts(batch), ["bc"]);
    for content in [
        json!(5),
        json!({"text": "b"}),
        json!(["b"]),
        json!([{"type": "text"}]),
    ] {
        let end = read_after_a_piece(&event(&content), Shape::Texts);
        let Err(error @ Error::InvalidResponse { .. }) = end else {
            panic!("{content}: {end:?}")
        };
        assert!(error.to_string().contains("a delta's content"), "{error}");
    }
}

#[test]
fn so_many_choices_may_be_numbered_and_no_more() {
    let numbered = |count: usize| -> String {
        (0..count)
            .map(|index| format!("data: {}\n\n", json!({"choices": [{"index": index}]})))
            .collect()
    };
    for shape in [Shape::Texts, Shape::Chunks] {
        let all = format!("{}data: [DONE]\n\n", numbered(MOST_CHOICES));
        read_after_a_piece(&all, shape).unwrap();
        let Err(error @ Error::InvalidResponse { .. }) =
            read_after_a_piece(&numbered(MOST_CHOICES + 1), shape)
        else {
            panic!("no error")
        };
        assert!(error.to_string().contains("more than 512 choices"), "{error}");
    }
}

#[test]
fn what_follows_done_does_not_count_however_long_it_is() {
    let mut reader = ChunkReader::new(200, 100);
    let mut batch = Batch::new(Shape::Chunks);
    let bytes = format!("{}data: [DONE]\n\n{}", piece("a"), "x".repeat(200));
    reader.feed(bytes.as_bytes(), &mut batch).unwrap();
    assert_eq!((texts(batch).len(), reader.is_done()), (1, true));
    reader.end(None).unwrap();
}

/// What a reader of either shape makes of one event: the text, what is known after it, and whether it was the end.
fn read_event(event: &str, shape: Shape) -> (Vec<String>, Summary, bool) {
    let mut reader = ChunkReader::new(200, 1 << 20);
    let mut batch = Batch::new(shape);
    reader
        .feed(format!("data: {event}\n\n").as_bytes(), &mut batch)
        .unwrap();
    let complete = reader.end(None).is_ok();
    (texts(batch), Summary::clone(reader.summary()), complete)
}

#[test]
fn both_ways_of_reading_an_event_find_the_same() {
    for event in [
        r#"{"model": "m", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}"#,
        r#"{"model": "é\"", "choices": [{"delta": {"content": "\u00e9\n"}, "finish_reason": "stop"}]}"#,
        r#"{"choices": [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]}"#,
        r#"{"choices": [{"index": 0, "delta": {"content": ""}}, {"index": 0, "delta": {"content": "a"}}]}"#,
        r#"{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}, {"index": 1, "delta": null}]}"#,
        r#"{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}"#,
        r#"{"choices": [["a"], {"index": 0, "delta": ["a"]}], "error": null, "usage": null}"#,
        r#"{"choices": [], "model": null, "error": {}}"#,
        r#"{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": ""}], "message": "x"}"#,
        r#"{"choices": [{"index": -1, "delta": {"content": "a"}, "finish_reason": 5}], "model": 5, "error": ""}"#,
        r#"{"choices": [{"delta": {"content": [{"type": "text", "text": "a"}]}, "finish_reason": "stop"}]}"#,
        r#"{"model": "a", "model": "b"}"#,
        "{}",
    ] {
        let found = read_event(event, Shape::Texts);
        assert_eq!(found, read_event(event, Shape::Chunks), "{event}");
    }
}

proptest! {
    #[test]
    fn chunks_do_not_depend_on_how_the_bytes_are_cut(contents in prop::collection::vec("[a-zé\n\"]{0,6}", 0..6), done: bool, whole: bool) {
        let shape = if whole { Shape::Chunks } else { Shape::Texts };
        let mut bytes: Vec<u8> = contents.iter().map(|content| piece(content)).collect::<String>().into();
        if done {
            bytes.extend_from_slice(b"data: [DONE]\n\n");
        }
        for cut in 0..=bytes.len() {
            let mut reader = ChunkReader::new(200, 1 << 20);
            let mut batch = Batch::new(shape);
            reader.feed(&bytes[..cut], &mut batch).unwrap();
            reader.feed(&bytes[cut..], &mut batch).unwrap();
            let expected: Vec<&str> = contents.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
            prop_assert_eq!(texts(batch), expected);
            prop_assert_eq!(reader.end(None).is_ok(), done);
        }
    }
}
