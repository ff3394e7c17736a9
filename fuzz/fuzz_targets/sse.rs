//! No bytes, however they are cut, make the SSE decoder or the chunk reader panic, and the cuts make no difference.
//!
//! An input is eight bytes that decide where to cut, and the stream.
#![no_main]

use arbitrageai_native::fuzzing::{Batch, ChunkReader, Decoder, Event, Items, Received, Shape, text};
use libfuzzer_sys::fuzz_target;

const LONGEST_EVENT: usize = 512;
const LONGEST_PART: u64 = 16;

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first_chunk() else { return };
    let parts = cut(bytes, u64::from_le_bytes(*seed));
    assert_eq!(decode(&parts), decode(&[bytes]));
    for shape in [Shape::Texts, Shape::Chunks] {
        assert_eq!(read(&parts, shape), read(&[bytes], shape));
    }
    let (chunks, end_of_chunks) = read(&[bytes], Shape::Chunks);
    let (pieces, end_of_pieces) = read(&[bytes], Shape::Texts);
    let (from_chunks, pieces) = (texts(chunks), texts(pieces));
    // What callers don't see is looked at only if they want to see all of it: numbers beyond any float, endless nesting.
    assert!(pieces.starts_with(&from_chunks));
    if end_of_chunks.is_ok() {
        assert_eq!((pieces, end_of_pieces), (from_chunks, end_of_chunks));
    }
});

/// Parts of pseudo-random lengths, some of them empty.
fn cut(mut bytes: &[u8], seed: u64) -> Vec<&[u8]> {
    let mut random = seed | 1;
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        // Marsaglia's xorshift.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let length = (random % LONGEST_PART) as usize;
        let (part, rest) = bytes.split_at(length.min(bytes.len()));
        parts.push(part);
        bytes = rest;
    }
    parts
}

/// The events, if none was too long.
fn decode(parts: &[&[u8]]) -> Option<Vec<Event>> {
    let mut decoder = Decoder::new(LONGEST_EVENT);
    let mut events = Vec::new();
    for part in parts {
        decoder.feed(part, &mut events).ok()?;
    }
    Some(events)
}

/// The items up to the first error, and how the stream ended.
fn read(parts: &[&[u8]], shape: Shape) -> (Batch, Result<(), String>) {
    let mut reader = ChunkReader::new(200, LONGEST_EVENT, Received::default());
    let mut batch = Batch::new(shape);
    for part in parts {
        if let Err(error) = reader.feed(part, &mut batch) {
            return (batch, Err(error.to_string()));
        }
        if reader.is_done() {
            break;
        }
    }
    let end = reader.end(None).map_err(|error| error.to_string());
    (batch, end)
}

/// The texts of a batch of either shape.
fn texts(batch: Batch) -> Vec<String> {
    match batch.items {
        Items::Texts(texts) => texts,
        Items::Chunks(chunks) => chunks.iter().filter_map(|chunk| text(chunk).ok().flatten()).collect(),
    }
}
