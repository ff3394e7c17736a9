//! Tests of the client.

mod answers;
mod breaker;
mod calls;
mod chunks;
mod limits;
mod read_ahead;
mod retries;
mod server;
mod sse;
mod streams;
