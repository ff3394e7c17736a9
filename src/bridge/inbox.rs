//! The completion inbox of an event loop.
//!
//! Workers push the numbers of ended calls on a lock-free queue; the loop's thread drains it in one
//! callback. A thousand completions cost one wake-up of the loop and no acquisition of the GIL. The
//! inbox hangs on the loop object and dies with it; a completion for a loop that is gone falls on a
//! queue that nobody reads, and is freed with it.

use std::sync::{Arc, Mutex, MutexGuard};

#[cfg(unix)]
use pyo3::exceptions::PyNotImplementedError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{PyTraverseError, intern};
use slab::Slab;
use tokio::sync::Notify;

use super::mail::{Mail, Ticket};
use super::outbox::{self, Outbox, Task, Work};
use super::portable;
use super::process::ProcessBound;
use super::runtime::runtime;
use super::wakeup::Wakeup;
use crate::mutex::lock;

/// How many calls one drain resumes. The tasks it wakes all run in the loop's next iteration,
/// before its timers and sockets are looked at again: the bound keeps a burst of completions from
/// being a stall itself.
const BATCH: usize = 64;

/// How many calls may start between two drains before [`turn`](super::awaitable::turn) makes
/// further ones wait. Above `BATCH`, so that tasks which make one call after another never wait for
/// a turn.
const CROWD: usize = 2 * BATCH;

/// The loop's side: the waiters, and the queue that says which of them to wake.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct Inbox {
    mail: ProcessBound<Arc<Mail>>,
    outbox: ProcessBound<Outbox>,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    futures: Slab<Py<PyAny>>,
    /// Calls that were started since the last drain.
    started: usize,
    /// Whether a portable wake-up is under way. Always true for a loop that polls the descriptor.
    armed: bool,
}

/// A call that the running loop is about to wait for.
pub(super) struct Expected<'py> {
    inbox: Bound<'py, Inbox>,
    event_loop: Bound<'py, PyAny>,
    /// To be dropped when the call has ended.
    pub(super) ticket: Ticket,
    /// The `asyncio.Future` that is resolved then: what the running task yields.
    pub(super) waiter: Bound<'py, PyAny>,
    /// Whether no other call has started since the last drain.
    is_first: bool,
}

/// Makes the running loop's inbox expect the end of one call.
///
/// # Errors
/// `RuntimeError` if no loop is running in this thread.
pub(super) fn expect(py: Python<'_>) -> PyResult<Expected<'_>> {
    let event_loop = running_loop(py)?;
    let (inbox, mail) = of_loop(&event_loop)?;
    let waiter = event_loop.call_method0(intern!(py, "create_future"))?;
    let (number, armed, is_first) = {
        let mut waiters = inbox.get().waiters();
        let is_first = waiters.started == 0;
        waiters.started += 1;
        let number = waiters.futures.insert(waiter.clone().unbind());
        (number, std::mem::replace(&mut waiters.armed, true), is_first)
    };
    // The ticket exists before anything can fail: dropped by an error, it takes the waiter out
    // again.
    let ticket = Ticket::new(mail, number);
    if !armed {
        Inbox::arm(&inbox, &event_loop, ticket.mail())?;
    }
    // By this attribute a task recognises a future that it was given by an await, and waits for it.
    waiter.setattr(intern!(py, "_asyncio_future_blocking"), true)?;
    Ok(Expected {
        inbox,
        event_loop,
        ticket,
        waiter,
        is_first,
    })
}

/// Starts a call on the runtime. Returns what the running task yields, as a future's own
/// `__await__` does, to be resumed when the call has ended.
///
/// # Errors
/// `RuntimeError` if no loop is running in this thread, or the runtime can't start.
pub(super) fn start(py: Python<'_>, work: Work) -> PyResult<Bound<'_, PyAny>> {
    // First, because it may fail: then no waiter has been made.
    let runtime = runtime()?;
    let expected = expect(py)?;
    let inbox = &expected.inbox;
    let task = Task {
        work,
        ticket: expected.ticket,
    };
    match inbox.get().outbox.get() {
        // Only calls on the heels of another one are gathered: a lone call would wait for nobody.
        Some(outbox) if !expected.is_first => {
            if outbox.gather(runtime, task) {
                let flush = inbox.getattr(intern!(py, "flush"))?;
                let event_loop = &expected.event_loop;
                event_loop.call_method1(intern!(py, "call_soon"), (flush,))?;
            }
        }
        _ => outbox::send(runtime, task),
    }
    Ok(expected.waiter)
}

/// Whether the running loop has started so many calls since its last drain that further ones had
/// better wait.
///
/// # Errors
/// `RuntimeError` if no loop is running in this thread.
pub(super) fn is_crowded(py: Python<'_>) -> PyResult<bool> {
    let (inbox, _) = of_loop(&running_loop(py)?)?;
    Ok(inbox.get().waiters().started >= CROWD)
}

pub(super) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET_RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET_RUNNING_LOOP
        .import(py, "asyncio", "get_running_loop")?
        .call0()
}

/// The loop's inbox, made at the loop's first call. It is an attribute of the loop, so that it
/// lives exactly as long.
fn of_loop<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, Inbox>, Arc<Mail>)> {
    let attribute = intern!(event_loop.py(), "_arbitrageai_native_inbox");
    if let Some(found) = event_loop.getattr_opt(attribute)? {
        let inbox = found.cast_into::<Inbox>()?;
        let mail = inbox.get().mail.get().cloned();
        if let Some(mail) = mail {
            return Ok((inbox, mail));
        } // else: a loop inherited through a fork; its inbox stays the parent's
    }
    let (inbox, mail) = Inbox::register(event_loop)?;
    event_loop.setattr(attribute, &inbox)?;
    Ok((inbox, mail))
}

