//! One event of a stream, read straight into what callers see who asked for text.
//!
//! A tree of the whole event takes some three times as long. It is built only of events that need a closer look.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::reported::is_failure;

/// The members of a well-formed event that matter.
#[derive(serde::Deserialize)]
pub(super) struct Delta<'event> {
    pub model: Option<&'event str>,
    #[serde(default, borrow)]
    choices: Vec<Object<Choice<'event>>>,
    error: Option<IgnoredAny>,
    usage: Option<IgnoredAny>,
}

#[derive(serde::Deserialize)]
pub(super) struct Choice<'event> {
    #[serde(default)]
    pub index: u64,
    pub finish_reason: Option<&'event str>,
    error: Option<IgnoredAny>,
    delta: Option<Object<Content>>,
}

#[derive(serde::Deserialize)]
struct Content {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<IgnoredAny>,
}

impl<'event> Delta<'event> {
    /// Parses an event that only adds to choices, as nearly every event does. Returns `None` if the
    /// event needs the full parser: it reports usage or an error, calls a tool, has no choices (some servers
    /// report an error without a member `error`, but never together with choices), or has another
    /// form.
    pub fn well_formed(event: &'event str) -> Option<Self> {
        let Object(delta) = serde_json::from_str::<Object<Self>>(event).ok()?;
        let is_odd = |choice: &Choice<'_>| {
            let calls_tools = choice
                .delta
                .as_ref()
                .is_some_and(|Object(delta)| delta.tool_calls.is_some());
            calls_tools || choice.error.is_some() || choice.finish_reason.is_some_and(is_failure)
        };
        let is_plain = delta.error.is_none()
            && delta.usage.is_none()
            && !delta.choices.is_empty()
            && !delta.choices().any(is_odd);
        is_plain.then_some(delta)
    }

    pub fn choices(&self) -> impl Iterator<Item = &Choice<'event>> {
        self.choices.iter().map(|Object(choice)| choice)
    }

    /// What it adds to the first choice, if anything: to its text, and to what the model thought.
    pub fn into_texts(self) -> (Option<String>, Option<String>) {
        let (mut text, mut thought) = (None, None);
        for Object(choice) in self.choices {
            if choice.index == 0
                && let Some(Object(delta)) = choice.delta
            {
                text = text.or(delta.content);
                let named = |text: &String| !text.is_empty();
                let thinks = delta.reasoning_content.filter(named);
                thought = thought.or_else(|| thinks.or_else(|| delta.reasoning.filter(named)));
            }
        }
        (text.filter(|text| !text.is_empty()), thought)
    }
}

/// An object, and no array: serde would take one for a struct, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members(PhantomData))
    }
}

struct Members<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}
