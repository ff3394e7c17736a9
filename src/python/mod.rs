//! The bindings: Python arguments in, results and errors out, no logic.

pub mod errors;
pub mod lock;
