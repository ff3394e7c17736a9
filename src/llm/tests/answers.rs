use proptest::prelude::*;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::llm::answer::Answer;
use crate::llm::error::LONGEST_ERROR_BODY;
use crate::llm::{Completion, Error, Received, StatusError, Usage};
use reqwest::header::HeaderMap;

fn answer(body: &[u8]) -> Answer {
    Answer {
        status: StatusCode::OK,
        received: Received::default(),
        body: body.to_vec().into(),
    }
}

fn read(body: &[u8]) -> Result<Completion, Error> {
    answer(body).completion("asked", false)
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
        (
            b"{\"error\": \"overloaded\"}",
            "no choices, but an error: overloaded",
        ),
        (
            b"{\"object\": \"error\", \"message\": \"overloaded\"}",
            "no choices, but an error: overloaded",
        ),
        (
            b"{\"detail\": \"overloaded\"}",
            "no choices, but an error: overloaded",
        ),
        (
            b"{\"choices\": [], \"message\": \"overloaded\"}",
            "choices is empty, but an error: overloaded",
        ),
        (b"{\"choices\": {}}", "no choices"),
        (b"{\"choices\": []}", "choices is empty"),
        (b"{\"choices\": [{}]}", "no message"),
        (b"{\"choices\": [{\"message\": \"x\"}]}", "no message"),
        (
            b"{\"choices\": [{\"message\": {\"content\": 5}}]}",
            "not a string",
        ),
        (
            b"{\"choices\": [{\"message\": {\"content\": \"\"}}], \"error\": {\"message\": \"overloaded\"}}",
            "an error, not an answer: overloaded",
        ),
        (
            b"{\"choices\": [{\"message\": {\"content\": \"\"}, \"error\": {\"message\": \"overloaded\"}}]}",
            "an error, not an answer: overloaded",
        ),
        (
            b"{\"choices\": [{\"message\": {\"content\": \"\"}, \"finish_reason\": \"error\"}]}",
            "a choice ended with an error",
        ),
        (
            b"{\"errors\": [{\"message\": \"overloaded\"}]}",
            "no choices, but an error: overloaded",
        ),
    ];
    for (body, expected) in cases {
        let Err(error @ Error::InvalidResponse { .. }) = read(body) else {
            panic!("{expected}: no error")
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn of_content_in_parts_the_text_is_read() {
    for (content, text) in [
        (
            json!([{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            "ab",
        ),
        (
            json!([{"text": "a"}, "b", {"type": "output_text", "text": "c"}, {"type": "text"}, 5]),
            "abc",
        ),
        (json!({"type": "text", "text": "a"}), "a"),
        (json!([]), ""),
    ] {
        let completion = read_json(&json!({"choices": [{"message": {"content": content}}]}));
        assert_eq!(completion.unwrap().content.as_deref(), Some(text), "{content}");
    }
}

#[test]
fn tokens_are_counted_in_whatever_form_they_are_sent() {
    for (usage, expected) in [
        (
            json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}),
            [3, 4, 7],
        ),
        (
            json!({"prompt_tokens": 3.0, "completion_tokens": "4", "total_tokens": "7.0"}),
            [3, 4, 7],
        ),
        (json!({"prompt_tokens": 3, "completion_tokens": 4}), [3, 4, 7]),
        (
            json!({"prompt_tokens": -3, "completion_tokens": null, "total_tokens": "many"}),
            [0, 0, 0],
        ),
        (json!([3, 4]), [0, 0, 0]),
    ] {
        let body = json!({"choices": [{"message": {"content": "a"}}], "usage": usage});
        let found = read_json(&body).unwrap().usage;
        let counts = [found.prompt_tokens, found.completion_tokens, found.total_tokens];
        assert_eq!(counts, expected, "{usage}");
    }
}

#[test]
fn all_that_the_answer_brought_is_read_by_both_ways() {
    let body = json!({
        "choices": [{
            "finish_reason": "length",
            "message": {"content": "a", "reasoning_content": "", "reasoning": "because"},
        }],
        "usage": {
            "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": null,
        },
    });
    for keep_raw in [false, true] {
        let completion = answer(body.to_string().as_bytes())
            .completion("asked", keep_raw)
            .unwrap();
        assert_eq!(completion.finish_reason.as_deref(), Some("length"));
        assert_eq!(completion.reasoning.as_deref(), Some("because"));
        let details = Value::from(completion.usage_details.unwrap());
        assert_eq!(details, json!({"prompt_tokens_details": {"cached_tokens": 2}}));
    }
    for reason in ["", "null", " None "] {
        let body = json!({"choices": [{"message": {"content": "a"}, "finish_reason": reason}]});
        assert_eq!(read_json(&body).unwrap().finish_reason, None);
    }
    let parts = json!([{"type": "thinking", "thinking": [{"type": "text", "text": "because"}]}]);
    let completion = read_json(&json!({"choices": [{"message": {"content": parts}}]})).unwrap();
    assert_eq!(completion.reasoning.as_deref(), Some("because"));
}

#[test]
fn lists_that_are_nested_very_deep_are_left_out() {
    let deep = format!("{}1{}", "[{\"a\":".repeat(400), "}]".repeat(400));
    let body = format!("{{\"x\": {deep}, \"choices\": [{{\"message\": {{\"content\": \"[[\"}}}}]}}");
    let completion = answer(body.as_bytes()).completion("asked", true).unwrap();
    assert_eq!(completion.content.as_deref(), Some("[["));
}

#[test]
fn an_error_that_says_nothing_beside_choices_is_none() {
    for error in [
        json!(null),
        json!(""),
        json!({}),
        json!({"code": null, "message": ""}),
    ] {
        let body = json!({"choices": [{"message": {"content": "a"}, "error": null}], "error": error});
        assert_eq!(read_json(&body).unwrap().content.as_deref(), Some("a"));
    }
}

#[test]
fn an_answer_that_is_only_an_error_is_no_object_for_the_client_either() {
    let object = |body: &Value| answer(body.to_string().as_bytes()).object();
    for body in [
        json!({"object": "error", "message": "overloaded"}),
        json!({"error": "overloaded"}),
        json!({"choices": [], "error": "overloaded"}),
        json!({"choices": [{"message": {}, "error": {"message": "overloaded"}}]}),
    ] {
        let error = object(&body).unwrap_err().to_string();
        assert!(
            error.contains("an error") && error.contains(": overloaded"),
            "{error}"
        );
    }
    for body in [
        json!({}),
        json!({"id": 5}),
        json!({"choices": [], "error": null}),
        json!({"choices": [], "error": {}}),
    ] {
        assert_eq!(object(&body).unwrap(), body);
    }
}

fn bad_request(body: &[u8]) -> StatusError {
    let Error::Status(error) = Error::from_status(StatusCode::BAD_REQUEST, HeaderMap::new(), body) else {
        panic!("the error is no status error")
    };
    *error
}

#[test]
fn the_servers_words_are_in_an_error_of_any_form() {
    for body in [
        json!({"error": {"message": "too long"}}),
        json!({"error": "too long"}),
        json!({"detail": "too long"}),
        json!({"message": "too long"}),
        json!([{"error": {"message": "too long"}}]),
        json!({"errors": [{"message": "too long"}]}),
        json!({"errors": ["too long"]}),
        json!({"error": {"error": {"message": "too long"}}}),
        json!({"error": "", "error_description": "too long"}),
        json!({"status": 400, "title": "too long"}),
        json!({"code": 1, "msg": "too long"}),
        json!({"message": ["too long", "too hot"]}),
    ] {
        let error = bad_request(body.to_string().as_bytes());
        assert_eq!(error.message, "Error code: 400 - too long");
    }
    assert_eq!(bad_request(b"[5]").message, "Error code: 400");
    assert_eq!(
        bad_request(b" upstream  timed out\n").message,
        "Error code: 400 - upstream timed out"
    );
    let page = b"<html><head><TITLE>Bad\ngateway</TITLE></head></html>";
    assert_eq!(bad_request(page).message, "Error code: 400 - Bad gateway");
    assert_eq!(
        bad_request("long ".repeat(100).as_bytes()).message,
        "Error code: 400"
    );
    let mut headers = HeaderMap::new();
    let unmoved = Error::from_status(StatusCode::NOT_MODIFIED, headers.clone(), b"");
    assert_eq!(unmoved.to_string(), "Error code: 304");
    headers.insert("location", "http://elsewhere.test/".parse().unwrap());
    let elsewhere = Error::from_status(StatusCode::FOUND, headers, b"");
    assert_eq!(
        elsewhere.to_string(),
        "Error code: 302 - a redirect is followed within the server only, ten times at most"
    );
}

#[test]
fn of_a_long_error_body_the_beginning_is_kept_as_text() {
    let padded = |length: usize| {
        let body = json!({"error": {"message": "too long"}}).to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    let most = bad_request(padded(LONGEST_ERROR_BODY).as_bytes());
    assert_eq!(most.body, json!({"message": "too long"}));
    let more = bad_request(padded(LONGEST_ERROR_BODY + 1).as_bytes());
    assert_eq!(
        (more.message.as_str(), more.body.is_string()),
        ("Error code: 400", true)
    );
    let nodes = format!("{{\"error\": [{}", "{},".repeat(LONGEST_ERROR_BODY));
    let Value::String(text) = bad_request(nodes.as_bytes()).body else {
        panic!("the long body was parsed")
    };
    assert_eq!(text.len(), LONGEST_ERROR_BODY);
}

/// JSON of any form, in which the names that mean something are likely.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        8 => prop::sample::select(vec![
            "error", "errors", "message", "detail", "choices", "object", "type", "finish_reason", "content",
            "model", "usage", "delta", "index", "total_tokens", "text", "tool_calls",
        ]).prop_map(str::to_owned),
        1 => "[a-z]{0,3}",
    ];
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof!["error", "text", "stop", " ", "\\PC{0,8}"].prop_map(Value::from),
    ];
    plain.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name.clone(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn an_error_has_its_status_and_the_servers_json_whatever_it_is(body in any_json(), status in 300_u16..600) {
        let code = StatusCode::from_u16(status).unwrap();
        let error = Error::from_status(code, HeaderMap::new(), body.to_string().as_bytes());
        let beginning = format!("Error code: {status}");
        prop_assert!(error.to_string().starts_with(&beginning));
        let Error::Status(error) = error else { panic!("no status error") };
        let expected = body.get("error").filter(|_| body.is_object()).unwrap_or(&body);
        prop_assert_eq!(&error.body, expected);
    }

    #[test]
    fn both_ways_of_reading_an_answer_find_the_same(body in any_json()) {
        let mut answer = answer(body.to_string().as_bytes());
        match (answer.completion("asked", false), answer.completion("asked", true)) {
            (Ok(plain), Ok(raw)) => {
                prop_assert_eq!(raw.raw, Some(body));
                prop_assert_eq!(
                    (plain.content, plain.model, plain.usage, plain.tool_calls),
                    (raw.content, raw.model, raw.usage, raw.tool_calls)
                );
            }
            (Err(plain), Err(raw)) => prop_assert_eq!(plain.to_string(), raw.to_string()),
            (plain, raw) => prop_assert!(false, "{:?} and {:?}", plain, raw),
        }
    }
}

proptest! {
    #[test]
    fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), json in "[\\[\\]{}\":,a-z0-9\\\\u]{0,80}") {
        let _ = read(&body);
        let _ = read(json.as_bytes());
    }
}
