//! What the fuzz targets call. Nothing else of the core can be reached from outside the crate.

pub use crate::llm::answer::Answer;
pub use crate::llm::chunks::{ChunkReader, text};
pub use crate::llm::error::Error;
pub use crate::llm::items::{Batch, Items, Shape};
pub use crate::llm::received::Received;
pub use crate::llm::retry::RetryPolicy;
pub use crate::llm::sse::{Decoder, Event};
