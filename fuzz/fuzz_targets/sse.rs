//! No bytes, however they are cut, make the SSE decoder or the chunk reader panic, and the cuts make no difference.
#![no_main]

use arbitrageai_native::llm::sse::{Decoder, Event};
use arbitrageai_native::llm::{Chunk, ChunkReader};
use libfuzzer_sys::fuzz_target;

const LONGEST_EVENT: usize = 4096;

fuzz_target!(|input: (Vec<u8>, Vec<u16>)| {
    let (bytes, cuts) = input;
    let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| usize::from(cut) % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
    assert_eq!(decode(&parts), decode(&[&bytes]));
    assert_eq!(read(&parts), read(&[&bytes]));
});

/// The events, if none was too long.
fn decode(parts: &[&[u8]]) -> Option<Vec<Event>> {
    let mut decoder = Decoder::new(LONGEST_EVENT);
    let mut events = Vec::new();
    for part in parts {
        decoder.feed(part, &mut events).ok()?;
    }
    Some(events)
}

/// The chunks up to the first error, and whether the stream ended as it should.
fn read(parts: &[&[u8]]) -> Option<(Vec<Chunk>, bool)> {
    let mut reader = ChunkReader::new(200, LONGEST_EVENT);
    let mut chunks = Vec::new();
    for part in parts {
        reader.feed(part, &mut chunks).ok()?;
    }
    let complete = reader.end(None).is_ok();
    Some((chunks, complete))
}
