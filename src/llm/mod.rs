//! The client of OpenAI-compatible model servers. It knows nothing of Python.
//!
//! A [`Call`] is made of an HTTP request (from an [`Endpoint`]), [`CallOptions`], and what it shares with other calls: a
//! [`Transport`], an endpoint's [`SharedHealth`], its [figures](crate::figures). It answers with a [`Completion`] or a [`ChatStream`](stream::ChatStream). All of it
//! runs inside an ambient tokio runtime, holds no process-wide state, and no setting of its own comes from the environment: only
//! certificates and proxies do, by the variables that everybody uses for them.

pub(crate) mod answer;
mod asides;
mod attempt;
mod body;
mod call;
pub(crate) mod chunks;
mod circuit_news;
mod content_coding;
mod delta;
mod endpoint;
pub(crate) mod error;
mod health;
pub(crate) mod items;
mod json;
mod limit;
mod options;
mod outgoing;
mod probe;
mod proxies;
mod read_ahead;
pub(crate) mod received;
mod reported;
pub(crate) mod retry;
mod route;
pub(crate) mod sse;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod transports;
mod under_way;
mod usage;

pub(crate) use self::answer::{Answer, Completion, Used};
pub(crate) use self::call::{Call, Timed};
pub(crate) use self::circuit_news::{CircuitChange, CircuitNews, CircuitState};
pub(crate) use self::endpoint::{Endpoint, Extras, Headers};
pub(crate) use self::error::{Error, StatusError, TimeoutKind};
pub(crate) use self::health::{CallOutcome, EndpointHealth, SharedHealth, Timestamp, now};
pub(crate) use self::items::{Batch, Items, Shape};
pub(crate) use self::options::{CallOptions, IdempotencyKey};
pub(crate) use self::outgoing::{Members, Outgoing};
pub(crate) use self::probe::{ask_for_health, ask_for_models};
pub(crate) use self::proxies::proxy_url;
pub(crate) use self::read_ahead::{Loop, ReadAhead};
pub(crate) use self::received::Received;
pub(crate) use self::route::Route;
pub(crate) use self::transport::{TransportSettings, trusted_certificates};
pub(crate) use self::transports::Transports;
pub(crate) use self::usage::Usage;
pub(crate) use crate::figures::Metrics;
