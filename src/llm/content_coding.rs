//! Decodes a body that a server compressed, part by part.
//!
//! No request asks for compression, but a server may choose it all the same (RFC 9110, section
//! 12.5.3), and some gateways do. A decoded part is small, whatever the server sends: a kilobyte
//! can stand for a megabyte, and the caller counts what comes out.

use std::io::Write;

use bytes::Bytes;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

/// How many bytes are decoded at a time: they become at most about a megabyte.
const STEP: usize = 1024;

/// A body that is being decoded.
pub(super) struct Decoder {
    coding: Coding,
    /// Received, and not decoded yet.
    pending: Bytes,
    is_finished: bool,
}

enum Coding {
    Gzip(MultiGzDecoder<Vec<u8>>),
    Zlib(ZlibDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
    /// `deflate` means zlib's format; some servers send the bare one. The first byte tells.
    Undecided,
}

impl Decoder {
    /// The decoder for an answer with these headers; `None` for one that was not compressed.
    ///
    /// # Errors
    /// The coding, if it is none of those that are known here.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let mut coding = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            for name in value.split(',').map(str::trim) {
                let next = match name {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Coding::Gzip(MultiGzDecoder::new(Vec::new())),
                    "deflate" => Coding::Undecided,
                    _ => return Err(value),
                };
                if coding.replace(next).is_some() {
                    return Err(value); // compressed twice
                }
            }
        }
        Ok(coding.map(|coding| Self {
            coding,
            pending: Bytes::new(),
            is_finished: false,
        }))
    }

    /// Takes what was received. All that was received before has to be decoded.
    pub fn push(&mut self, received: Bytes) {
        self.pending = received;
    }

    /// Decodes a little of what was received. Returns `None` if more has to be received.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn decode(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(first) = self.pending.first() {
            if matches!(self.coding, Coding::Undecided) {
                self.coding = if first & 0x0f == 8 && first >> 4 <= 7 {
                    Coding::Zlib(ZlibDecoder::new(Vec::new()))
                } else {
                    Coding::Deflate(DeflateDecoder::new(Vec::new()))
                };
            }
            let step = self.pending.split_to(STEP.min(self.pending.len()));
            let written = match &mut self.coding {
                Coding::Gzip(decoder) => written(decoder, &step),
                Coding::Zlib(decoder) => written(decoder, &step),
                Coding::Deflate(decoder) => written(decoder, &step),
                Coding::Undecided => Ok(()),
            };
            written.map_err(|error| format!("the compressed body is damaged: {error}"))?;
            let decoded = self.take();
            if !decoded.is_empty() {
                return Ok(Some(decoded));
            }
        }
        Ok(None)
    }

    /// Returns what is left when the body has ended; `None` the second time.
    ///
    /// # Errors
    /// The body ended too early, or its checksum is wrong.
    pub fn finish(&mut self) -> Result<Option<Bytes>, String> {
        if std::mem::replace(&mut self.is_finished, true) {
            return Ok(None);
        }
        let finished = match &mut self.coding {
            Coding::Gzip(decoder) => decoder.try_finish(),
            Coding::Zlib(decoder) => decoder.try_finish(),
            Coding::Deflate(decoder) => decoder.try_finish(),
            Coding::Undecided => Ok(()),
        };
        finished.map_err(|error| format!("the compressed body ended too early: {error}"))?;
        Ok(Some(self.take()).filter(|rest| !rest.is_empty()))
    }

    fn take(&mut self) -> Bytes {
        let decoded = match &mut self.coding {
            Coding::Gzip(decoder) => decoder.get_mut(),
            Coding::Zlib(decoder) => decoder.get_mut(),
            Coding::Deflate(decoder) => decoder.get_mut(),
            Coding::Undecided => return Bytes::new(),
        };
        std::mem::take(decoded).into()
    }
}

/// Flushed, so that an event of a stream does not wait in the decoder for the next one.
fn written(decoder: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    decoder.write_all(bytes)?;
    decoder.flush()
}
