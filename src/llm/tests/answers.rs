use proptest::prelude::*;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::llm::{Answer, Completion, Error, Usage};

fn read(body: &[u8]) -> Result<Completion, Error> {
    Answer {
        status: StatusCode::OK,
        body: body.to_vec().into(),
    }
    .completion("asked", false)
}

fn read_json(body: &Value) -> Result<Completion, Error> {
    read(body.to_string().as_bytes())
}

#[test]
fn a_completion_is_read() {
    let completion = read_json(&json!({
        "model": "m",
        "choices": [{"message": {"content": "text", "tool_calls": [{"id": "1"}]}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }))
    .unwrap();
    assert_eq!(
        (completion.content.as_deref(), completion.model.as_str()),
        (Some("text"), "m")
    );
    assert_eq!(
        completion.usage,
        Usage {
            prompt_tokens: 1,
            completion_tokens: 2,
            total_tokens: 3
        }
    );
    assert_eq!(completion.tool_calls, Some(json!([{"id": "1"}])));
}

#[test]
fn what_may_be_missing_has_a_value() {
    for body in [
        json!({"choices": [{"message": {"content": null}}]}),
        json!({"choices": [{"message": {}}], "usage": null, "model": null}),
        json!({"choices": [{"message": {"content": null, "tool_calls": null}}], "usage": {"total_tokens": "x"}}),
    ] {
        let completion = read_json(&body).unwrap();
        assert_eq!((completion.content, completion.model.as_str()), (None, "asked"));
        assert_eq!(
            (completion.usage, completion.tool_calls),
            (Usage::default(), None)
        );
    }
}

#[test]
fn what_may_not_be_missing_is_an_error_that_says_what() {
    let cases = [
        (&b""[..], "not JSON"),
        (b"{", "not JSON"),
        (b"<html>Bad gateway</html>", "HTML"),
        (b"\xff\xfe", "not JSON"),
        (
            b"{\"choices\": [{\"message\": {\"content\": \"\xff\"}}]}",
            "not JSON",
        ),
        (
            b"{\"choices\": [{\"message\": {\"content\": \"a\"}}], \"id\": \"\xff\"}",
            "not JSON",
        ),
        (b"[]", "not a JSON object"),
        (b"{}", "no choices"),
        (b"{\"error\": {\"message\": \"overloaded\"}}", "overloaded"),
        (b"{\"choices\": {}}", "no choices"),
        (b"{\"choices\": []}", "choices is empty"),
        (b"{\"choices\": [{}]}", "no message"),
        (b"{\"choices\": [{\"message\": \"x\"}]}", "no message"),
        (
            b"{\"choices\": [{\"message\": {\"content\": 5}}]}",
            "not a string",
        ),
    ];
    for (body, expected) in cases {
        let Err(error @ Error::InvalidResponse { .. }) = read(body) else {
            panic!("{expected}: no error")
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
}

proptest! {
    #[test]
    fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), json in "[\\[\\]{}\":,a-z0-9\\\\u]{0,80}") {
        let _ = read(&body);
        let _ = read(json.as_bytes());
    }
}
