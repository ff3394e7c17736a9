//! Locks in a shared store: who may bid on a posting. It knows nothing of Python.
//!
//! A [`Manager`] takes locks by name on one database. All managers of a database in one process share an [`Engine`], where
//! callers queue; the engine talks to a [`Store`](store::Store), of which there is one for each kind of database. What is
//! acquired is a [`Grant`] (held until it expires or is released by name) or a [`Lease`] (kept by renewal, released with the
//! value). Everything runs inside an ambient tokio runtime; nothing here is global to the process.
//!
//! The words:
//!
//! - *acquisition*: one attempt to take a lock, and what comes of it. Its *id*, made anew each time, stands in the row and
//!   says whose the row is; the *holder* is only the name that it goes under.
//! - *expiry*: when a row expires, by the database's clock. At its expiry, a row is free.
//! - *trusted until*: until when a holder may believe in its lock, by a clock of this machine that nobody sets. It is never
//!   later than the expiry; by a *margin*, it is sooner.
//! - *lost*: its holder had not released the lock, and it expired, or its row was deleted or taken.
//! - *in doubt*: a statement whose answer was lost may have been carried out, or may yet be.
//! - *hand-off*: a release that gives the row to a waiter of the same process, so that nobody else finds it free. An
//!   *optimistic* hand-off takes place in memory before the database has answered.
//! - *fencing token*: a number that grows with every acquisition of a key.
//! - *news*: what the store tells unasked, that a lock may be free. The *poller* makes up for missed news.
//!
//! The rule of the time to live stands in `lease/time.rs`, and once in each store in its own language.

mod boot_time;
mod database_url;
mod engine;
mod error;
mod held_by;
mod inspection;
mod lease;
mod manager;
mod manager_slot;
mod names;
mod offer;
mod operation;
mod registry;
mod reporter;
pub mod store;
mod surroundings;

pub use database_url::{DEFAULT_URL, Database, Options, connections};
pub use engine::Grant;
pub use error::LockError;
pub use held_by::name_holder;
pub use inspection::{Inspection, Tables, inspect, look};
pub use lease::{Keeping, Lease};
pub use manager::{Manager, Wanted};
pub use manager_slot::ManagerSlot;
pub use names::{LockName, holder, lasting_time, waiting_time};
pub use offer::Offer;
pub use operation::LockRow;
pub use registry::Registry;
pub use store::sqlite::{close_files, unused_files_are_closed};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
