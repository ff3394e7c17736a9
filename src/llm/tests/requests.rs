//! What is sent: the URL, the headers and the body, whatever a caller gives; and how an answer's
//! body is bounded.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use futures_util::stream;
use proptest::prelude::*;
use reqwest::header::HeaderMap;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::llm::body::Body;
use crate::llm::content_coding::Decoder;
use crate::llm::retry::RetryPolicy;
use crate::llm::{Endpoint, Error, Extras, Members, Outgoing};

const BASE: &str = "http://server.test:81/v1";

type Headers = Vec<(String, Option<String>)>;

/// Pairs of a header's name and value, in which names that mean something and repetitions are likely.
fn headers() -> impl Strategy<Value = Headers> {
    let name = prop_oneof![
        3 => prop::sample::select(vec![
            "Authorization", "authorization", "X-A", "x-a", "Content-Type", "User-Agent", "api-key",
            "Content-Length", "transfer-encoding",
        ]).prop_map(str::to_owned),
        1 => "[A-Za-z-]{1,4}",
        1 => "\\PC{0,3}",
    ];
    let value = prop_oneof![3 => "[ -~]{0,8}", 1 => "\\PC{0,4}", 1 => "[a\r\n\0\t]{0,3}"];
    prop::collection::vec((name, prop::option::weighted(0.8, value)), 0..5)
}

/// RFC 9110, section 5.6.2 and 5.5: what may stand in a name, and in a value.
fn may_be_sent(headers: &Headers) -> bool {
    let is_framing =
        |name: &str| ["content-length", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str());
    headers.iter().all(|(name, value)| {
        let is_token = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        let is_text = |value: &String| {
            value
                .bytes()
                .all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
        };
        is_token && !(value.is_some() && is_framing(name)) && value.as_ref().is_none_or(is_text)
    })
}

/// One value per name, in lower case.
fn sent(headers: &HeaderMap) -> BTreeMap<String, Vec<u8>> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

fn merge(base: &mut BTreeMap<String, Vec<u8>>, more: &Headers) {
    for (name, value) in more {
        match value {
            Some(value) => base.insert(name.to_ascii_lowercase(), value.clone().into_bytes()),
            None => base.remove(&name.to_ascii_lowercase()),
        };
    }
}

