//! What a stream brings beside its text: what the model thought, and the tools that it wants called.

use serde_json::{Map, Value};

use super::answer::reasoning_of;

/// The largest number of tool calls of one answer. Without a limit, a server could fill the memory
/// with empty ones.
const MOST_CALLS: usize = 1024;

/// Put together from a stream's deltas.
#[derive(Debug, Default)]
pub struct Asides {
    reasoning: String,
    tool_calls: Vec<ToolCall>,
    /// How much of it there is.
    bytes: usize,
}

#[derive(Debug)]
struct ToolCall {
    index: u64,
    members: Map<String, Value>,
}

impl Asides {
    /// What the model thought, as far as it has come.
    pub fn reasoning(&self) -> Option<&str> {
        Some(self.reasoning.as_str()).filter(|text| !text.is_empty())
    }

    /// The calls of tools, as far as they have come, in the form that a whole answer has.
    pub fn tool_calls(&self) -> Vec<Value> {
        let calls = self.tool_calls.iter();
        calls.map(|call| Value::Object(call.members.clone())).collect()
    }

    pub fn think(&mut self, text: &str) {
        self.bytes += text.len();
        self.reasoning.push_str(text);
    }

    /// Takes the delta of the first choice.
    pub fn see(&mut self, delta: &Value) {
        if let Some(text) = reasoning_of(delta) {
            self.think(&text);
        }
        let calls = delta.get("tool_calls").and_then(Value::as_array);
        for (position, call) in calls.into_iter().flatten().enumerate() {
            if let Some(members) = call.as_object() {
                self.call(position, members);
            }
        }
    }

    /// What there is too much of, if there is more of it than `longest` bytes, or too many calls.
    pub fn excess(&self, longest: usize) -> Option<String> {
        if self.tool_calls.len() > MOST_CALLS {
            return Some(format!("the stream has more than {MOST_CALLS} tool calls"));
        }
        (self.bytes > longest)
            .then(|| format!("the stream's reasoning and tool calls are longer than {longest} bytes"))
    }

    fn call(&mut self, position: usize, delta: &Map<String, Value>) {
        let index = delta.get("index").and_then(Value::as_u64);
        let index = index.unwrap_or(position as u64);
        let id = text(delta.get("id"));
        // Some servers number every call 0: another id is another call.
        let known = self.tool_calls.iter().rposition(|call| {
            let known = text(call.members.get("id"));
            call.index == index && (id.is_empty() || known.is_empty() || id == known)
        });
        if known.is_none() {
            let members = Map::new();
            self.tool_calls.push(ToolCall { index, members });
        }
        let call = match known {
            Some(known) => self.tool_calls.get_mut(known),
            None => self.tool_calls.last_mut(),
        };
        if let Some(call) = call {
            self.bytes += merge(&mut call.members, delta);
        }
    }
}

/// Adds the members of a delta: texts that come in pieces are joined, all others come whole.
/// Returns about how many bytes were added.
fn merge(members: &mut Map<String, Value>, delta: &Map<String, Value>) -> usize {
    let mut added = 0;
    for (name, value) in delta {
        match (members.get_mut(name), value) {
            (_, Value::Null) => {}
            _ if name == "index" => {}
            (Some(Value::Object(known)), Value::Object(more)) => added += merge(known, more),
            (Some(Value::String(known)), Value::String(more)) if comes_in_pieces(name) => {
                added += more.len();
                known.push_str(more);
            }
            (Some(Value::String(known)), _) if !known.is_empty() => {}
            (_, Value::Object(more)) => {
                let mut known = Map::new();
                added += name.len() + merge(&mut known, more);
                members.insert(name.clone(), Value::Object(known));
            }
            (known, value) => {
                let size = value.as_str().map_or_else(|| value.to_string().len(), str::len);
                added += size + known.map_or(name.len(), |_| 0);
                members.insert(name.clone(), value.clone());
            }
        }
    }
    added
}

fn comes_in_pieces(name: &str) -> bool {
    matches!(name, "arguments" | "input")
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}
