//! Locks in a shared store: who may bid on a posting. It knows nothing of Python.
//!
//! A [`Manager`] takes locks by name on one database. All managers of a database in one process share an [`Engine`], where
//! callers queue; the engine talks to a [`Store`](store::Store), of which there is one for each kind of database. What is
//! acquired is a [`Grant`] (held until it expires or is released by name) or a [`Lease`] (kept by renewal, released with the
//! value). Everything runs inside an ambient tokio runtime; nothing here is global to the process.

mod boot_time;
mod database_url;
mod engine;
mod error;
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

pub use database_url::{DEFAULT_URL, Database, Options};
pub use engine::Grant;
pub use error::LockError;
pub use inspection::{Inspection, Tables, inspect, look};
pub use lease::{Keeping, Lease};
pub use manager::{Manager, Wanted};
pub use manager_slot::ManagerSlot;
pub use names::{LockName, holder, lasting_time, waiting_time};
pub use offer::Offer;
pub use operation::LockRow;
pub use registry::Registry;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
