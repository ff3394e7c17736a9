//! The answer to a chat completion: what of it callers see, checked once here.

use bytes::Bytes;
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::error::Error;
use super::json;
use super::reported::{failed_choice, is_failure, reported};

/// Tokens, as the server counted them; 0 where it did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Both, by the server's own sum.
    pub total_tokens: u64,
}

impl Usage {
    /// Reads a `usage` member of any shape.
    pub fn from_json(usage: Option<&Value>) -> Self {
        let count = |name: &str| {
            usage
                .and_then(|usage| usage.get(name))
                .and_then(Value::as_u64)
                .unwrap_or(0)
        };
        Self {
            prompt_tokens: count("prompt_tokens"),
            completion_tokens: count("completion_tokens"),
            total_tokens: count("total_tokens"),
        }
    }
}

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
    usage: Option<Usage>,
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
}

/// The text of a message's `content`: a string, or a list of parts, of which those of type `text` count (others hold what a model
/// thought, for example).
///
/// # Errors
/// What is wrong with anything else.
pub(super) fn text_of(content: Option<&Value>) -> Result<Option<String>, &'static str> {
    let parts = match content {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err("is not a string or a list of parts"),
    };
    let mut whole = String::new();
    for part in parts {
        match part.get("type").and_then(Value::as_str) {
            Some("text") => {
                let text = part.get("text").and_then(Value::as_str);
                whole.push_str(text.ok_or("has a part of type text without text")?);
            }
            Some(_) => {}
            None => return Err("has a part without a type"),
        }
    }
    Ok(Some(whole))
}

#[derive(Debug, Clone)]
pub struct Completion {
    /// The text; `None` where the server sent null (a tool call, a refusal).
    pub content: Option<String>,
    /// The model that answered.
    pub model: String,
    pub usage: Usage,
    /// The tools that the model wants called, as they were sent.
    pub tool_calls: Option<Value>,
    /// All that the server sent, if it was asked to be kept.
    pub raw: Option<Value>,
}

/// A whole answer with status 2xx.
pub struct Answer {
    pub status: StatusCode,
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
    pub fn completion(&self, requested_model: &str, keep_raw: bool) -> Result<Completion, Error> {
        if !keep_raw && let Some(completion) = self.well_formed(requested_model) {
            return Ok(completion);
        }
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
        let tool_calls = if keep_raw {
            message.get("tool_calls").cloned()
        } else {
            raw.pointer_mut("/choices/0/message/tool_calls").map(Value::take)
        };
        Ok(Completion {
            content,
            model,
            usage,
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
        let message = answer.choices.into_iter().next()?.message;
        Some(Completion {
            content: message.content,
            model: answer.model.unwrap_or_else(|| requested_model.to_owned()),
            usage: answer.usage.unwrap_or_default(),
            tool_calls: message.tool_calls,
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
