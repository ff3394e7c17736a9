//! The answer to a chat completion: what of it callers see, checked once here.

use bytes::Bytes;
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::error::Error;
use super::json;
use super::received::Received;
use super::reported::{failed_choice, is_failure, is_reason, reported};
use super::usage::{Usage, WellFormedUsage, details};

/// An answer that knows how many tokens it used.
pub trait Used {
    /// The tokens; 0 if the server did not report them.
    fn usage(&self) -> Usage;
}

impl Used for Completion {
    fn usage(&self) -> Usage {
        self.usage
    }
}

/// All that a server sent.
impl Used for Value {
    fn usage(&self) -> Usage {
        Usage::from_json(self.get("usage"))
    }
}

/// The members of a well-formed answer that callers see.
#[derive(Deserialize)]
struct WellFormed<'answer> {
    model: Option<String>,
    #[serde(borrow)]
    choices: Vec<WellFormedChoice<'answer>>,
    usage: Option<WellFormedUsage>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct WellFormedChoice<'answer> {
    message: WellFormedMessage,
    finish_reason: Option<&'answer str>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct WellFormedMessage {
    content: Option<String>,
    tool_calls: Option<Value>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

/// The text of a message's `content`: a string, or a list of parts, of which those that hold text
/// for the reader count (others hold what a model thought, for example).
///
/// # Errors
/// What is wrong with anything else.
pub(super) fn text_of(content: Option<&Value>) -> Result<Option<String>, &'static str> {
    let parts = match content {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts.as_slice(),
        Some(part @ Value::Object(_)) => std::slice::from_ref(part),
        Some(_) => return Err("is not a string or a list of parts"),
    };
    Ok(Some(parts.iter().filter_map(text_of_part).collect()))
}

fn text_of_part(part: &Value) -> Option<&str> {
    let kind = part.get("type").and_then(Value::as_str);
    match kind {
        Some("text" | "output_text") | None => part.as_str().or_else(|| part.get("text")?.as_str()),
        Some(_) => None,
    }
}

/// What the model thought: a member of the message (or the delta), by either of its names, or
/// parts of its content (Mistral).
pub(super) fn reasoning_of(message: &Value) -> Option<String> {
    let named = ["reasoning_content", "reasoning"].into_iter().find_map(|name| {
        message
            .get(name)?
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    });
    named.or_else(|| {
        let parts = message.get("content")?.as_array()?.iter();
        let thoughts = parts.filter(|part| part.get("type").and_then(Value::as_str) == Some("thinking"));
        let texts = thoughts.filter_map(|part| text_of(part.get("thinking")).ok()?);
        Some(texts.collect::<String>()).filter(|text| !text.is_empty())
    })
}

#[derive(Debug, Clone)]
pub struct Completion {
    /// The text; `None` where the server sent null (a tool call, a refusal).
    pub content: Option<String>,
    /// The model that answered.
    pub model: String,
    pub usage: Usage,
    /// Cached tokens, reasoning tokens: the usage's members of details, as they were sent.
    pub usage_details: Option<Map<String, Value>>,
    /// Why the model stopped, if the server named a reason.
    pub finish_reason: Option<String>,
    /// What the model thought.
    pub reasoning: Option<String>,
    /// The tools that the model wants called, as they were sent.
    pub tool_calls: Option<Value>,
    pub received: Received,
    /// All that the server sent, if it was asked to be kept.
    pub raw: Option<Value>,
}

/// A whole answer with status 2xx.
pub struct Answer {
    pub status: StatusCode,
    pub received: Received,
    pub body: Bytes,
}

impl Answer {
    /// The body as a JSON object.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`] if it is anything else.
    pub fn json(&self) -> Result<Value, Error> {
        let value = json::parse(&self.body).map_err(|error| {
            let html = self.body.trim_ascii_start().starts_with(b"<");
            self.invalid(&if html {
                "an HTML page, not JSON".to_owned()
            } else {
                format!("not JSON: {error}")
            })
        })?;
        if value.is_object() {
            Ok(value)
        } else {
            Err(self.invalid("not a JSON object"))
        }
    }

    /// Returns the body as a JSON object.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`] if the body is no JSON object, or if the object reports an error.
    pub fn object(&self) -> Result<Value, Error> {
        let value = self.json()?;
        self.refuse_failure(&value)?;
        Ok(value)
    }

