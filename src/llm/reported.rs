//! Finds the error that a server reports in the JSON body of an answer, whatever the status is.
//!
//! OpenAI's form is `{"error": {"message": …}}`. Other forms in use: `{"error": "…"}`,
//! `{"object": "error", "message": …}` (vLLM before 0.10, LMDeploy, FastChat),
//! `{"type": "error", …}`, `{"detail": …}` (FastAPI), `{"message": …}` and `{"errors": […]}`
//! (gateways), and a choice with an `error` or with `"finish_reason": "error"` (`OpenRouter`).

use serde_json::Value;

/// The largest number of characters of an error text that is made from a JSON list or object, such
/// as FastAPI's `detail`.
const LONGEST: usize = 2000;

/// Returns the error that a JSON object reports: the error text, if it has one, and the JSON value
/// that describes the error. `named` says that an enclosing event is named `error`, so that the
/// object is an error whatever its members are.
pub(super) fn reported(answer: &Value, named: bool) -> Option<(Option<String>, &Value)> {
    if let Some(error) = answer.get("error").filter(|error| is_truthy(error)) {
        return Some((words(error), error));
    }
    if let Some(failed) = failed_choice(answer) {
        return Some(failed);
    }
    let has_choices = answer
        .get("choices")
        .and_then(Value::as_array)
        .is_some_and(|choices| !choices.is_empty());
    if has_choices && !named {
        return None;
    }
    if let Some(errors) = answer.get("errors").filter(|errors| is_truthy(errors)) {
        let first = errors.as_array().and_then(|errors| errors.first());
        return Some((words(first.unwrap_or(errors)), errors));
    }
    let is = |member: &str| answer.get(member).and_then(Value::as_str) == Some("error");
    let words = words(answer);
    (named || is("object") || is("type") || words.is_some() || is_empty_error(answer))
        .then_some((words, answer))
}

/// The first choice that has failed, as [`reported`] tells it.
pub(super) fn failed_choice(answer: &Value) -> Option<(Option<String>, &Value)> {
    let choices = answer.get("choices").and_then(Value::as_array)?;
    choices.iter().find_map(|choice| {
        if let Some(error) = choice.get("error").filter(|error| is_truthy(error)) {
            return Some((words(error), error));
        }
        let reason = choice.get("finish_reason").and_then(Value::as_str)?;
        is_failure(reason).then(|| (words(choice), choice))
    })
}

/// Whether a `finish_reason` says that the choice failed.
pub(super) fn is_failure(finish_reason: &str) -> bool {
    finish_reason.trim().eq_ignore_ascii_case("error")
}

/// Whether a `finish_reason` names a reason. Some servers send `""`, `"null"` or `"none"` in every
/// chunk, where others send null: the choice has not finished yet.
pub(super) fn is_reason(finish_reason: &str) -> bool {
    let text = finish_reason.trim();
    !(text.is_empty() || text.eq_ignore_ascii_case("null") || text.eq_ignore_ascii_case("none"))
}

/// Whether an `error` that says nothing is all there is. Beside choices or usage it is what some servers send for "no error".
fn is_empty_error(answer: &Value) -> bool {
    let is_missing = |member: &str| answer.get(member).is_none_or(Value::is_null);
    let is_there = matches!(
        answer.get("error"),
        Some(Value::String(_) | Value::Array(_) | Value::Object(_))
    );
    is_there && is_missing("choices") && is_missing("usage")
}

/// Returns the text of an error answer, whose JSON needs no member that marks it as an error. So
/// further names count: OAuth's and RFC 9457's among them.
pub(super) fn complaint(body: &Value) -> Option<String> {
    // Google sends a list with one error in it.
    let body = body.as_array().and_then(|list| list.first()).unwrap_or(body);
    let named = reported(body, true).and_then(|(words, _)| words);
    named.or_else(|| deeper(body, DEEPEST))
}

/// How deep the text of an error is looked for.
const DEEPEST: usize = 4;

/// Where the text of an error may be, besides `message` and `detail`.
const OTHER_NAMES: [&str; 9] = [
    "error",
    "errors",
    "message",
    "msg",
    "error_description",
    "error_message",
    "description",
    "title",
    "reason",
];

fn deeper(body: &Value, levels: usize) -> Option<String> {
    let levels = levels.checked_sub(1)?;
    match body {
        Value::Array(items) => items
            .iter()
            .find_map(|item| words(item).or_else(|| deeper(item, levels))),
        Value::Object(members) => OTHER_NAMES.into_iter().find_map(|name| {
            let member = members.get(name)?;
            words(member).or_else(|| deeper(member, levels))
        }),
        _ => None,
    }
}

/// Returns the text of an error in any of these forms.
pub(super) fn words(error: &Value) -> Option<String> {
    let text = |value: &Value| {
        value
            .as_str()
            .filter(|text| !text.trim().is_empty())
            .map(str::to_owned)
    };
    text(error)
        .or_else(|| error.get("message").and_then(text))
        .or_else(|| match error.get("detail")? {
            list @ (Value::Array(_) | Value::Object(_)) if is_truthy(list) => {
                Some(list.to_string().chars().take(LONGEST).collect())
            }
            detail => text(detail),
        })
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => true,
    }
}
