//! Server-sent events, decoded as <https://html.spec.whatwg.org/multipage/server-sent-events.html> says.
//!
//! A pure state machine: bytes in, events out. How the bytes are cut makes no difference. An event that was not ended by an empty
//! line is no event. In one point it is stricter than the standard, which drops every event without data: one that is named an error
//! is an event nevertheless, for a failure must not be lost.

use std::mem;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The `event` field; empty for the default kind, `message`.
    pub kind: String,
    /// The `data` lines, joined by line feeds. Invalid UTF-8 became U+FFFD.
    pub data: String,
    /// The last `id` that the stream has set.
    pub last_id: String,
}

impl Event {
    /// Whether the server calls it an error.
    pub fn is_error(&self) -> bool {
        names_an_error(self.kind.as_bytes())
    }
}

fn names_an_error(kind: &[u8]) -> bool {
    kind.trim_ascii().eq_ignore_ascii_case(b"error")
}

/// An event, or a line of one, is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {limit} bytes")]
pub struct TooLong {
    /// The limit in bytes.
    pub limit: usize,
}

/// The decoder's state between two parts of a stream.
#[derive(Debug)]
pub struct Decoder {
    max_event_bytes: usize,
    /// Whether the stream's beginning, where a byte order mark may stand, is still to come.
    at_start: bool,
    /// Whether the last byte was a carriage return: a line feed right after it ends no line of its own.
    after_carriage_return: bool,
    line: Vec<u8>,
    kind: Vec<u8>,
    data: Vec<u8>,
    last_id: Vec<u8>,
}

impl Decoder {
    /// A decoder for a new stream.
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            at_start: true,
            after_carriage_return: false,
            line: Vec::new(),
            kind: Vec::new(),
            data: Vec::new(),
            last_id: Vec::new(),
        }
    }

    /// Takes the next bytes and appends the events that they complete.
    ///
    /// # Errors
    /// [`TooLong`]; the decoder is of no use afterwards.
    pub fn feed(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            if mem::take(&mut self.after_carriage_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            self.line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
            if self.line.len() + self.data.len() > self.max_event_bytes {
                return Err(TooLong {
                    limit: self.max_event_bytes,
                });
            }
            let Some(end) = end else { break };
            self.after_carriage_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
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
        if mem::take(&mut self.at_start) && line.starts_with(BYTE_ORDER_MARK) {
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
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            None => (line, &[][..]),
            Some(colon) => (&line[..colon], &line[colon + 1..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"event" => self.kind = value.to_vec(),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if !value.contains(&0) => self.last_id = value.to_vec(),
            // `retry` speaks to clients that reconnect; an empty name is a comment; all else is to be ignored.
            _ => {}
        }
    }

    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let kind = mem::take(&mut self.kind);
        let mut data = mem::take(&mut self.data);
        // Only the last of the joining line feeds is one too many; no data lines, no event.
        if data.pop().is_none() && !names_an_error(&kind) {
            return;
        }
        events.push(Event {
            kind: text(kind),
            data: text(data),
            last_id: text(self.last_id.clone()),
        });
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
