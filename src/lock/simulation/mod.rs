//! A simulation of the lock engine: the real engines, leases and tasks over a simulated database, in simulated time.
//!
//! A seed decides everything: who wants what, how long every statement travels, which are lost, late or repeated, when a
//! process pauses or dies. After every step a judge looks at what must hold. A seed that fails prints its history, and is
//! shrunk to the few steps and faults without which it does not fail.
//!
//! - `cargo test --no-default-features simulation` tries the seeds of the test command, explores every order of events on one
//!   key, and looks for the planted faults;
//! - `SIMULATION_SEED=N cargo test --no-default-features simulation::tests::one_seed -- --ignored --nocapture` replays a seed;
//! - `SIMULATION_SEEDS=1000000 cargo test --release --no-default-features simulation::tests::many_seeds -- --ignored --nocapture`
//!   is the long form, and `simulation::tests::no_order_of_events_violates_anything_in_full` the larger exploration.
//!
//! What is not simulated: several connections of one store, whose effects are the faults [`Fault::Twice`](scenario::Fault) and
//! [`Fault::Late`](scenario::Fault); and what a forked child finds of its parent's, since the bridge keeps the core out of it: the
//! child begins with nothing.

mod adapter;
mod chance;
mod client;
pub(super) mod context;
mod database;
mod exhaustive;
mod judge;
pub(super) mod plants;
mod run;
mod scenario;
mod shrink;
#[cfg(test)]
mod tests;
mod world;
