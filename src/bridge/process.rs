//! State that belongs to one process.
//!
//! gunicorn's `--preload`, celery's prefork pool and `multiprocessing` fork after the runtime has
//! started. A fork copies memory but only one thread: in the child the runtime has no workers, and
//! every mutex that a worker held stays locked for ever. So the child never touches what the parent
//! made. A counter, advanced in the child by the only thing that is safe to do there (a store to an
//! atomic), tells old values from new ones; the old ones are leaked on purpose.

#![allow(
    unsafe_code,
    reason = "the fork handler and the interpreter's number are C interfaces, and the slots own raw pointers"
)]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::{PyResult, Python, ffi};

/// How many forks lie between this process and the one that imported the package.
static GENERATION: AtomicU64 = AtomicU64::new(0);

fn generation() -> u64 {
    // Relaxed: the counter changes only while the child has one thread.
    GENERATION.load(Ordering::Relaxed)
}

/// What the bindings want called wherever a thread has the GIL anyway.
static AFTERWARDS: OnceLock<fn(Python<'_>)> = OnceLock::new();

/// Called when a loop has drained its inbox, and when a blocking call returns.
pub fn afterwards(py: Python<'_>) {
    if let Some(call) = AFTERWARDS.get() {
        call(py);
    }
}

/// Prepares the process for forking, and sets what [`afterwards`] calls. Called when the Python
/// module is imported; starts nothing.
///
/// # Errors
/// `ImportError` in a sub-interpreter: runtime and inboxes are the process's, and must not mix two
/// interpreters' objects.
pub fn install(_py: Python<'_>, then: fn(Python<'_>)) -> PyResult<()> {
    // SAFETY: the caller is attached to an interpreter, which is all that both calls ask for.
    let interpreter = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if interpreter != 0 {
        return Err(PyImportError::new_err(
            "arbitrageai_native works in the main interpreter only",
        ));
    }
    install_fork_handler();
    AFTERWARDS.get_or_init(|| then);
    Ok(())
}

#[cfg(unix)]
fn install_fork_handler() {
    static ONCE: std::sync::Once = std::sync::Once::new();

    // Nothing more may happen here: another thread may have held any lock at the fork, the
    // allocator's among them.
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }

    // SAFETY: the handler only stores to an atomic, which is async-signal-safe, and an extension
    // module is never unloaded.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
}

#[cfg(not(unix))]
fn install_fork_handler() {}

/// A value made once per process, at its first use, and made afresh in a forked child.
pub struct PerProcess<T> {
    slot: AtomicPtr<ProcessBound<T>>,
    owns: PhantomData<T>,
}

impl<T: Send + Sync> PerProcess<T> {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slot: AtomicPtr::new(ptr::null_mut()),
            owns: PhantomData,
        }
    }

    /// This process's value, made now if there is none yet. When threads race, one value wins and
    /// the others are dropped: there is no lock here that a fork could leave locked.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        let found = self.slot.load(Ordering::Acquire);
        // SAFETY: a non-null slot came from `Box::into_raw` below and is freed by `Drop` alone,
        // which has `&mut self`.
        if let Some(value) = unsafe { found.as_ref() }.and_then(ProcessBound::get) {
            return value;
        }
        let fresh = Box::into_raw(Box::new(ProcessBound::new(make())));
        let winner = match self
            .slot
            .compare_exchange(found, fresh, Ordering::AcqRel, Ordering::Acquire)
        {
            // `found` was an ancestor's. It is leaked: its locks may be held by threads that exist
            // there alone, and its connections are used there.
            Ok(_) => fresh,
            Err(winner) => {
                // SAFETY: `fresh` came from `Box::into_raw` above and was not published.
                drop(unsafe { Box::from_raw(fresh) });
                winner
            }
        };
        // SAFETY: as above; `winner` is what the slot holds.
        unsafe { &(*winner).value }
    }

    /// This process's value, if it has been made.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: as in `get_or_init`.
        unsafe { self.slot.load(Ordering::Acquire).as_ref() }?.get()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let made = *self.slot.get_mut();
        if !made.is_null() {
            // SAFETY: as in `get_or_init`; nothing borrows from `self` any more. An ancestor's value
            // stays undropped: it is bound to its process.
            drop(unsafe { Box::from_raw(made) });
        }
    }
}

/// A value of the process that made it: a task, a connection, a lease. A forked child can neither
/// reach nor drop it.
pub struct ProcessBound<T> {
    generation: u64,
    value: ManuallyDrop<T>,
}

impl<T> ProcessBound<T> {
    /// Binds `value` to this process.
    pub fn new(value: T) -> Self {
        Self {
            generation: generation(),
            value: ManuallyDrop::new(value),
        }
    }

    /// The value, unless this process is a forked child of the one that made it.
    pub fn get(&self) -> Option<&T> {
        (self.generation == generation()).then_some(&*self.value)
    }

    /// As [`Self::get`], to change it.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        (self.generation == generation()).then_some(&mut *self.value)
    }

    /// The value itself, under the same condition.
    pub fn into_inner(mut self) -> Option<T> {
        let ours = self.generation == generation();
        // SAFETY: `self` is forgotten right after, so the value is neither used nor dropped again.
        let value = ours.then(|| unsafe { ManuallyDrop::take(&mut self.value) });
        std::mem::forget(self);
        value
    }
}

impl<T> Drop for ProcessBound<T> {
    fn drop(&mut self) {
        if self.generation == generation() {
            // SAFETY: dropped once, here; `into_inner` forgets `self`.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}
