//! The tokens that an answer used, as the server counted them.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Tokens; 0 where the server did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Both: the server's own sum, or the sum of the two if the server sent none.
    pub total_tokens: u64,
}

/// The members of a usage that tell more than the three numbers: cached tokens, reasoning tokens.
const DETAILS: [&str; 2] = ["prompt_tokens_details", "completion_tokens_details"];

/// A usage in OpenAI's form, which nearly every answer has.
#[derive(Deserialize)]
pub(super) struct WellFormedUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: Option<Value>,
    completion_tokens_details: Option<Value>,
}

impl WellFormedUsage {
    pub fn read(self) -> (Usage, Option<Map<String, Value>>) {
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            total_tokens: self.total_tokens,
        };
        let values = [self.prompt_tokens_details, self.completion_tokens_details];
        (usage, of_objects(DETAILS.into_iter().zip(values)))
    }
}

impl Usage {
    /// Reads a `usage` member of any shape.
    pub fn from_json(usage: Option<&Value>) -> Self {
        let count = |name: &str| usage.and_then(|usage| usage.get(name)).and_then(tokens);
        let prompt_tokens = count("prompt_tokens").unwrap_or(0);
        let completion_tokens = count("completion_tokens").unwrap_or(0);
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: count("total_tokens")
                .unwrap_or_else(|| prompt_tokens.saturating_add(completion_tokens)),
        }
    }
}

/// The details of a `usage` member, as they were sent; `None` if there are none.
pub(super) fn details(usage: Option<&Value>) -> Option<Map<String, Value>> {
    let usage = usage?;
    of_objects(DETAILS.into_iter().map(|name| (name, usage.get(name).cloned())))
}

fn of_objects<'name>(
    members: impl Iterator<Item = (&'name str, Option<Value>)>,
) -> Option<Map<String, Value>> {
    let objects: Map<String, Value> = members
        .filter_map(|(name, value)| Some((name.to_owned(), value.filter(Value::is_object)?)))
        .collect();
    (!objects.is_empty()).then_some(objects)
}

/// Some servers send a count as a float (`7.0`), or as a string (`"7"`).
fn tokens(count: &Value) -> Option<u64> {
    if let Some(count) = count.as_u64() {
        return Some(count);
    }
    let count = match count {
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        other => other.as_f64()?,
    };
    // A cast takes the nearest number that the type has; below 0, no count is meant.
    (count.is_finite() && count >= 0.0).then_some(count as u64)
}
