//! The bindings: Python arguments in, results and errors out, no logic.

pub mod convert;
pub mod diagnosis;
pub mod errors;
pub mod health;
pub mod llm;
pub mod lock;
pub mod metrics;
pub mod notices;
pub mod options;
pub mod stream;
pub mod text;
