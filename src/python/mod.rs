//! The bindings: Python arguments in, results and errors out, no logic.

pub mod diagnosis;
pub mod errors;
pub mod health;
pub mod lease;
pub mod llm;
pub mod lock;
pub mod metrics;
pub mod notices;
pub mod options;
pub mod stream;

mod call;
mod convert;
mod json;
pub mod lock_terms;
mod process;