    fn refuse_failure(&self, answer: &Value) -> Result<(), Error> {
        let has_choices = answer.get("choices").is_some_and(|choices| !choices.is_null());
        match reported(answer, false) {
            Some((words, _)) if !has_choices => Err(self.without("no choices", words)),
            Some((Some(words), _)) => Err(self.invalid(&format!("an error, not an answer: {words}"))),
            // Some servers send an `error` without words beside an answer that is whole.
            Some((None, _)) if failed_choice(answer).is_some() => {
                Err(self.invalid("a choice ended with an error"))
            }
            _ => Ok(()),
        }
    }

    /// The body as a chat completion. `requested_model` serves where the server names none.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`] if it is not one.
    pub fn completion(&mut self, requested_model: &str, keep_raw: bool) -> Result<Completion, Error> {
        let well_formed = (!keep_raw).then(|| self.well_formed(requested_model)).flatten();
        let mut completion = match well_formed {
            Some(completion) => completion,
            None => self.odd(requested_model, keep_raw)?,
        };
        completion.received = std::mem::take(&mut self.received);
        Ok(completion)
    }

    /// Reads an answer of any form.
    fn odd(&self, requested_model: &str, keep_raw: bool) -> Result<Completion, Error> {
        let words = |raw: &Value| reported(raw, false)?.0;
        let mut raw = self.json()?;
        let Some(choices) = raw.get("choices").and_then(Value::as_array) else {
            return Err(self.without("no choices", words(&raw)));
        };
        let Some(choice) = choices.first() else {
            return Err(self.without("choices is empty", words(&raw)));
        };
        self.refuse_failure(&raw)?;
        let Some(message) = choice.get("message").filter(|message| message.is_object()) else {
            return Err(self.invalid("choices[0] has no message"));
        };
        let content = text_of(message.get("content"))
            .map_err(|problem| self.invalid(&format!("choices[0].message.content {problem}")))?;
        let model = raw
            .get("model")
            .and_then(Value::as_str)
            .unwrap_or(requested_model)
            .to_owned();
        let usage = Usage::from_json(raw.get("usage"));
        let usage_details = details(raw.get("usage"));
        let finish_reason = choice.get("finish_reason").and_then(Value::as_str);
        let finish_reason = finish_reason
            .filter(|reason| is_reason(reason))
            .map(str::to_owned);
        let reasoning = reasoning_of(message);
        let tool_calls = if keep_raw {
            message.get("tool_calls").cloned()
        } else {
            raw.pointer_mut("/choices/0/message/tool_calls").map(Value::take)
        };
        Ok(Completion {
            content,
            model,
            usage,
            usage_details,
            finish_reason,
            reasoning,
            received: Received::default(),
            tool_calls: tool_calls.filter(|calls| !calls.is_null()),
            raw: keep_raw.then_some(raw),
        })
    }

    /// Nearly every answer, at a third of the cost: only what callers see is kept. `None` for any that needs a closer look.
    fn well_formed(&self, requested_model: &str) -> Option<Completion> {
        if !self.body.trim_ascii_start().starts_with(b"{") {
            return None; // serde would take an array for a struct
        }
        // Of bytes, serde would check only what is kept.
        let text = std::str::from_utf8(&self.body).ok()?;
        let answer: WellFormed<'_> = serde_json::from_str(text).ok()?;
        let has_failed = |choice: &WellFormedChoice<'_>| {
            choice.error.is_some() || choice.finish_reason.is_some_and(is_failure)
        };
        if answer.error.is_some() || answer.choices.iter().any(has_failed) {
            return None;
        }
        let choice = answer.choices.into_iter().next()?;
        let message = choice.message;
        let named = |text: &String| !text.is_empty();
        let reasoning = message.reasoning_content.filter(named);
        let (usage, usage_details) = answer.usage.map(WellFormedUsage::read).unwrap_or_default();
        Some(Completion {
            content: message.content,
            model: answer.model.unwrap_or_else(|| requested_model.to_owned()),
            usage,
            usage_details,
            finish_reason: choice
                .finish_reason
                .filter(|reason| is_reason(reason))
                .map(str::to_owned),
            reasoning: reasoning.or_else(|| message.reasoning.filter(named)),
            tool_calls: message.tool_calls,
            received: Received::default(),
            raw: None,
        })
    }

    /// Returns the error for an answer whose defect is `what`, followed by the server's error text.
    fn without(&self, what: &str, words: Option<String>) -> Error {
        self.invalid(&match words {
            Some(words) => format!("{what}, but an error: {words}"),
            None => what.to_owned(),
        })
    }

    fn invalid(&self, message: &str) -> Error {
        Error::invalid_response(message, self.status.as_u16(), &self.body)
    }
}
