//! `arbitrageai_native`: LLM calls and database locks for asyncio that never block the event loop.
//!
//! Data flows one way: Python arguments -> [`python`] (the bindings) -> [`llm`] or [`lock`] (the core, which knows nothing
//! of Python) -> the network -> the core -> [`bridge`] -> a Python awaitable.

pub mod llm;
pub mod lock;

#[cfg(feature = "python")]
#[allow(
    unsafe_code,
    reason = "descriptors, fork handlers: the one place that needs them"
)]
pub mod bridge;
#[cfg(feature = "python")]
pub mod python;
