//! JSON beyond the standard.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::llm::json::parse;

fn read(text: &str) -> Option<Value> {
    parse(text.as_bytes()).ok()
}

#[test]
fn what_other_parsers_read_is_read() {
    for (text, expected) in [
        (
            r#"{"a": NaN, "b": [Infinity, -Infinity]}"#,
            json!({"a": null, "b": [null, null]}),
        ),
        (r#"["fine \ud83d"]"#, json!(["fine \u{fffd}"])),
        (r#"["\ude00b"]"#, json!(["\u{fffd}b"])),
        (r#"["\ud83d\ude00\ud83d"]"#, json!(["\u{1f600}\u{fffd}"])),
        (r#"["\ud83d\ud83d\ude00"]"#, json!(["\u{fffd}\u{1f600}"])),
        (r#"["\ud83d\\ude00"]"#, json!(["\u{fffd}\\ude00"])),
        (r#"["NaN, \" NaN", NaN]"#, json!(["NaN, \" NaN", null])),
        (r#"["\\", NaN]"#, json!(["\\", null])),
        ("[1e999, -1e999, 1e308]", json!([null, null, 1e308])),
        ("\u{feff}{\"a\": 1}", json!({"a": 1})),
    ] {
        assert_eq!(read(text), Some(expected), "{text}");
    }
    assert_eq!(read(&format!("[{}]", "9".repeat(400))), Some(json!([null])));
}

#[test]
fn what_is_no_json_stays_none() {
    for text in [
        "",
        "NaN NaN",
        "[nan]",
        "[inf]",
        "[+1e999]",
        "[01e999]x",
        "[-]",
        "[--1e999]",
        "{NaN: 1}",
        r#"["\ud83"]"#,
        r#"["\uzzzz"]"#,
        r#"["\ud83d"#,
        r#"["\x"]"#,
        "[\"a\nb\", NaN]",
        "[\u{feff}NaN]",
        "[\"\\u12é4\"]",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
    assert!(parse(b"[\"\xff\", NaN]").is_err());
}

/// A text that is JSON to most parsers, and what it means.
fn written() -> impl Strategy<Value = (String, Value)> {
    let string = prop::collection::vec(
        prop_oneof![
            3 => "[a-zé\u{1f600}]{1,3}".prop_map(|text| (text.clone(), text)),
            1 => Just((r"\ud83d\ude00".to_owned(), "\u{1f600}".to_owned())),
            1 => Just((r"\uD83D ".to_owned(), "\u{fffd} ".to_owned())),
            1 => Just((r" \udE00".to_owned(), " \u{fffd}".to_owned())),
            1 => Just((r"\\".to_owned(), "\\".to_owned())),
            1 => Just((r#"\""#.to_owned(), "\"".to_owned())),
            1 => Just((r"\u0041\n".to_owned(), "A\n".to_owned())),
            1 => Just(("NaN, 1e999".to_owned(), "NaN, 1e999".to_owned())),
        ],
        0..5,
    )
    .prop_map(|parts| {
        let (texts, meanings): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        (format!("\"{}\"", texts.concat()), meanings.concat())
    });
    let name = string.clone();
    let plain = prop_oneof![
        string.prop_map(|(text, meaning)| (text, Value::from(meaning))),
        any::<i64>().prop_map(|number| (number.to_string(), Value::from(number))),
        any::<f64>().prop_map(|number| (format!("{number:e}"), Value::from(number))),
        prop::sample::select(vec!["null", "NaN", "Infinity", "-Infinity", "1e999", "-10e308"])
            .prop_map(|text| (text.to_owned(), Value::Null)),
        any::<bool>().prop_map(|flag| (flag.to_string(), Value::from(flag))),
    ];
    plain.prop_recursive(4, 24, 4, move |inner| {
        let space = prop_oneof![3 => Just(""), 1 => Just(" "), 1 => Just("\n\t")];
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..4), space.clone()).prop_map(|(items, space)| {
                let (texts, values): (Vec<_>, Vec<_>) = items.into_iter().unzip();
                (
                    format!("[{space}{}]", texts.join(&format!("{space},{space}"))),
                    values.into(),
                )
            }),
            (prop::collection::vec((name.clone(), inner), 0..4), space).prop_map(|(members, space)| {
                let texts: Vec<_> = members
                    .iter()
                    .map(|((name, _), (text, _))| format!("{name}{space}:{space}{text}"))
                    .collect();
                let object = members
                    .into_iter()
                    .map(|((_, name), (_, value))| (name, value))
                    .collect();
                (format!("{{{}}}", texts.join(",")), Value::Object(object))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_means_what_was_written((text, meaning) in written(), mark: bool) {
        let text = if mark { format!("\u{feff}{text}") } else { text };
        prop_assert_eq!(read(&text), Some(meaning), "{}", text);
    }

    #[test]
    fn what_the_standard_allows_means_the_same_and_nothing_makes_it_panic(
        text in "[\\[\\]{}\":,a-fN0-9e.+\\\\ud-]{0,30}",
        bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            prop_assert_eq!(read(&text), Some(value));
        }
        let _ = (read(&text), parse(&bytes), parse(&[b"[\"\\ud83d", &bytes[..]].concat()));
    }
}
