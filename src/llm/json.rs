//! JSON as servers write it: a little more than the standard allows.
//!
//! Many are written in languages whose JSON library writes `NaN` and half a surrogate pair, and
//! clients in those languages read them. The answer has been paid for, so it is read here, too.

use std::ops::RangeInclusive;

use serde_json::{Error, Value};

const HIGH_HALVES: RangeInclusive<u16> = 0xd800..=0xdbff;
const LOW_HALVES: RangeInclusive<u16> = 0xdc00..=0xdfff;

/// What is nested deeper than this is left out: the parser's own limit is a little higher.
const DEEPEST: usize = 120;

/// Parses JSON. Half a surrogate pair becomes U+FFFD; a number that no float can express, and a
/// list or object that is nested very deep, become null; a byte order mark is passed over.
///
/// # Errors
/// What the standard's parser says of the text, if it is not JSON in this sense either.
pub(super) fn parse(json: &[u8]) -> Result<Value, Error> {
    let strict = serde_json::from_slice(json);
    strict.or_else(|error| {
        let text = std::str::from_utf8(json).map(standard);
        text.ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .ok_or(error)
    })
}

/// The same JSON in the standard's form. What is no JSON stays none.
fn standard(json: &str) -> String {
    let mut rest = json.strip_prefix('\u{feff}').unwrap_or(json);
    let mut text = String::with_capacity(rest.len());
    let mut in_string = false;
    let mut depth = 0_usize;
    while !rest.is_empty() {
        let length = if in_string {
            length_in_string(rest)
        } else {
            length_outside(rest)
        };
        let (token, behind) = rest.split_at_checked(length).unwrap_or((rest, ""));
        rest = behind;
        in_string ^= token == "\"";
        if !in_string && matches!(token, "[" | "{") {
            depth += 1;
        }
        let is_left_out = depth > DEEPEST;
        if !in_string && matches!(token, "]" | "}") {
            depth = depth.saturating_sub(1);
        }
        if is_left_out {
            if depth == DEEPEST {
                text.push_str("null"); // in the place of the list or object that ends here
            }
            continue;
        }
        text.push_str(match token {
            half if in_string && is_half(half) => "\\ufffd",
            number if !in_string && is_beyond_floats(number) => "null",
            other => other,
        });
    }
    text
}

/// The length of the next part of a string: the closing quote, one escape (of two halves that
/// belong together: both), or what stands before either.
fn length_in_string(rest: &str) -> usize {
    let Some(escape) = rest.strip_prefix('\\') else {
        return rest.find(['"', '\\']).unwrap_or(rest.len()).max(1);
    };
    let is_pair = unit(rest).is_some_and(|first| HIGH_HALVES.contains(&first))
        && rest
            .get(6..)
            .and_then(unit)
            .is_some_and(|second| LOW_HALVES.contains(&second));
    match escape.chars().next() {
        _ if is_pair => 12,
        Some('u') => 6,
        escaped => 1 + escaped.map_or(0, char::len_utf8),
    }
}

/// The length of the next word or number, or of the one character that is neither.
fn length_outside(rest: &str) -> usize {
    let end = rest.find(|character: char| !(character.is_ascii_alphanumeric() || "+-.".contains(character)));
    match end {
        Some(0) => rest.chars().next().map_or(0, char::len_utf8),
        end => end.unwrap_or(rest.len()),
    }
}

/// The UTF-16 unit of the escape that a text begins with.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

fn is_half(token: &str) -> bool {
    token.len() == 6
        && unit(token).is_some_and(|unit| HIGH_HALVES.contains(&unit) || LOW_HALVES.contains(&unit))
}

fn is_beyond_floats(token: &str) -> bool {
    let is_number = token
        .trim_start_matches('-')
        .starts_with(|first: char| first.is_ascii_digit());
    matches!(token, "NaN" | "Infinity" | "-Infinity")
        || (is_number && token.parse().is_ok_and(f64::is_infinite))
}
