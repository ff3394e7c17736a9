//! Rust futures as Python awaitables.
//!
//! Everything in the package that crosses from tokio to Python does so through the calls of this
//! module: [`awaitable`] and [`receive`] for asyncio, [`block_on`] for a thread that may wait, and
//! [`Wait`] for what is offered both ways. Nothing else touches an event loop.
//!
//! An [`awaitable`] starts its future on the tokio [`runtime`] when it is first awaited. When the
//! future ends, the worker that ran it pushes a number on the loop's [`inbox`] and, unless a
//! wake-up is already on its way, writes the inbox's descriptor. No worker ever waits for the GIL
//! or touches a Python object: the loop's own thread drains the inbox in one callback, wakes the
//! tasks that wait, and each task turns its own result into Python objects when it resumes.
//!
//! ```text
//!  loop's thread                                         tokio worker
//!  await ──> Awaitable ── spawn ───────────────────────> future … ends
//!             │ yields a waiter (asyncio.Future)            │ result -> one-shot channel
//!             ▼                                             ▼ number -> Inbox queue
//!            suspended <── set_result ── Inbox.drain <── descriptor (once per batch)
//!             │
//!             ▼ resumes: takes the result, converts it, returns it
//! ```
//!
//! Cancelling is dropping. An exception thrown into the awaitable, its `close()` and its
//! deallocation all abort the tokio task and drop a result that was delivered but never received. A
//! result that must not be lost therefore owns a guard whose `Drop` undoes the work.
//!
//! Forking is starting afresh. See [`process`], and [`state`] for what a child makes anew.

mod awaitable;
mod blocking;
mod dict;
mod inbox;
mod mail;
mod outbox;
mod portable;
#[cfg(feature = "probe")]
pub(crate) mod probe;
mod process;
mod runtime;
mod state;
mod wait;
mod wakeup;
pub(crate) mod watch;

pub(crate) use awaitable::{Awaitable, NOTHING, awaitable, receive, turn};
pub(crate) use blocking::block_on;
pub(crate) use dict::dict;
pub(crate) use inbox::Inbox;
pub(crate) use mail::calls_under_way;
pub(crate) use process::{PerProcess, ProcessBound, install};
pub(crate) use runtime::{enter, spawn, worker_threads};
pub(crate) use wait::Wait;
