//! The client of OpenAI-compatible model servers. It knows nothing of Python.
//!
//! A [`Call`] is made of a [`ChatRequest`] (from an [`Endpoint`]), [`CallOptions`], and what it shares with other calls: a
//! [`Transport`], an endpoint's [`SharedHealth`], [`Metrics`], [`Totals`]. It answers with a [`Completion`] or a [`ChatStream`]. All of it
//! runs inside an ambient tokio runtime, holds no process-wide state, and no setting of its own comes from the environment: only
//! certificates and proxies do, by the variables that everybody uses for them.

mod answer;
mod call;
mod chunks;
mod count;
mod delta;
mod endpoint;
mod error;
mod exchange;
mod health;
mod items;
mod limit;
mod metrics;
mod options;
mod probe;
mod read_ahead;
mod reported;
mod retry;
pub mod sse;
mod stream;
#[cfg(test)]
mod tests;
mod totals;
mod transport;
mod transports;

pub use answer::{Completion, Usage, Used};
pub use call::{Call, Timed};
pub use chunks::{ChunkReader, MOST_CHOICES, Summary, text};
pub use count::Count;
pub use endpoint::{ChatRequest, Endpoint, Extras, http_url};
pub use error::{Error, StatusError, TimeoutKind};
pub use exchange::{Answer, LONGEST_ERROR_BODY, status_error};
pub use health::{
    Admission, CallOutcome, CircuitState, EndpointHealth, Permit, RESPONSE_TIMES_KEPT, SharedHealth,
    Timestamp, now,
};
pub use items::{Batch, Chunk, Items, Shape};
pub use metrics::{FAILURE_KINDS, LATENCY_BOUNDS, Metrics, Snapshot};
pub use options::{CallOptions, IdempotencyKey};
pub use probe::{ask_for_models, is_healthy};
pub use read_ahead::{GRACE, Loop, ReadAhead};
pub use retry::{RetryHint, RetryPolicy};
pub use stream::ChatStream;
pub use totals::{MODELS_KEPT, OTHER_MODELS, Totals};
pub use transport::{Transport, TransportSettings, trusted_certificates};
pub use transports::Transports;
