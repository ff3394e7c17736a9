use std::sync::Arc;
use std::time::Duration;

use super::server::{Reply, Server, answer, completion, impatient};
use crate::figures::CallCounter;
use crate::llm::error::TimeoutKind;
use crate::llm::{
    Call, CallOptions, CircuitState, Completion, EndpointHealth, Error, IdempotencyKey, SharedHealth, Timed,
};

async fn complete(call: Call) -> Result<Timed<Completion>, Error> {
    call.complete(|mut answer| answer.completion("asked", false))
        .await
}

#[tokio::test]
async fn a_call_brings_its_answer() {
    let server = Server::start([completion("hello")]).await;
    let timed = complete(server.call(impatient())).await.unwrap();
    assert_eq!(timed.value.content.as_deref(), Some("hello"));
    let request = server.requests.lock().unwrap()[0].clone();
    assert!(
        request.starts_with("POST /v1/chat/completions HTTP/1.1"),
        "{request}"
    );
    assert!(request.contains("authorization: Bearer secret-key"), "{request}");
}

#[tokio::test]
async fn failures_are_retried_until_one_succeeds() {
    let script = [
        answer("500 Oops", "", ""),
        Reply::Nothing,
        completion("third time"),
    ];
    let server = Server::start(script).await;
    let call = server.call(impatient());
    let metrics = call.metrics.clone();
    assert_eq!(
        complete(call).await.unwrap().value.content.as_deref(),
        Some("third time")
    );
    assert_eq!(
        (server.tries(), metrics.counters.get(CallCounter::Retries)),
        (3, 2)
    );
}

