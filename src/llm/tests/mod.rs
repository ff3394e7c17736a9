//! Tests of the client.

mod answers;
mod breaker;
mod calls;
mod limits;
mod retries;
mod server;
mod sse;
mod streams;
