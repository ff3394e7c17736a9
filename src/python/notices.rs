//! Hands what the core has to report to Python's logging.

use pyo3::intern;
use pyo3::prelude::*;

use crate::llm::CircuitChange;

/// Logs the notices that wait. Called where a thread has the GIL anyway; nearly always there are none, which costs a few loads.
pub fn deliver(py: Python<'_>) {
    let process = super::process::process();
    for notice in process.locks.notices().take() {
        let level = if notice.is_good() { "info" } else { "warning" };
        // An application's own handler or filter may raise: that must fail no call and no loop.
        if let Err(error) = log(py, level, &notice.to_string()) {
            error.write_unraisable(py, None);
        }
    }
    for change in process.circuits.take() {
        if let Err(error) = log_circuit(py, &change) {
            error.write_unraisable(py, None);
        }
    }
}

fn log_circuit(py: Python<'_>, change: &CircuitChange) -> PyResult<()> {
    let health = py.import(intern!(py, "arbitrageai_native.llm_health_check"))?;
    let arguments = (
        &change.endpoint,
        change.state.name(),
        change.failures,
        &change.error,
    );
    health
        .call_method1(intern!(py, "_log_circuit"), arguments)
        .map(drop)
}

fn log(py: Python<'_>, level: &str, text: &str) -> PyResult<()> {
    // A server's own text may quote a URL with a password.
    let safe_text = py.import(intern!(py, "arbitrageai_native._safe_text"))?;
    let text = safe_text.call_method1(intern!(py, "without_credentials"), (text,))?;
    let logging = py.import(intern!(py, "logging"))?;
    let logger = logging.call_method1(intern!(py, "getLogger"), ("arbitrageai_native.locks",))?;
    logger.call_method1(level, (text,)).map(drop)
}