impl Inbox {
    fn register<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, Self>, Arc<Mail>)> {
        #[cfg(unix)]
        match Self::register_descriptor(event_loop) {
            Err(error) if error.is_instance_of::<PyNotImplementedError>(event_loop.py()) => {}
            registered => return registered,
        }
        Self::new(event_loop.py(), Wakeup::Portable(Arc::new(Notify::new())))
    }

    #[cfg(unix)]
    fn register_descriptor<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, Self>, Arc<Mail>)> {
        let py = event_loop.py();
        let descriptor = super::wakeup::descriptor::Descriptor::new()?;
        let number = descriptor.number();
        let (inbox, mail) = Self::new(py, Wakeup::Descriptor(descriptor))?;
        let drain = inbox.getattr(intern!(py, "drain"))?;
        event_loop.call_method1(intern!(py, "add_reader"), (number, drain))?;
        inbox.get().waiters().armed = true;
        Ok((inbox, mail))
    }

    fn new(py: Python<'_>, wakeup: Wakeup) -> PyResult<(Bound<'_, Self>, Arc<Mail>)> {
        let mail = Arc::new(Mail::new(wakeup));
        let inbox = Self {
            mail: ProcessBound::new(mail.clone()),
            outbox: ProcessBound::new(Outbox::default()),
            waiters: Mutex::default(),
        };
        Ok((Bound::new(py, inbox)?, mail))
    }

    /// Starts a portable wake-up: one is under way exactly while calls are, so that nothing pins a
    /// loop that is idle.
    fn arm(inbox: &Bound<'_, Self>, event_loop: &Bound<'_, PyAny>, mail: &Mail) -> PyResult<()> {
        let Wakeup::Portable(notify) = &mail.wakeup else {
            return Ok(());
        };
        let armed = portable::wakeup(event_loop, notify.clone()).and_then(|wakeup| {
            let drain = inbox.getattr(intern!(event_loop.py(), "drain"))?;
            wakeup.call_method1(intern!(event_loop.py(), "add_done_callback"), (drain,))
        });
        // After a failure (the threads can't start) the next call has to try again.
        if armed.is_err() {
            inbox.get().waiters().armed = false;
        }
        armed.map(drop)
    }

    /// Held for a few instructions, always under the GIL, and never while Python code runs: neither
    /// a fork nor another thread can find it locked for long.
    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        lock(&self.waiters)
    }
}

#[pymethods]
impl Inbox {
    /// Resumes what waits for the calls that have ended. The loop calls it, with the wake-up future
    /// on the portable way.
    #[pyo3(signature = (_wakeup = None))]
    fn drain(slf: &Bound<'_, Self>, _wakeup: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(mail) = this.mail.get() else {
            return Ok(()); // a forked child runs on with its parent's loop
        };
        mail.open();
        this.waiters().started = 0;
        for _ in 0..BATCH {
            let Some(number) = mail.pop() else { break };
            // The lock is free again before Python code runs: `set_result` calls the loop's
            // `call_soon`.
            let ended = this.waiters().futures.try_remove(number);
            if let Some(waiter) = ended {
                // A waiter that was cancelled in the meantime refuses its result, which is as it
                // should be.
                let _ = waiter.call_method1(py, intern!(py, "set_result"), (py.None(),));
            }
        }
        // What is left is resumed in the loop's next iteration: timers and sockets come in between.
        if !mail.is_empty() {
            mail.wake();
        }
        super::process::afterwards(py);
        this.rearm(slf, mail)
    }

    /// Hands over the calls that were gathered. The loop calls it when it has run what was ready
    /// when the first of them was made.
    fn flush(&self) -> PyResult<()> {
        if let Some(outbox) = self.outbox.get() {
            outbox.flush(runtime()?);
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A lock that is taken means that the owner is alive: then nothing here is garbage.
        if let Ok(waiters) = self.waiters.try_lock() {
            for (_, waiter) in &waiters.futures {
                visit.call(waiter)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        // Taken out under the lock, freed outside of it: a future's end may run Python code.
        let futures = std::mem::take(&mut self.waiters().futures);
        drop(futures);
    }
}

impl Inbox {
    fn rearm(&self, slf: &Bound<'_, Self>, mail: &Mail) -> PyResult<()> {
        if !matches!(mail.wakeup, Wakeup::Portable(_)) {
            return Ok(());
        }
        let calls_in_flight = {
            let mut waiters = self.waiters();
            waiters.armed = !waiters.futures.is_empty();
            waiters.armed
        };
        if calls_in_flight {
            Self::arm(slf, &running_loop(slf.py())?, mail)?;
        }
        Ok(())
    }
}
