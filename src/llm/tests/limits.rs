//! Every failure of every phase, and whether it is told in time.
//!
//! The clock stands still while anything is left to do, and then moves by a step: how busy the machine is makes no difference,
//! and a limit that is kept is kept to the step.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, advance};

use super::server::{Ending, Reply, Server, answer, call_of, completion, next_texts};
use crate::llm::error::TimeoutKind;
use crate::llm::limit::{Limit, within};
use crate::llm::transport::Transport;
use crate::llm::{Call, CallOptions, EndpointHealth, Error, SharedHealth, TransportSettings};

const LIMIT: Duration = Duration::from_millis(600);
const GRACE: Duration = Duration::from_millis(100);
const STEP: Duration = Duration::from_millis(5);

/// How often every task gets its turn, and what has come in over the loopback is noticed, before the clock moves.
const TURNS: usize = 40;

const ENDINGS: [Ending; 3] = [Ending::Close, Ending::Reset, Ending::Silence];

/// How `future` ended, and how long it took by the clock.
async fn timed<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> (T, Duration) {
    let start = Instant::now();
    let task = tokio::spawn(future);
    loop {
        for _ in 0..TURNS {
            if task.is_finished() {
                return (task.await.unwrap(), start.elapsed());
            }
            tokio::task::yield_now().await;
        }
        assert!(start.elapsed() < 20 * LIMIT, "it does not end");
        advance(STEP).await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Completion,
    Stream,
}

const KINDS: [Kind; 2] = [Kind::Completion, Kind::Stream];

/// The pieces that came, and how it ended.
async fn finish(call: Call, kind: Kind) -> (Vec<String>, Result<(), Error>) {
    let mut pieces = Vec::new();
    if kind == Kind::Completion {
        let end = call
            .complete(|mut answer| answer.completion("asked", false))
            .await;
        return (pieces, end.map(|_| ()));
    }
    let mut stream = match call.stream().await {
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

fn transport(settings: TransportSettings) -> Arc<Transport> {
    Arc::new(Transport::new(settings).unwrap())
}

/// One try, with nothing but this limit.
fn limited(kind: TimeoutKind) -> CallOptions {
    let limit = |of: TimeoutKind| (of == kind).then_some(LIMIT);
    let mut options = CallOptions {
        timeout: limit(TimeoutKind::Try),
        deadline: limit(TimeoutKind::Deadline),
        first_byte_timeout: limit(TimeoutKind::FirstByte),
        idle_timeout: limit(TimeoutKind::Idle),
        ..CallOptions::default()
    };
    options.retry.max_retries = 0;
    options
}

fn assert_timeout(found: &Result<(), Error>, expected: TimeoutKind, elapsed: Duration, what: &str) {
    assert!(
        matches!(found, Err(Error::Timeout { kind, limit, .. }) if *kind == expected && *limit == LIMIT),
        "{what}: {found:?}"
    );
    assert!(
        (LIMIT..=LIMIT + GRACE).contains(&elapsed),
        "{what}: after {elapsed:?}"
    );
}

fn assert_broken(found: &Result<(), Error>, elapsed: Duration, what: &str) {
    assert!(
        matches!(found, Err(Error::Connection { .. })),
        "{what}: {found:?}"
    );
    assert!(elapsed <= GRACE, "{what}: after {elapsed:?}");
}

/// A port where connections are never made, as long as what is returned lives.
async fn unaccepting() -> (String, impl Sized) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    // A SYN that is dropped is never answered: who still waits after so many turns does so for ever.
    for _ in 0..8 {
        let connecting = tokio::spawn(TcpStream::connect(address));
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        waiting.push(connecting);
    }
    (format!("http://{address}/v1"), (listener, waiting))
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_never_made_is_given_up_in_time() {
    let (base_url, _keep) = unaccepting().await;
    let patient = transport(TransportSettings {
        connect_timeout: Duration::from_secs(3600),
        ..Default::default()
    });
    let impatient = transport(TransportSettings {
        connect_timeout: LIMIT,
        ..Default::default()
    });
    for kind in KINDS {
        for limit in [TimeoutKind::Try, TimeoutKind::Deadline, TimeoutKind::FirstByte] {
            let call = call_of(&base_url, limited(limit), &patient);
            let ((_, end), elapsed) = timed(finish(call, kind)).await;
            assert_timeout(&end, limit, elapsed, &format!("{kind:?} {limit:?}"));
        }
        let call = call_of(&base_url, limited(TimeoutKind::Connect), &impatient);
        let ((_, end), elapsed) = timed(finish(call, kind)).await;
        assert_timeout(&end, TimeoutKind::Connect, elapsed, "connect timeout");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_fails_is_told_at_once_and_one_that_hangs_in_time() {
    let impatient = transport(TransportSettings {
        connect_timeout: LIMIT,
        ..Default::default()
    });
    let patient = transport(TransportSettings {
        connect_timeout: Duration::from_secs(3600),
        ..Default::default()
    });
    // Nothing; half a record's head; a handshake record that announces more than comes; no TLS at all.
    let beginnings: [&[u8]; 4] = [
        b"",
        b"\x16\x03",
        b"\x16\x03\x03\x00\x7a\x02\x00\x00",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ];
    for kind in KINDS {
        for beginning in beginnings {
            for ending in ENDINGS {
                let what = format!("{kind:?} {beginning:?} {ending:?}");
                let server = Server::start_without_tls([Reply::Then(beginning.to_vec(), ending)]).await;
                let is_tls = !beginning.starts_with(b"HTTP");
                if ending == Ending::Silence && is_tls {
                    for limit in [TimeoutKind::Try, TimeoutKind::Deadline, TimeoutKind::FirstByte] {
                        let call = call_of(&server.base_url, limited(limit), &patient);
                        let ((_, end), elapsed) = timed(finish(call, kind)).await;
                        assert_timeout(&end, limit, elapsed, &what);
                    }
                    let call = call_of(&server.base_url, limited(TimeoutKind::Connect), &impatient);
                    let ((_, end), elapsed) = timed(finish(call, kind)).await;
                    assert_timeout(&end, TimeoutKind::Connect, elapsed, &what);
                } else {
                    let call = call_of(&server.base_url, limited(TimeoutKind::Try), &patient);
                    let ((_, end), elapsed) = timed(finish(call, kind)).await;
                    assert_broken(&end, elapsed, &what);
                }
            }
        }
    }
}

/// A whole answer, where its head ends, and (of a stream) where each piece is complete.
struct Answered {
    bytes: Vec<u8>,
    head: usize,
    pieces: Vec<usize>,
    /// From here on nothing is missing any more.
    complete: usize,
}

fn answered(kind: Kind) -> Answered {
    if kind == Kind::Completion {
        let Reply::Bytes(bytes) = completion("hello") else {
            unreachable!()
        };
        let head = bytes.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
        let complete = bytes.len();
        return Answered {
            bytes,
            head,
            pieces: Vec::new(),
            complete,
        };
    }
    let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let head = bytes.len();
    let mut pieces = Vec::new();
    let mut add = |event: &str| {
        bytes.extend_from_slice(format!("{:x}\r\n{event}", event.len()).as_bytes());
        let end = bytes.len();
        bytes.extend_from_slice(b"\r\n");
        end
    };
    for text in ["a", "b"] {
        pieces.push(add(&format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
        )));
    }
    // Without the line feeds: `[DONE]` is known by its own bytes, even if the connection ends right behind them.
    let complete = add("data: [DONE]\n\n") - 2;
    bytes.extend_from_slice(b"0\r\n\r\n");
    Answered {
        bytes,
        head,
        pieces,
        complete,
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_cut_at_any_byte_is_an_error_told_at_once() {
    let transport = transport(TransportSettings::default());
    for kind in KINDS {
        let whole = answered(kind);
        for cut in 0..whole.complete {
            for ending in [Ending::Close, Ending::Reset] {
                let what = format!("{kind:?} cut at {cut} of {} by {ending:?}", whole.bytes.len());
                let reply = Reply::Then(whole.bytes[..cut].to_vec(), ending);
                let server = Server::start([reply]).await;
                let call = call_of(&server.base_url, limited(TimeoutKind::Try), &transport);
                let ((pieces, end), elapsed) = timed(finish(call, kind)).await;
                assert_broken(&end, elapsed, &what);
                let came = whole.pieces.iter().filter(|piece| **piece <= cut).count();
                if ending == Ending::Close {
                    assert_eq!(pieces.len(), came, "{what}");
                } else {
                    assert!(
                        pieces.len() <= came,
                        "{what}: a reset may overtake pieces, not add any"
                    );
                }
            }
        }
        for cut in [whole.complete, whole.bytes.len()] {
            let reply = Reply::Then(whole.bytes[..cut].to_vec(), Ending::Close);
            let server = Server::start([reply]).await;
            let call = call_of(&server.base_url, limited(TimeoutKind::Try), &transport);
            let ((pieces, end), _) = timed(finish(call, kind)).await;
            end.unwrap();
            assert_eq!(pieces.len(), whole.pieces.len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_falls_silent_at_any_byte_is_given_up_in_time() {
    let transport = transport(TransportSettings::default());
    for kind in KINDS {
        let whole = answered(kind);
        for cut in 0..whole.complete {
            let server = Server::start([Reply::Then(whole.bytes[..cut].to_vec(), Ending::Silence)]).await;
            let in_head = cut < whole.head;
            let phase = if in_head {
                TimeoutKind::FirstByte
            } else {
                TimeoutKind::Idle
            };
            for limit in [TimeoutKind::Try, TimeoutKind::Deadline, phase] {
                let call = call_of(&server.base_url, limited(limit), &transport);
                let ((pieces, end), elapsed) = timed(finish(call, kind)).await;
                assert_timeout(&end, limit, elapsed, &format!("{kind:?} silent after {cut}"));
                let came = whole.pieces.iter().filter(|piece| **piece <= cut).count();
                assert_eq!(pieces.len(), came, "{kind:?} silent after {cut}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_drip_keep_no_call_alive_beyond_its_limit() {
    let transport = transport(TransportSettings::default());
    let pause = Duration::from_millis(50);
    for kind in KINDS {
        let whole = answered(kind);
        let (head, body) = whole.bytes.split_at(whole.head);
        let parts: Vec<Vec<u8>> = [head]
            .into_iter()
            .chain(body.chunks(2))
            .map(<[u8]>::to_vec)
            .collect();
        assert!(pause * parts.len() as u32 > 2 * LIMIT);
        for limit in [TimeoutKind::Try, TimeoutKind::Deadline] {
            let server = Server::start([Reply::Slowly(parts.clone(), pause)]).await;
            let call = call_of(&server.base_url, limited(limit), &transport);
            let ((_, end), elapsed) = timed(finish(call, kind)).await;
            assert_timeout(&end, limit, elapsed, &format!("{kind:?} {limit:?}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_gap_of_a_stream_has_its_time_and_the_deadline_holds_for_all_of_them() {
    let transport = transport(TransportSettings::default());
    let whole = answered(Kind::Stream);
    let ends = [0, whole.pieces[0], whole.pieces[1], whole.bytes.len()];
    let parts = || {
        let parts = ends.windows(2).map(|part| whole.bytes[part[0]..part[1]].to_vec());
        Reply::Slowly(parts.collect(), LIMIT * 9 / 10)
    };
    let server = Server::start([parts()]).await;
    let call = call_of(&server.base_url, limited(TimeoutKind::Try), &transport);
    let ((pieces, end), elapsed) = timed(finish(call, Kind::Stream)).await;
    end.unwrap();
    assert_eq!(pieces.len(), 2);
    assert!(elapsed > LIMIT);

    let server = Server::start([parts()]).await;
    let call = call_of(&server.base_url, limited(TimeoutKind::Deadline), &transport);
    let ((pieces, end), elapsed) = timed(finish(call, Kind::Stream)).await;
    assert_timeout(&end, TimeoutKind::Deadline, elapsed, "three gaps");
    assert_eq!(pieces.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_every_try_and_every_wait() {
    let transport = transport(TransportSettings::default());
    for kind in KINDS {
        let server = Server::start([Reply::Then(Vec::new(), Ending::Silence)]).await;
        let mut options = limited(TimeoutKind::Deadline);
        options.timeout = Some(LIMIT * 2 / 5);
        options.retry.max_retries = 9;
        options.retry.base = Duration::from_millis(1);
        let ((_, end), elapsed) = timed(finish(
            call_of(&server.base_url, options.clone(), &transport),
            kind,
        ))
        .await;
        assert_timeout(&end, TimeoutKind::Deadline, elapsed, "tries");
        assert_eq!(server.tries(), 3);

        let after = format!("retry-after-ms: {}\r\n", (LIMIT * 2 / 5).as_millis());
        let server = Server::start([answer("503 Busy", &after, "")]).await;
        let ((_, end), elapsed) = timed(finish(call_of(&server.base_url, options, &transport), kind)).await;
        assert!(matches!(end, Err(Error::Status(_))), "{end:?}");
        assert!(elapsed <= LIMIT + GRACE, "{elapsed:?}");
        assert_eq!(
            server.tries(),
            3,
            "the third wait would have outlasted the deadline"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_the_wait_before_the_call_and_the_wait_in_line() {
    let server = Server::start([Reply::Then(Vec::new(), Ending::Silence)]).await;
    let transport = transport(TransportSettings {
        max_connections: 1,
        ..Default::default()
    });
    for kind in KINDS {
        let mut delayed = call_of(&server.base_url, limited(TimeoutKind::Deadline), &transport);
        delayed.delay = 2 * LIMIT;
        let ((_, end), elapsed) = timed(finish(delayed, kind)).await;
        assert_timeout(&end, TimeoutKind::Deadline, elapsed, "the wait before the call");
    }
    assert_eq!(server.tries(), 0);

    let first = tokio::spawn(finish(
        call_of(&server.base_url, limited(TimeoutKind::Connect), &transport),
        Kind::Completion,
    ));
    while server.tries() == 0 {
        tokio::task::yield_now().await;
    }
    for kind in KINDS {
        let second = call_of(&server.base_url, limited(TimeoutKind::Deadline), &transport);
        let ((_, end), elapsed) = timed(finish(second, kind)).await;
        assert_timeout(&end, TimeoutKind::Deadline, elapsed, "the wait in line");
    }
    assert_eq!(server.tries(), 1);
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_the_reading_of_a_large_answer() {
    let transport = transport(TransportSettings::default());
    let server = Server::start([completion(&"x".repeat(300 * 1024))]).await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let call = call_of(&server.base_url, limited(TimeoutKind::Deadline), &transport);
    let reading = call.complete(move |_| {
        let _ = held.recv();
        Ok(serde_json::Value::Null)
    });
    let (end, elapsed) = timed(reading).await;
    drop(release);
    assert_timeout(&end.map(|_| ()), TimeoutKind::Deadline, elapsed, "reading");
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_and_a_probe_under_way_refuse_at_once() {
    let transport = transport(TransportSettings::default());
    let server = Server::start([
        answer("500 Oops", "", ""),
        Reply::Then(Vec::new(), Ending::Silence),
    ])
    .await;
    let health = SharedHealth::new(EndpointHealth::new("http://endpoint", 1, 3600.0), Arc::default());
    let call = || Call {
        health: Some(health.clone()),
        ..call_of(&server.base_url, limited(TimeoutKind::Deadline), &transport)
    };
    let _ = timed(finish(call(), Kind::Completion)).await;
    for kind in KINDS {
        let ((_, end), elapsed) = timed(finish(call(), kind)).await;
        assert!(matches!(end, Err(Error::CircuitOpen { .. })), "{end:?}");
        assert!(elapsed <= STEP);
    }
    health.lock().opened_at = Some(0);
    let probe = tokio::spawn(finish(call(), Kind::Completion));
    while server.tries() < 2 {
        tokio::task::yield_now().await;
    }
    let ((_, end), elapsed) = timed(finish(call(), Kind::Completion)).await;
    assert!(matches!(end, Err(Error::CircuitOpen { .. })), "{end:?}");
    assert!(elapsed <= STEP);
    let ((_, end), elapsed) = timed(async { probe.await.unwrap() }).await;
    assert_timeout(&end, TimeoutKind::Deadline, elapsed, "the probe itself");
    assert_eq!(server.tries(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_reached_is_over_though_the_answer_lies_ready() {
    let start = Instant::now();
    let limit = |length| Limit::after(start, Some(length), TimeoutKind::Idle);
    let longer = limit(Duration::from_secs(5));
    let over = within(&[None, longer, limit(Duration::ZERO)], std::future::ready(())).await;
    assert!(
        matches!(
            over,
            Err(Error::Timeout {
                limit: Duration::ZERO,
                ..
            })
        ),
        "{over:?}"
    );
    within(&[longer, None], std::future::ready(())).await.unwrap();
    let silent = within(
        &[longer, limit(Duration::from_secs(9))],
        std::future::pending::<()>(),
    )
    .await;
    assert!(
        matches!(
            silent,
            Err(Error::Timeout {
                kind: TimeoutKind::Idle,
                ..
            })
        ),
        "{silent:?}"
    );
    assert_eq!(start.elapsed(), Duration::from_secs(5), "the earliest counts");
    assert!(Limit::after(start, Some(Duration::MAX), TimeoutKind::Try).is_none());
}
