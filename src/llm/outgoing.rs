//! The JSON of a request. Its integers may have any size, which `serde_json::Value` can't express.

use serde::{Serialize, Serializer};
use serde_json::Number;
use serde_json::value::RawValue;

/// A JSON value that is sent.
#[derive(Debug, Clone)]
pub enum Outgoing {
    Null,
    Bool(bool),
    Number(Number),
    /// The digits of an integer that no number above can hold.
    Integer(Box<RawValue>),
    Text(String),
    List(Vec<Self>),
    Object(Members),
}

/// The members of an object, in the caller's order.
#[derive(Debug, Clone, Default)]
pub struct Members(pub Vec<(String, Outgoing)>);

impl Members {
    /// The text of a member; empty if there is none.
    pub fn text(&self, name: &str) -> &str {
        let member = self.0.iter().rev().find(|(member, _)| member == name);
        match member {
            Some((_, Outgoing::Text(text))) => text,
            _ => "",
        }
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Serialize for Outgoing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => number.serialize(serializer),
            Self::Integer(digits) => digits.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(members) => members.serialize(serializer),
        }
    }
}
