//! From bytes to chunks.

use proptest::prelude::*;
use serde_json::json;

use super::server::{finish, piece, texts};
use crate::llm::Received;
use crate::llm::chunks::{ChunkReader, MOST_CHOICES, Summary};
use crate::llm::{Batch, Error, Shape};

/// Feeds a first piece and then `events` to a reader, and returns the reader's result.
fn read_after_a_piece(events: &str, shape: Shape) -> Result<(), Error> {
    let mut reader = ChunkReader::new(200, 1 << 20, Received::default());
    let mut batch = Batch::new(shape);
    let bytes = format!("{}{events}", piece("a"));
    let end = reader
        .feed(bytes.as_bytes(), &mut batch)
        .and_then(|()| reader.end(None));
    assert_eq!(texts(batch), ["a"]);
    end
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

#[test]
fn what_is_cut_in_the_middle_of_an_event_was_cut_though_its_choice_has_finished() {
    for rest in [
        "data: {",
        "data: {}\n",
        "event: err",
        "event: error\n",
        "x",
        "id: 5\ndata",
    ] {
        for shape in [Shape::Texts, Shape::Chunks] {
            let end = read_after_a_piece(&format!("{}{rest}", finish()), shape);
            let Err(error @ Error::Connection { .. }) = end else {
                panic!("{rest:?}: {end:?}")
            };
            assert!(error.to_string().contains("in the middle of an event"), "{error}");
        }
    }
}

#[test]
fn a_stream_that_ends_in_its_first_event_was_cut_and_anything_else_was_no_stream() {
    let end = |bytes: &[u8]| {
        let mut reader = ChunkReader::new(200, 1 << 20, Received::default());
        reader.feed(bytes, &mut Batch::new(Shape::Texts)).unwrap();
        reader.end(None)
    };
    for cut in [
        "",
        "\n",
        "d",
        "data",
        "data:",
        "data: {\"choices\"",
        "\u{feff}data: {",
        "event: err",
        "id",
        "retry: 5\n",
        ": keep-alive\n\n",
        ": keep-alive\n\ndat",
    ] {
        let end = end(cut.as_bytes());
        assert!(matches!(end, Err(Error::Connection { .. })), "{cut:?}: {end:?}");
    }
    for other in [
        "{\"error\": \"no\"}",
        "<html>",
        "\n\nno such model",
        "date: 5",
        "error",
    ] {
        let end = end(other.as_bytes());
        assert!(
            matches!(end, Err(Error::InvalidResponse { .. })),
            "{other:?}: {end:?}"
        );
    }
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
    let mut reader = ChunkReader::new(200, 1 << 20, Received::default());
    let mut batch = Batch::new(Shape::Texts);
    reader.feed(event(&parts).as_bytes(), &mut batch).unwrap();
    assert_eq!(texts(batch), ["bc"]);
    for content in [
        json!({"text": "b"}),
        json!(["b"]),
        json!([{"type": "text", "text": "b"}, 5]),
    ] {
        let mut batch = Batch::new(Shape::Texts);
        let mut reader = ChunkReader::new(200, 1 << 20, Received::default());
        reader.feed(event(&content).as_bytes(), &mut batch).unwrap();
        assert_eq!(texts(batch), ["b"], "{content}");
    }
    for content in [json!(5), json!(true)] {
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
    let mut reader = ChunkReader::new(200, 100, Received::default());
    let mut batch = Batch::new(Shape::Chunks);
    let bytes = format!("{}data: [DONE]\n\n{}", piece("a"), "x".repeat(200));
    reader.feed(bytes.as_bytes(), &mut batch).unwrap();
    assert_eq!((texts(batch).len(), reader.is_done()), (1, true));
    reader.end(None).unwrap();
}

/// What a reader of either shape makes of one event: the text, what is known after it, and whether it was the end.
fn read_event(event: &str, shape: Shape) -> (Vec<String>, Summary, bool) {
    let mut reader = ChunkReader::new(200, 1 << 20, Received::default());
    let mut batch = Batch::new(shape);
    reader
        .feed(format!("data: {event}\n\n").as_bytes(), &mut batch)
        .unwrap();
    let complete = reader.end(None).is_ok();
    (texts(batch), Summary::clone(reader.summary()), complete)
}

#[test]
fn a_choice_without_a_number_is_the_first() {
    for shape in [Shape::Texts, Shape::Chunks] {
        for model in ["m", "\"m\""] {
            let event =
                json!({"model": model, "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]});
            let (texts, summary, complete) = read_event(&event.to_string(), shape);
            assert_eq!((texts, complete), (vec!["a".to_owned()], true));
            assert_eq!(summary.finish_reason.as_deref(), Some("stop"));
        }
    }
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
            let mut reader = ChunkReader::new(200, 1 << 20, Received::default());
            let mut batch = Batch::new(shape);
            reader.feed(&bytes[..cut], &mut batch).unwrap();
            reader.feed(&bytes[cut..], &mut batch).unwrap();
            let expected: Vec<&str> = contents.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
            prop_assert_eq!(texts(batch), expected);
            prop_assert_eq!(reader.end(None).is_ok(), done);
        }
    }
}

/// Events as servers send them, with some of everything that may be wrong with them.
fn event_stream() -> impl Strategy<Value = Vec<u8>> {
    let event = prop_oneof![
        4 => "[a-zé]{0,6}".prop_map(|content| piece(&content)),
        1 => Just(finish()),
        1 => Just("data: [DONE]\n\n".to_owned()),
        1 => (0_u64..700).prop_map(|index| format!("data: {}\n\n", json!({"choices": [{"index": index}]}))),
        1 => prop_oneof![
            Just("data: {\"error\": {\"message\": \"overloaded\"}}\r\n\r\n"),
            Just("event: error\n\n"),
            Just("data: {\"choices\": [{\"delta\": {\"content\": 5}}]}\r\r"),
            Just("data: [5]\n\n"),
            Just(": ping\n\n"),
            Just("{\"error\": \"no stream\"}"),
        ].prop_map(str::to_owned),
    ];
    let junk = prop::collection::vec(any::<u8>(), 0..4);
    prop::collection::vec((event, prop_oneof![9 => Just(Vec::new()), 1 => junk]), 0..8).prop_map(|events| {
        events
            .into_iter()
            .flat_map(|(event, junk)| [event.into_bytes(), junk].concat())
            .collect()
    })
}

/// All that a reader makes of these parts: the texts, what is known besides them, and how it ended.
fn read_parts<'part>(
    parts: impl IntoIterator<Item = &'part [u8]>,
    shape: Shape,
) -> (Batch, Summary, Result<(), String>) {
    let mut reader = ChunkReader::new(200, 300, Received::default());
    let mut batch = Batch::new(shape);
    let mut fed = Ok(());
    for part in parts {
        fed = reader.feed(part, &mut batch);
        if fed.is_err() || reader.is_done() {
            break;
        }
    }
    let end = fed
        .and_then(|()| reader.end(None))
        .map_err(|error| error.to_string());
    (batch, Summary::clone(reader.summary()), end)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_a_reader_finds_does_not_depend_on_how_any_bytes_are_cut(
        bytes in event_stream(),
        lengths in prop::collection::vec(1_usize..40, 1..6),
        whole: bool,
    ) {
        let shape = if whole { Shape::Chunks } else { Shape::Texts };
        let expected = read_parts([&bytes[..]], shape);
        prop_assert_eq!(&read_parts(bytes.chunks(1), shape), &expected);
        let mut rest = &bytes[..];
        let parts: Vec<&[u8]> = lengths.iter().cycle().map_while(|length| {
            let (part, behind) = rest.split_at((*length).min(rest.len()));
            rest = behind;
            (!part.is_empty()).then_some(part)
        }).collect();
        prop_assert_eq!(&read_parts(parts, shape), &expected);
    }
}
