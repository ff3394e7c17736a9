//! No body of an answer, of whatever status, makes its reader panic.
#![no_main]

use arbitrageai_native::llm::{Answer, status_error};
use libfuzzer_sys::fuzz_target;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;

fuzz_target!(|input: (u16, &[u8])| {
    let (status, body) = input;
    let Ok(status) = StatusCode::from_u16(status % 1000) else { return };
    let answer = Answer { status, body: body.to_vec().into() };
    let plain = answer.completion("asked", false);
    let raw = answer.completion("asked", true);
    assert_eq!(plain.is_ok(), raw.is_ok());
    let _ = answer.json();
    let _ = status_error(status, HeaderMap::new(), body).to_string();
});