#[tokio::test]
async fn the_last_failure_is_told_when_the_retries_are_used_up() {
    let server = Server::start([answer("503 Busy", "", r#"{"error": {"message": "later"}}"#)]).await;
    let Err(Error::Status(error)) = complete(server.call(impatient())).await else {
        panic!("no status error")
    };
    assert_eq!(
        (error.status, error.message.as_str()),
        (503, "Error code: 503 - later")
    );
    assert_eq!(server.tries(), 3);
}

#[tokio::test]
async fn a_body_that_is_cut_short_counts_as_a_broken_connection() {
    let cut = Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"choices\"".to_vec());
    let server = Server::start([cut]).await;
    assert!(matches!(
        complete(server.call(impatient())).await,
        Err(Error::Connection { .. })
    ));
    assert_eq!(server.tries(), 3);
}

#[tokio::test]
async fn every_try_has_one_idempotency_key() {
    let server = Server::start([answer("500 Oops", "", ""), completion("")]).await;
    complete(server.call(impatient())).await.unwrap();
    let keys: Vec<String> = server
        .requests
        .lock()
        .unwrap()
        .iter()
        .filter_map(|request| {
            request
                .lines()
                .find(|line| line.starts_with("idempotency-key: "))
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);

    let server = Server::start([completion("")]).await;
    complete(server.call(CallOptions {
        idempotency_key: IdempotencyKey::Off,
        ..impatient()
    }))
    .await
    .unwrap();
    assert!(!server.requests.lock().unwrap()[0].contains("idempotency-key"));
}

#[tokio::test]
async fn each_limit_is_told_by_name() {
    let short = Some(Duration::from_millis(80));
    let silent = || Reply::Slowly(Vec::new(), Duration::ZERO);
    let head = || {
        Reply::Slowly(
            vec![b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec()],
            Duration::ZERO,
        )
    };
    let mut options = impatient();
    options.retry.max_retries = 0;
    let cases = [
        (
            silent(),
            CallOptions {
                timeout: short,
                ..options.clone()
            },
            TimeoutKind::Try,
        ),
        (
            silent(),
            CallOptions {
                deadline: short,
                ..options.clone()
            },
            TimeoutKind::Deadline,
        ),
        (
            silent(),
            CallOptions {
                first_byte_timeout: short,
                ..options.clone()
            },
            TimeoutKind::FirstByte,
        ),
        (
            head(),
            CallOptions {
                timeout: short,
                ..options.clone()
            },
            TimeoutKind::Try,
        ),
        (
            head(),
            CallOptions {
                deadline: short,
                ..options.clone()
            },
            TimeoutKind::Deadline,
        ),
        (
            head(),
            CallOptions {
                idle_timeout: short,
                ..options.clone()
            },
            TimeoutKind::Idle,
        ),
    ];
    for (reply, options, expected) in cases {
        let server = Server::start([reply]).await;
        let Err(Error::Timeout { kind, .. }) = complete(server.call(options)).await else {
            panic!("no timeout: {expected:?}")
        };
        assert_eq!(kind, expected);
    }
}

#[tokio::test]
async fn a_wait_that_outlasts_the_deadline_is_not_made() {
    let server = Server::start([answer("500 Oops", "retry-after: 60\r\n", "")]).await;
    let options = CallOptions {
        deadline: Some(Duration::from_secs(30)),
        ..impatient()
    };
    let started = std::time::Instant::now();
    assert!(matches!(
        complete(server.call(options)).await,
        Err(Error::Status(_))
    ));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn no_wait_is_too_long_for_the_clock() {
    let longest = Duration::from_secs(u64::MAX);
    for (headers, max_retry_after) in [
        ("", Duration::ZERO),
        ("retry-after: 18446744073709551615\r\n", longest),
    ] {
        let server = Server::start([answer("503 Busy", headers, "")]).await;
        let mut options = CallOptions {
            deadline: Some(Duration::from_secs(60)),
            ..impatient()
        };
        options.retry.base = longest;
        options.retry.cap = longest;
        options.retry.max_retry_after = max_retry_after;
        let end = complete(server.call(options)).await;
        assert!(matches!(end, Err(Error::Status(_))), "{end:?}");
        assert_eq!(server.tries(), 1);
    }
}

#[tokio::test]
async fn waiting_for_a_connection_counts_against_the_deadline() {
    let server = Server::start([Reply::Slowly(Vec::new(), Duration::ZERO)]).await;
    let settings = crate::llm::TransportSettings {
        max_connections: 1,
        ..Default::default()
    };
    let transport = std::sync::Arc::new(crate::llm::transport::Transport::new(settings).unwrap());
    let mut first = server.call(impatient());
    first.transport = transport.clone();
    let under_way = tokio::spawn(complete(first));
    while transport.requests_under_way() == 0 {
        tokio::task::yield_now().await;
    }
    let deadline = Some(Duration::from_millis(50));
    let mut second = server.call(CallOptions {
        deadline,
        ..impatient()
    });
    second.transport = transport.clone();
    let error = complete(second).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                kind: TimeoutKind::Deadline,
                ..
            }
        ),
        "{error}"
    );
    under_way.abort();
    let _ = under_way.await;
    assert_eq!(transport.requests_under_way(), 0);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_after_the_threshold() {
    let health = SharedHealth::new(EndpointHealth::new("http://endpoint", 3, 60.0), Arc::default());
    let server = Server::start([answer("500 Oops", "", "")]).await;
    let mut options = impatient();
    options.retry.max_retries = 1;
    for _ in 0..3 {
        let call = server.call_with(options.clone(), Some(health.clone()));
        assert!(matches!(complete(call).await, Err(Error::Status(_))));
    }
    assert_eq!(server.tries(), 6, "a breaker counts calls, not tries");
    let refused = complete(server.call_with(options, Some(health.clone()))).await;
    assert!(matches!(refused, Err(Error::CircuitOpen { .. })));
    assert_eq!(server.tries(), 6);
    assert_eq!(health.lock().state(), CircuitState::Open);
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed() {
    let other = Server::start([completion("stolen")]).await;
    let location = format!(
        "location: {}/elsewhere\r\n",
        other.base_url.replace("127.0.0.1", "localhost")
    );
    let server = Server::start([answer("307 Elsewhere", &location, "")]).await;
    let Err(Error::Status(error)) = complete(server.call(impatient())).await else {
        panic!("followed")
    };
    assert_eq!(error.status, 307);
    assert_eq!((server.tries(), other.tries()), (1, 0));
}

#[tokio::test]
async fn the_key_is_in_no_debug_text() {
    let server = Server::start([Reply::Nothing]).await;
    let call = server.call(impatient());
    let text = format!(
        "{:?} {:?}",
        call.request.headers,
        crate::llm::Endpoint::new("http://h", "secret-key")
    );
    assert!(!text.contains("secret-key"), "{text}");
}
