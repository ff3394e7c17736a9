//! No body of an answer, of whatever status, and no header of it makes its reader panic, and both ways of reading agree.
//!
//! An input is a status (two bytes), a line that stands in the headers, and the body.
#![no_main]

use std::time::SystemTime;

use arbitrageai_native::fuzzing::{Answer, Error, Received, RetryPolicy};
use libfuzzer_sys::fuzz_target;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue};

/// Those that are read, and what each may hold; here all of them hold the same.
const HEADERS: [&str; 4] = ["retry-after", "retry-after-ms", "x-should-retry", "x-request-id"];

fuzz_target!(|input: &[u8]| {
    let Some((status, rest)) = input.split_first_chunk() else { return };
    let Ok(status) = StatusCode::from_u16(u16::from_le_bytes(*status) % 1000) else { return };
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (line, body) = (&rest[..end], &rest[(end + 1).min(rest.len())..]);
    read_answer(status, body);
    read_error(status, line, body);
});

fn read_answer(status: StatusCode, body: &[u8]) {
    let mut answer = Answer { status, received: Received::default(), body: body.to_vec().into() };
    let plain = answer.completion("asked", false);
    let raw = answer.completion("asked", true);
    match (plain, raw) {
        (Ok(plain), Ok(raw)) => {
            assert_eq!(plain.content, raw.content);
            assert_eq!(plain.model, raw.model);
            assert_eq!(plain.usage, raw.usage);
            assert_eq!(plain.tool_calls, raw.tool_calls);
            assert_eq!(plain.finish_reason, raw.finish_reason);
            assert_eq!(plain.reasoning, raw.reasoning);
        }
        // What callers don't see is looked at only if they want to see all of it: numbers beyond any float, endless nesting.
        (Ok(_), Err(_)) => assert!(std::str::from_utf8(body).is_ok()),
        (Err(error), Ok(_)) => panic!("{error}: an answer that can be read with `raw` can't without"),
        (Err(plain), Err(raw)) => assert_eq!(plain.to_string(), raw.to_string()),
    }
}

fn read_error(status: StatusCode, line: &[u8], body: &[u8]) {
    let mut headers = HeaderMap::new();
    for name in HEADERS {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let policy = RetryPolicy::default();
    let hint = policy.hint(status, &headers, SystemTime::now());
    for chance in [0.0, 1.0] {
        assert!(policy.wait(1, hint.retry_after, chance) <= policy.max_retry_after);
    }
    let error = Error::from_status(status, headers, body);
    assert!(error.to_string().starts_with("Error code: "));
}
