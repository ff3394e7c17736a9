use proptest::prelude::*;

use crate::llm::sse::{Decoder, Event, TooLong};

fn decode(parts: &[&[u8]]) -> Vec<Event> {
    let mut decoder = Decoder::new(1 << 20);
    let mut events = Vec::new();
    for part in parts {
        decoder.feed(part, &mut events).unwrap();
    }
    events
}

fn data(stream: &str) -> Vec<String> {
    decode(&[stream.as_bytes()])
        .into_iter()
        .map(|event| event.data)
        .collect()
}

#[test]
fn an_empty_line_ends_an_event_and_nothing_else_does() {
    assert_eq!(data("data: a\n\ndata: b"), ["a"]);
    assert_eq!(data("data: a\n\ndata: b\n"), ["a"]);
}

#[test]
fn every_kind_of_line_end_counts() {
    assert_eq!(data("data: a\r\rdata: b\r\n\r\ndata: c\n\n"), ["a", "b", "c"]);
    assert_eq!(data("data: a\r\n\ndata: b\n\r\n"), ["a", "b"]);
}

#[test]
fn data_lines_are_joined_and_one_space_is_dropped() {
    assert_eq!(data("data: a\ndata:  b\ndata:c\ndata\n\n"), ["a\n b\nc\n"]);
}

#[test]
fn an_event_without_data_is_none_and_an_empty_data_line_is_one() {
    assert_eq!(
        data("event: ping\n\n: comment\n\nretry: 5\n\nid: 7\n\n"),
        Vec::<String>::new()
    );
    assert_eq!(data("data\n\n"), [""]);
}

#[test]
fn an_error_without_data_is_an_event() {
    for stream in ["event: error\n\n", "event: ERROR\n: comment\n\n"] {
        let events = decode(&[stream.as_bytes()]);
        assert!(
            matches!(&events[..], [event] if event.is_error && event.data.is_empty()),
            "{events:?}"
        );
    }
}

#[test]
fn the_name_of_an_event_ends_with_it() {
    let events = decode(&[b"event: error\nid: 1\ndata: a\n\ndata: b\n\nevent: e\ndata: c\n\n"]);
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.data.as_str(), event.is_error))
        .collect();
    assert_eq!(seen, [("a", true), ("b", false), ("c", false)]);
}

#[test]
fn only_a_byte_order_mark_at_the_beginning_is_dropped() {
    assert_eq!(data("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"]);
}

#[test]
fn invalid_utf8_is_replaced() {
    assert_eq!(decode(&[b"data: \xff\n\n"])[0].data, "\u{fffd}");
}

#[test]
fn an_event_may_not_be_longer_than_allowed() {
    let mut decoder = Decoder::new(10);
    let mut events = Vec::new();
    assert_eq!(
        decoder.feed(b"data: abcdefgh", &mut events),
        Err(TooLong { limit: 10 })
    );
    let mut decoder = Decoder::new(10);
    decoder
        .feed(b"data: abcd\r\n\r\ndata: efgh\n", &mut events)
        .unwrap();
    assert_eq!(events.len(), 1, "so long it may be");
    let mut decoder = Decoder::new(10);
    let endless = decoder.feed(b"data: abc\ndata: def\ndata: ghi\n", &mut events);
    assert_eq!(endless, Err(TooLong { limit: 10 }));
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let line_end = prop_oneof![Just("\n"), Just("\r"), Just("\r\n")];
    let line = prop_oneof![
        4 => "data: ?[a-z{}:\" é\u{feff}]{0,12}",
        1 => "(event|id|retry|:|x)(: ?[a-z0]{0,4})?",
        3 => Just(String::new()),
    ];
    let lines = prop::collection::vec((line, line_end), 0..14);
    (any::<bool>(), lines, prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(mark, lines, junk)| {
        let mut bytes = if mark {
            b"\xEF\xBB\xBF".to_vec()
        } else {
            Vec::new()
        };
        for (line, end) in lines {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(end.as_bytes());
        }
        bytes.extend_from_slice(&junk);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn how_the_bytes_are_cut_makes_no_difference(stream in stream(), third in any::<prop::sample::Index>()) {
        let whole = decode(&[&stream]);
        for cut in 0..=stream.len() {
            let (head, tail) = stream.split_at(cut);
            prop_assert_eq!(&decode(&[head, tail]), &whole, "cut at {}", cut);
            let (middle, tail) = tail.split_at(third.index(tail.len() + 1));
            prop_assert_eq!(&decode(&[head, middle, tail]), &whole);
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&decode(&bytes), &whole);
    }
}
