//! Tests of the client.

mod answers;
mod breaker;
mod calls;
mod chunks;
mod json;
mod limits;
mod read_ahead;
mod requests;
mod retries;
mod server;
mod sse;
mod stream_model;
mod streams;
