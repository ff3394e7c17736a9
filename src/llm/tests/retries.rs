use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::llm::retry::{RetryHint, RetryPolicy};
use proptest::prelude::*;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

const NOW: u64 = 1_800_000_000;

fn hint(status: u16, headers: &[(&'static str, &str)]) -> RetryHint {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    RetryPolicy::default().hint(StatusCode::from_u16(status).unwrap(), &map, now)
}

/// The wait in seconds before retry number `taken + 1`, without jitter.
fn wait(taken: u32, headers: &[(&'static str, &str)]) -> f64 {
    RetryPolicy::default()
        .wait(taken, hint(503, headers).retry_after, 0.0)
        .as_secs_f64()
}

fn date(seconds_from_now: i64) -> String {
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(NOW.saturating_add_signed(seconds_from_now));
    httpdate::fmt_http_date(time)
}

#[test]
fn the_status_decides() {
    let retryable: Vec<u16> = (300..600).filter(|status| hint(*status, &[]).retryable).collect();
    let expected: Vec<u16> = [408, 409, 429].into_iter().chain(500..600).collect();
    assert_eq!(retryable, expected);
}

#[test]
fn the_server_may_say_whether() {
    assert!(hint(400, &[("x-should-retry", "true")]).retryable);
    assert!(!hint(500, &[("x-should-retry", "false")]).retryable);
    assert!(hint(500, &[("x-should-retry", "perhaps")]).retryable);
}

#[test]
fn waits_double_up_to_the_cap() {
    let waits: Vec<f64> = (0..7).map(|taken| wait(taken, &[])).collect();
    assert_eq!(waits, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]);
    assert_eq!(wait(u32::MAX, &[]), 8.0);
}

#[test]
fn chance_takes_off_a_quarter_at_most() {
    let policy = RetryPolicy::default();
    assert_eq!(policy.wait(0, None, 1.0), Duration::from_millis(375));
    assert_eq!(policy.wait(0, None, 0.0), Duration::from_millis(500));
}

#[test]
fn the_server_may_say_how_long() {
    assert_eq!(wait(0, &[("retry-after", "3")]), 3.0);
    assert_eq!(wait(0, &[("retry-after", " 0.25 ")]), 0.25);
    assert_eq!(wait(0, &[("retry-after-ms", "150")]), 0.15);
    assert_eq!(wait(0, &[("retry-after-ms", "150"), ("retry-after", "3")]), 0.15);
    assert_eq!(wait(0, &[("retry-after-ms", "soon"), ("retry-after", "3")]), 3.0);
    assert_eq!(wait(0, &[("retry-after", "120")]), 120.0);
    assert_eq!(wait(0, &[("retry-after", &date(7))]), 7.0);
    assert_eq!(wait(0, &[("retry-after", &date(7).replace("GMT", "+0000"))]), 7.0);
}

#[test]
fn what_it_says_is_ignored_if_it_makes_no_sense() {
    for nonsense in ["0", "-5", "nan", "inf", "-inf", "soon", "", "Fri, 99 Foo 2026"] {
        assert_eq!(wait(0, &[("retry-after", nonsense)]), 0.5, "{nonsense:?}");
        assert!(hint(503, &[("retry-after", nonsense)]).retryable, "{nonsense:?}");
    }
    assert_eq!(wait(0, &[("retry-after", &date(-7))]), 0.5);
}

#[test]
fn a_wait_of_more_than_two_minutes_is_not_made() {
    for long in ["120.5", "1e9", "1e999", &date(121)] {
        assert!(!hint(503, &[("retry-after", long)]).retryable, "{long:?}");
        assert!(
            !hint(503, &[("retry-after", long), ("x-should-retry", "true")]).retryable,
            "{long:?}"
        );
    }
    assert!(!hint(503, &[("retry-after-ms", "120001")]).retryable);
}

proptest! {
    #[test]
    fn whole_seconds_are_waited_for_or_too_long_or_no_wait(seconds in -200_i64..400, milliseconds: bool) {
        let (name, value) = if milliseconds { ("retry-after-ms", seconds * 1000) } else { ("retry-after", seconds) };
        let headers = [(name, &*value.to_string())];
        prop_assert_eq!(hint(503, &headers).retryable, seconds <= 120);
        let expected = if (1..=120).contains(&seconds) { seconds as f64 } else { 0.5 };
        prop_assert_eq!(wait(0, &headers), expected);
    }

    #[test]
    fn a_date_means_the_seconds_until_then(seconds in -200_i64..400) {
        let headers = [("retry-after", &*date(seconds))];
        prop_assert_eq!(hint(503, &headers).retryable, seconds <= 120);
        let expected = if (1..=120).contains(&seconds) { seconds as f64 } else { 0.5 };
        prop_assert_eq!(wait(0, &headers), expected);
    }

    #[test]
    fn no_value_of_any_header_makes_a_wait_longer_than_two_minutes(
        values in prop::collection::vec("[ -~]{0,12}|[-+]?[0-9]{0,30}(\\.[0-9]{1,4})?(e[-+]?[0-9]{1,3})?", 3..=3),
        status in 300_u16..600,
        taken: u32,
        chance in 0.0..=1.0,
    ) {
        let names = ["retry-after", "retry-after-ms", "x-should-retry"];
        let headers: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
        let hint = hint(status, &headers);
        let wait = RetryPolicy::default().wait(taken, hint.retry_after, chance);
        prop_assert!(wait <= Duration::from_secs(120));
    }
}
