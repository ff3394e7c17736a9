//! `arbitrageai_native`: LLM calls and database locks for asyncio that never block the event loop.
//!
//! Data flows one way: Python arguments -> `python` (the bindings) -> [`llm`] or [`lock`] (the core, which knows nothing of
//! Python) -> the network -> the core -> `bridge` -> a Python awaitable.

#![cfg_attr(
    not(feature = "python"),
    allow(dead_code, unused_imports, reason = "only the bindings call all of the core")
)]

mod figures;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod llm;
pub(crate) mod lock;
pub(crate) mod monitor;
mod mutex;
mod notices;
pub(crate) mod printable;
pub(crate) mod versions;

#[cfg(feature = "python")]
pub(crate) mod bridge;
#[cfg(feature = "python")]
pub(crate) mod python;

#[cfg(feature = "python")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "python")]
#[pyo3::pymodule(gil_used = true)]
mod _native {
    use pyo3::prelude::*;

    #[cfg(feature = "probe")]
    #[pymodule_export]
    use crate::bridge::probe::{Guard, Probe};
    #[pymodule_export]
    use crate::bridge::{Awaitable, Inbox, turn, watch::LoopWatch, worker_threads};
    #[pymodule_export]
    use crate::python::{
        diagnosis::{ask_for_models, inspect_database, libraries, printable, trusted_certificates},
        errors::{circuit_open, deadline_passed},
        health::EndpointHealth,
        lease::{Lease, LockGrant},
        llm::{ChatClient, ask_for_health, requests_under_way, sleep},
        lock::{LockManager, release_all_locks},
        lock_terms::check_lock_settings,
        metrics::{CallCount, CallMetrics, process_metrics},
        options::CallOptions,
        stream::{ChatStream, Iteration},
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::bridge::install(module.py(), crate::python::notices::deliver)
    }
}
