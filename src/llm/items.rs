//! What is handed over of a stream: pieces of text, or whole chunks.

use serde_json::Value;

/// One event's JSON object.
pub type Chunk = Value;

/// What batches are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Pieces of the first choice's text.
    Texts,
    /// Whole chunks.
    Chunks,
}

/// What a batch holds.
#[derive(Debug, PartialEq)]
pub enum Items {
    Texts(Vec<String>),
    Chunks(Vec<Chunk>),
}

/// Some of a stream's items; at least one when it is handed over.
#[derive(Debug, PartialEq)]
pub struct Batch {
    pub items: Items,
    /// How long the events were that have been read for it: about what it keeps in memory.
    pub bytes: usize,
}

impl Batch {
    /// No items, to be added to.
    pub fn new(shape: Shape) -> Self {
        Self {
            items: match shape {
                Shape::Texts => Items::Texts(Vec::new()),
                Shape::Chunks => Items::Chunks(Vec::new()),
            },
            bytes: 0,
        }
    }

    /// Whether it holds nothing yet.
    pub fn is_empty(&self) -> bool {
        match &self.items {
            Items::Texts(texts) => texts.is_empty(),
            Items::Chunks(chunks) => chunks.is_empty(),
        }
    }

    /// Adds what came later. A stream's batches are all of one shape.
    pub fn append(&mut self, more: Self) {
        self.bytes += more.bytes;
        match (&mut self.items, more.items) {
            (Items::Texts(texts), Items::Texts(more)) => texts.extend(more),
            (Items::Chunks(chunks), Items::Chunks(more)) => chunks.extend(more),
            (Items::Texts(_), Items::Chunks(_)) | (Items::Chunks(_), Items::Texts(_)) => {}
        }
    }
}