fn endpoint(base_url: &str) -> Result<Endpoint, Error> {
    Endpoint::new(base_url, "secret-key")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn extra_headers_replace_earlier_ones_and_what_no_header_may_hold_is_named(extra in headers()) {
        let endpoint = endpoint(BASE).unwrap();
        let plain = endpoint.request("", &Map::new(), &Extras::default()).unwrap();
        let mut expected = sent(&plain.headers);
        let bytes = |(name, value): (String, Option<String>)| (name, value.map(String::into_bytes));
        let added = extra.iter().cloned().map(bytes).collect();
        let extras = Extras { headers: added, query: Vec::new() };
        match endpoint.request("", &Map::new(), &extras) {
            Ok(request) => {
                prop_assert!(may_be_sent(&extra));
                merge(&mut expected, &extra);
                prop_assert_eq!(sent(&request.headers), expected);
                for value in request.headers.get_all("authorization") {
                    prop_assert!(value.is_sensitive());
                }
            }
            Err(error) => {
                prop_assert!(!may_be_sent(&extra));
                prop_assert!(error.to_string().starts_with("extra_headers["), "{}", error);
            }
        }
    }

    #[test]
    fn parameters_are_added_to_those_of_the_base_url(
        own in prop::collection::vec(("[a-z&=#?/ é%+]{0,5}", "\\PC{0,5}"), 0..3),
        more in prop::collection::vec(("[a-z&=#?/ é%+]{0,5}", "\\PC{0,5}"), 0..4),
        slashes in "/{0,3}",
    ) {
        let mut base = reqwest::Url::parse(&format!("http://server.test/openai/v1{slashes}")).unwrap();
        if !own.is_empty() {
            base.query_pairs_mut().extend_pairs(&own);
        }
        let extras = Extras { headers: Vec::new(), query: more.clone() };
        let request = endpoint(base.as_str()).unwrap().request("", &Map::new(), &extras).unwrap();
        prop_assert_eq!(request.url.path(), "/openai/v1/chat/completions");
        let found: Vec<(String, String)> = request.url.query_pairs().into_owned().collect();
        prop_assert_eq!(found, [own, more].concat());
    }

    #[test]
    fn a_base_url_is_an_http_url_with_a_host_or_it_is_refused_by_name_and_no_password_is_told(
        url in prop_oneof![
            "(http|https|ftp|HTTP|)(:|://|:///|:/)[a-z0-9.:@/?#\\[\\] %é-]{0,14}",
            "\\PC{0,12}",
            "https?://[a-z]{0,4}(:[a-z]{0,4})?@?[a-z]{0,3}(:[0-9]{0,6})?/v1",
        ],
    ) {
        let secret = url.replace('@', "s3cr3t@");
        match endpoint(&secret) {
            Ok(endpoint) => {
                let target = endpoint.request("", &Map::new(), &Extras::default()).unwrap().url;
                prop_assert!(matches!(target.scheme(), "http" | "https"));
                let host = target.host_str().unwrap_or_default().to_owned();
                prop_assert!(!host.is_empty());
                let authority = secret.trim().split(['/', '\\']).nth(2).unwrap_or_default();
                prop_assert!(!authority.is_empty(), "{:?} became {}", secret, target);
            }
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.starts_with("base_url: "), "{}", text);
                prop_assert!(!text.contains("s3cr3t"), "{}", text);
            }
        }
    }

    #[test]
    fn the_body_is_what_was_given(members in prop::collection::hash_map("\\PC{0,4}", json(), 0..5)) {
        let body: Map<String, Value> = members.into_iter().collect();
        let request = endpoint(BASE).unwrap().request("asked", &body, &Extras::default()).unwrap();
        let sent: Value = serde_json::from_slice(&request.body).unwrap();
        prop_assert_eq!(sent, Value::Object(body));
    }

    #[test]
    fn every_wait_lies_between_the_bounds_of_its_policy(
        base in 0.0..1e4,
        cap in 0.0..1e4,
        jitter in 0.0..=1.0,
        limit in 0.0..1e4,
        taken in prop_oneof![0_u32..20, any::<u32>()],
        asked in prop::option::of(prop_oneof![-10.0..1e4, Just(f64::NAN), Just(f64::INFINITY), Just(f64::MAX)]),
        chance in 0.0..=1.0,
    ) {
        let seconds = Duration::from_secs_f64;
        let policy = RetryPolicy {
            max_retries: 2,
            base: seconds(base),
            cap: seconds(cap),
            jitter,
            max_retry_after: seconds(limit),
        };
        let wait = policy.wait(taken, asked, chance).as_secs_f64();
        let longest = (base * 2_f64.powi(taken.min(1000) as i32)).min(cap);
        match asked.filter(|asked| *asked > 0.0 && *asked <= limit) {
            Some(asked) => prop_assert!((wait - asked).abs() < 1e-6, "{} instead of {}", wait, asked),
            None => prop_assert!(
                (longest * (1.0 - jitter) - 1e-6..=longest + 1e-6).contains(&wait),
                "{} of {}", wait, longest
            ),
        }
        let next = policy.wait(taken.saturating_add(1), None, 0.0);
        prop_assert!(next >= policy.wait(taken, None, 0.0), "a later wait is shorter");
    }

    #[test]
    fn of_a_body_no_more_is_read_than_the_part_that_goes_beyond_the_bound(
        lengths in prop::collection::vec(0_usize..20, 0..8),
        longest in 0_usize..60,
    ) {
        let mut parts = Vec::new();
        let mut whole = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            let part = vec![number as u8; *length];
            whole.extend_from_slice(&part);
            parts.push(Ok::<_, std::io::Error>(Bytes::from(part)));
        }
        let response = http::Response::new(reqwest::Body::wrap_stream(stream::iter(parts)));
        let turn = std::sync::Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut body = Body {
            response: response.into(),
            turn,
            deadline: None,
            idle_timeout: None,
            connect_timeout: Duration::ZERO,
            decoder: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let read = runtime.block_on(body.read_all(None, longest)).unwrap();
        prop_assert_eq!(&read[..], &whole[..read.len()]);
        if whole.len() <= longest {
            prop_assert_eq!(read.len(), whole.len());
        } else {
            let most = lengths.iter().max().unwrap();
            prop_assert!(read.len() > longest && read.len() <= longest + most);
        }
    }
}

