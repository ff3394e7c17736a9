//! The one place where the core's errors become Python exceptions.
//!
//! The exception classes are Python's (`arbitrageai_native.exceptions`): multiple inheritance works there, so that a timeout
//! can be a `TimeoutError` as well.

mod llm;
mod lock;

pub(super) use llm::{invalid_type, invalid_value};
