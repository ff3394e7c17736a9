//! From a stream's bytes to its chunks, and the judgement whether it ended as it should: a pure state machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

use super::answer::text_of;
use super::asides::Asides;
use super::delta::Delta;
use super::error::{Error, excerpt};
use super::items::{Batch, Chunk, Items};
use super::json;
use super::received::Received;
use super::reported::{is_reason, reported};
use super::sse::{BYTE_ORDER_MARK, Decoder, Event};
use super::usage::{Usage, details};
use crate::mutex::lock;

/// What is known of a stream besides its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The model that answers.
    pub model: Option<String>,
    /// Tokens used, if the server was asked to say (`stream_options={"include_usage": True}`).
    pub usage: Option<Usage>,
    /// Cached tokens, reasoning tokens, as they were sent.
    pub usage_details: Option<Map<String, Value>>,
    /// Why the first choice ended.
    pub finish_reason: Option<String>,
    /// What the answer's headers said.
    pub received: Received,
}

/// Takes bytes, gives chunks.
#[derive(Debug, Default)]
pub struct ChunkReader {
    status: u16,
    decoder: Decoder,
    events: Vec<Event>,
    saw_event: bool,
    done: bool,
    /// Per choice, whether its `finish_reason` has come.
    finished_choices: BTreeMap<u64, bool>,
    beginning: Vec<u8>,
    summary: Arc<Summary>,
    /// Shared with its readers: it grows with every piece, and a copy for each would cost too much.
    asides: Arc<Mutex<Asides>>,
    longest: usize,
}

/// How much of a stream that is none is kept, to be shown in the error.
const BEGINNING_BYTES: usize = 2000;

/// The largest number of distinct choices in a stream. OpenAI returns at most 128. Without a limit,
/// a server could fill the memory with choice numbers.
pub const MOST_CHOICES: usize = 512;

impl ChunkReader {
    /// `status` is the answer's, for errors. `longest` bounds an event, and all asides together.
    pub fn new(status: u16, longest: usize, received: Received) -> Self {
        let summary = Summary {
            received,
            ..Summary::default()
        };
        Self {
            status,
            decoder: Decoder::new(longest),
            summary: Arc::new(summary),
            longest,
            ..Self::default()
        }
    }

    /// What the model thought, and the tools that it wants called.
    pub fn asides(&self) -> &Arc<Mutex<Asides>> {
        &self.asides
    }

    pub fn summary(&self) -> &Arc<Summary> {
        &self.summary
    }

    /// Whether an event has begun and not ended.
    pub fn is_amid_event(&self) -> bool {
        self.decoder.is_amid_event()
    }

    /// Whether `[DONE]` has come: nothing after it counts.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the next bytes; the items that they complete are added to the batch, also those before an error.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`] for what is no JSON object or too long, [`Error::Reported`] for an error in mid-stream.
    pub fn feed(&mut self, bytes: &[u8], batch: &mut Batch) -> Result<(), Error> {
        // Kept for the error alone: many servers answer a request for a stream with a plain JSON error or a page of HTML.
        if !self.saw_event {
            let room = BEGINNING_BYTES - self.beginning.len();
            self.beginning
                .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        }
        let mut events = std::mem::take(&mut self.events);
        let fed = self.decoder.feed(bytes, &mut events);
        for event in events.drain(..) {
            // `[DONE]` ends the stream: what a gateway appends to it is not the model's.
            if self.done {
                break;
            }
            self.take(event, batch)?;
        }
        self.events = events;
        // After the events, since those that came before a too long one are good; and not at all after the end.
        if self.done {
            return Ok(());
        }
        fed.map_err(|error| self.invalid(&error.to_string()))
    }

    /// Judges the end of the bytes.
    ///
    /// # Errors
    /// [`Error::InvalidResponse`] if this was no event stream, `broken` (or [`Error::Connection`], if nothing was broken)
    /// if it ended before it was complete, or visibly broke before `[DONE]`: what was cut off may have been an error.
    pub fn end(&mut self, broken: Option<Error>) -> Result<(), Error> {
        // Some servers close the connection right behind `[DONE]`, without the empty line that ends an event.
        if self.done || self.decoder.unfinished_data().trim() == "[DONE]" {
            return Ok(());
        }
        let finished = !self.finished_choices.is_empty()
            && self.finished_choices.values().all(|finished| *finished)
            && !self.decoder.is_amid_event();
        // A server may leave the connection open after the last event: silence breaks nothing.
        if finished && matches!(broken, None | Some(Error::Timeout { .. })) {
            return Ok(());
        }
        if let Some(error) = broken {
            return Err(error);
        }
        if !self.saw_event && !begins_as_event_stream(&self.beginning) {
            let complaint = json::parse(&self.beginning).ok();
            let words = complaint
                .as_ref()
                .and_then(|complaint| reported(complaint, false)?.0);
            return Err(self.invalid(&match words {
                Some(words) => format!("not an event stream, but an error: {words}"),
                None => "not an event stream".to_owned(),
            }));
        }
        let detail = if self.decoder.is_amid_event() {
            "the stream ended before [DONE] and in the middle of an event"
        } else {
            "the stream ended before [DONE] and before a finish_reason"
        };
        Err(Error::Connection {
            detail: detail.to_owned(),
            os_error: None,
        })
    }