#[test]
fn a_user_and_a_password_are_sent_as_such_and_not_in_the_url() {
    for (base, credentials) in [
        ("http://user:pass%40word@server.test/v1", "user:pass@word"),
        ("http://user@server.test/v1", "user:"),
        ("http://:word@server.test/v1", ":word"),
    ] {
        let request = endpoint(base).unwrap();
        let request = request.request("", &Map::new(), &Extras::default()).unwrap();
        let expected = format!("Basic {}", STANDARD.encode(credentials));
        assert_eq!(request.headers["authorization"], expected);
        assert!(request.headers["authorization"].is_sensitive());
        assert_eq!(request.url.as_str(), "http://server.test/v1/chat/completions");
    }
}

#[test]
fn an_integer_of_any_size_is_sent_as_its_digits() {
    let digits = "9".repeat(400);
    let big = Outgoing::Integer(RawValue::from_string(digits.clone()).unwrap());
    let body = Members(vec![("n".to_owned(), Outgoing::List(vec![big, Outgoing::Null]))]);
    let request = endpoint(BASE)
        .unwrap()
        .request("", &body, &Extras::default())
        .unwrap();
    assert_eq!(&request.body[..], format!("{{\"n\":[{digits},null]}}").as_bytes());
}

#[test]
fn a_compressed_body_is_decoded_a_little_at_a_time() {
    let text = b"0123456789".repeat(200_000);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&text).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(&text).unwrap();
    let mut bare = DeflateEncoder::new(Vec::new(), Compression::best());
    bare.write_all(&text).unwrap();
    let cases = [
        ("gzip", gzip.finish().unwrap()),
        ("deflate", zlib.finish().unwrap()),
        ("deflate", bare.finish().unwrap()),
    ];
    for (coding, bytes) in cases {
        let decode = |sent: &[u8]| -> Result<Vec<u8>, String> {
            let mut headers = HeaderMap::new();
            headers.insert("content-encoding", coding.parse().unwrap());
            let mut decoder = Decoder::of(&headers).unwrap().unwrap();
            let mut decoded = Vec::new();
            for part in sent.chunks(700) {
                decoder.push(Bytes::copy_from_slice(part));
                while let Some(part) = decoder.decode()? {
                    assert!(part.len() <= 1100 * 1024, "{}", part.len());
                    decoded.extend_from_slice(&part);
                }
            }
            decoded.extend(decoder.finish()?.unwrap_or_default());
            assert_eq!(decoder.finish().unwrap(), None);
            Ok(decoded)
        };
        assert!(decode(&bytes).unwrap() == text, "{coding}");
        assert!(decode(&bytes[..bytes.len() / 2]).is_err(), "{coding}");
    }
    let mut headers = HeaderMap::new();
    assert!(Decoder::of(&headers).unwrap().is_none());
    headers.insert("content-encoding", "br".parse().unwrap());
    assert!(Decoder::of(&headers).is_err());
}

fn json() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,6}|[\0-\x1f]{1,3}".prop_map(Value::from),
    ];
    plain.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("\\PC{0,3}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}
