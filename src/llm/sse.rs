//! Server-sent events, decoded as <https://html.spec.whatwg.org/multipage/server-sent-events.html> says.
//!
//! A pure state machine: bytes in, events out. How the bytes are cut makes no difference. An event that was not ended by an empty
//! line is no event. In one point it is stricter than the standard, which drops every event without data: one that is named an error
//! is an event nevertheless, for a failure must not be lost.

use std::mem;

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event. Its name matters in one case only, and its id never: no request is made again from where a stream broke.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The `data` lines, joined by line feeds. Invalid UTF-8 became U+FFFD.
    pub data: String,
    /// Whether the server named it `error`.
    pub is_error: bool,
}

/// An event, or a line of one, is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {limit} bytes")]
pub struct TooLong {
    pub limit: usize,
}

/// The decoder's state between two parts of a stream.
#[derive(Debug, Default)]
pub struct Decoder {
    max_event_bytes: usize,
    /// Whether the stream's first line, where a byte order mark may stand, is over.
    past_start: bool,
    /// Whether the last byte was a carriage return: a line feed right after it ends no line of its own.
    after_carriage_return: bool,
    line: Vec<u8>,
    kind: Vec<u8>,
    data: Vec<u8>,
}

impl Decoder {
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            ..Self::default()
        }
    }

    /// Takes the next bytes and appends the events that they complete.
    ///
    /// # Errors
    /// [`TooLong`]; the decoder is of no use afterwards.
    pub fn feed(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if mem::take(&mut self.after_carriage_return)
                && let Some(rest) = bytes.strip_prefix(b"\n")
            {
                bytes = rest;
                continue;
            }
            let mut parts = bytes.splitn(2, |byte| matches!(byte, b'\r' | b'\n'));
            let line = parts.next().unwrap_or_default();
            self.line.extend_from_slice(line);
            if self.line.len() + self.data.len() > self.max_event_bytes {
                return Err(TooLong {
                    limit: self.max_event_bytes,
                });
            }
            let Some(rest) = parts.next() else { break };
            self.after_carriage_return = bytes.get(line.len()) == Some(&b'\r');
            bytes = rest;
            self.end_line(events);
        }
        Ok(())
    }

    /// The data of the event that has begun but not ended, with its last line even if that is not ended either.
    pub fn unfinished_data(&self) -> String {
        let mut data = self.data.clone();
        if let Some(rest) = self.line.strip_prefix(b"data:") {
            data.extend_from_slice(rest.strip_prefix(b" ").unwrap_or(rest));
        }
        String::from_utf8_lossy(data.strip_suffix(b"\n").unwrap_or(&data)).into_owned()
    }

    /// Whether an event has begun and not ended. A comment is none.
    pub fn is_amid_event(&self) -> bool {
        let line = self.line.trim_ascii();
        !(self.data.is_empty() && self.kind.is_empty() && (line.is_empty() || line.starts_with(b":")))
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let mut line = mem::take(&mut self.line);
        if !mem::replace(&mut self.past_start, true) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        if line.is_empty() {
            self.dispatch(events);
        } else {
            self.field(&line);
        }
        line.clear();
        self.line = line;
    }

    fn field(&mut self, line: &[u8]) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().unwrap_or_default();
        let value = parts.next().unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"event" => self.kind = value.to_vec(),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            // `id` and `retry` are for clients that reconnect; an empty name is a comment; the
            // standard ignores all else.
            _ => {}
        }
    }

    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let kind = mem::take(&mut self.kind);
        let mut data = mem::take(&mut self.data);
        let is_error = kind.trim_ascii().eq_ignore_ascii_case(b"error");
        // Only the last of the joining line feeds is one too many; no data lines, no event.
        if data.pop().is_none() && !is_error {
            return;
        }
        events.push(Event {
            data: text(data),
            is_error,
        });
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