    fn take(&mut self, event: Event, batch: &mut Batch) -> Result<(), Error> {
        if !self.saw_event {
            self.saw_event = true;
            self.beginning = Vec::new();
        }
        if event.data.starts_with("[DONE]") {
            self.done = true;
            return Ok(());
        }
        // Text needs no tree of the event, which takes three times as long to build. Whatever is unusual goes the long way, so
        // that both ways find the same.
        if let Items::Texts(texts) = &mut batch.items
            && !event.is_error
            && let Some(delta) = Delta::well_formed(&event.data)
        {
            self.see_model(delta.model);
            for choice in delta.choices() {
                self.see_choice(choice.index, choice.finish_reason)?;
            }
            let (text, thought) = delta.into_texts();
            texts.extend(text);
            if let Some(thought) = thought {
                self.see_aside(|asides| asides.think(&thought))?;
            }
        } else {
            let chunk = self.chunk(&event)?;
            self.see(&chunk)?;
            match &mut batch.items {
                Items::Texts(texts) => {
                    let text = text(&chunk).map_err(|problem| self.invalid_event(&problem, &event))?;
                    texts.extend(text);
                }
                Items::Chunks(chunks) => chunks.push(chunk),
            }
        }
        batch.bytes += event.data.len();
        Ok(())
    }

    /// The event's JSON object, unless it is an error.
    fn chunk(&self, event: &Event) -> Result<Chunk, Error> {
        let named = event.is_error;
        let chunk = match json::parse(event.data.as_bytes()) {
            Ok(chunk) => chunk,
            // An event that is named an error is one, even if its data is plain text.
            Err(_) if named => Value::from(excerpt(event.data.as_bytes())),
            Err(error) => {
                return Err(self.invalid_event(&format!("an event is not JSON: {error}"), event));
            }
        };
        if !chunk.is_object() && !named {
            return Err(self.invalid_event("an event is not a JSON object", event));
        }
        let Some((words, body)) = reported(&chunk, named) else {
            return Ok(chunk);
        };
        Err(Error::Reported {
            message: words.unwrap_or_else(|| "An error occurred during streaming".to_owned()),
            body: body.clone(),
        })
    }

    fn see(&mut self, chunk: &Chunk) -> Result<(), Error> {
        self.see_model(chunk.get("model").and_then(Value::as_str));
        // With `continuous_usage_stats` vLLM sends it in every chunk: the last one counts.
        if let Some(usage) = chunk.get("usage").filter(|usage| usage.is_object()) {
            let summary = Arc::make_mut(&mut self.summary);
            summary.usage = Some(Usage::from_json(Some(usage)));
            summary.usage_details = details(Some(usage));
        }
        for choice in choices(chunk) {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            self.see_choice(index, choice.get("finish_reason").and_then(Value::as_str))?;
            if let (0, Some(delta)) = (index, choice.get("delta")) {
                self.see_aside(|asides| asides.see(delta))?;
            }
        }
        Ok(())
    }

    fn see_aside(&self, see: impl FnOnce(&mut Asides)) -> Result<(), Error> {
        let mut asides = lock(&self.asides);
        see(&mut asides);
        let excess = asides.excess(self.longest);
        drop(asides);
        excess.map_or(Ok(()), |excess| Err(self.invalid(&excess)))
    }

    fn see_model(&mut self, model: Option<&str>) {
        // The summary is shared with its readers, who keep their copy: it is written only when something has changed.
        if let Some(model) = model.filter(|model| !model.is_empty()) // Azure's filter names none
            && self.summary.model.as_deref() != Some(model)
        {
            Arc::make_mut(&mut self.summary).model = Some(model.to_owned());
        }
    }

    fn see_choice(&mut self, index: u64, finish_reason: Option<&str>) -> Result<(), Error> {
        // All choices have to finish: with `n=2` the first may end long before the second.
        let finish_reason = finish_reason.filter(|reason| is_reason(reason));
        if self.finished_choices.len() >= MOST_CHOICES && !self.finished_choices.contains_key(&index) {
            return Err(self.invalid(&format!("the stream has more than {MOST_CHOICES} choices")));
        }
        *self.finished_choices.entry(index).or_default() |= finish_reason.is_some();
        if let (0, Some(reason)) = (index, finish_reason) {
            Arc::make_mut(&mut self.summary).finish_reason = Some(reason.to_owned());
        }
        Ok(())
    }

    fn invalid(&self, message: &str) -> Error {
        Error::invalid_response(message, self.status, &self.beginning)
    }

    fn invalid_event(&self, message: &str, event: &Event) -> Error {
        Error::invalid_response(message, self.status, event.data.as_bytes())
    }
}

/// Whether nothing speaks against an event stream: the first line that is not empty is a comment or
/// a field, or was cut off in the name of one.
fn begins_as_event_stream(beginning: &[u8]) -> bool {
    let beginning = beginning.strip_prefix(BYTE_ORDER_MARK).unwrap_or(beginning);
    let mut lines = beginning.split(|byte| matches!(byte, b'\r' | b'\n'));
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_cut_off = name.len() == line.len();
    let is = |field: &[u8]| name == field || is_cut_off && field.starts_with(name);
    name.trim_ascii().is_empty() || [&b"data"[..], b"event", b"id", b"retry"].into_iter().any(is)
}

/// The text that a chunk adds to the first choice, if any.
///
/// # Errors
/// What is wrong with a content that is no text.
pub fn text(chunk: &Chunk) -> Result<Option<String>, String> {
    let content = choices(chunk)
        .filter(|choice| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0)
        .find_map(|choice| {
            choice
                .get("delta")?
                .get("content")
                .filter(|content| !content.is_null())
        });
    let text = text_of(content).map_err(|problem| format!("a delta's content {problem}"))?;
    Ok(text.filter(|text| !text.is_empty()))
}

fn choices(chunk: &Chunk) -> impl Iterator<Item = &Value> {
    chunk
        .get("choices")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}
