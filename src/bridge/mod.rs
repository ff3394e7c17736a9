//! Rust futures as Python awaitables.
