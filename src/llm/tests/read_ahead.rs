//! A stream that is read ahead, by those who come and go.

use std::sync::Arc;
use std::time::Duration;

use super::server::{HEAD, Reply, Server, finish, impatient, piece, stream, texts};
use crate::llm::read_ahead::GRACE;
use crate::llm::{CallOptions, Error, Loop, ReadAhead, Shape};

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
        assert!(stream.next().await.is_err(), "nobody takes it for complete");
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
