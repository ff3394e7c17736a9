//! The bindings of locks that were acquired. They stay with the process that acquired them.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;

use super::lock_terms::{Seconds, named};
use crate::bridge::{ProcessBound, Wait, awaitable, spawn};
use crate::lock::{self, Grant, LockError, Offer};
use crate::mutex::lock;

/// Why a forked child has lost its parent's lease.
const FOREIGN: &str = "it stays with the process that forked this one";

/// A lock that was won: released when dropped, unless it is kept.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct LockGrant(Mutex<Option<ProcessBound<Grant>>>);

impl LockGrant {
    pub(super) fn new(grant: Grant) -> Self {
        Self(Mutex::new(Some(ProcessBound::new(grant))))
    }
}

#[pymethods]
impl LockGrant {
    /// Keeps the lock until it expires or is released by name.
    fn keep(&self) {
        let grant = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(grant) = grant.and_then(ProcessBound::into_inner) {
            grant.keep();
        }
    }
}

/// A lock that is kept while this lives.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct Lease {
    lease: ProcessBound<Arc<lock::Lease>>,
    key: String,
    holder_id: String,
    fencing_token: i64,
    acquired_at: f64,
    /// What is called when it is lost. A task shares it only weakly: it is dropped with this value,
    /// under the GIL.
    on_loss: Arc<Mutex<Option<Py<PyAny>>>>,
}

/// Several leases, on their way to who asked for them.
pub(super) struct Leases(pub(super) Offer<Vec<lock::Lease>>);

impl<'py> IntoPyObject<'py> for Leases {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let leases: Vec<_> = self.0.pick_up()?.into_iter().map(Lease::new).collect();
        leases.into_pyobject(py)
    }
}

impl Lease {
    pub(super) fn new(lease: lock::Lease) -> Self {
        Self {
            key: lease.key().to_owned(),
            holder_id: lease.holder().to_owned(),
            fencing_token: lease.fencing_token(),
            acquired_at: lease.acquired_at(),
            lease: ProcessBound::new(Arc::new(lease)),
            on_loss: Arc::default(),
        }
    }

    fn foreign(&self) -> LockError {
        LockError::Lost {
            key: self.key.clone(),
            reason: FOREIGN.into(),
        }
    }

    fn renew_in<'py>(
        &self,
        py: Python<'py>,
        wait: Wait,
        ttl: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ttl: Option<Seconds> = ttl.map(|ttl| named(ttl, "ttl")).transpose()?;
        let ttl = ttl
            .map(|seconds| lock::lasting_time("ttl", seconds.0))
            .transpose()?;
        let lease = self.lease.get().cloned().ok_or_else(|| self.foreign())?;
        wait.run(py, async move { lease.renew(ttl).await })
    }

    fn release_in<'py>(&self, py: Python<'py>, wait: Wait) -> PyResult<Bound<'py, PyAny>> {
        // Begun now, so that it is carried through whatever becomes of the awaitable.
        let releasing = self.lease.get().map(|lease| lease.release());
        wait.run(py, async move {
            match releasing {
                Some(releasing) => releasing.await,
                None => Ok(false),
            }
        })
    }
}

#[pymethods]
impl Lease {
    #[getter]
    fn key(&self) -> &str {
        &self.key
    }

    #[getter]
    fn holder_id(&self) -> &str {
        &self.holder_id
    }

    #[getter]
    fn fencing_token(&self) -> i64 {
        self.fencing_token
    }

    #[getter]
    fn acquired_at(&self) -> f64 {
        self.acquired_at
    }

    #[getter]
    fn expires_at(&self) -> f64 {
        self.lease
            .get()
            .map_or(self.acquired_at, |lease| lease.expires_at())
    }

    #[getter]
    fn remaining(&self) -> f64 {
        self.lease
            .get()
            .map_or(0.0, |lease| lease.remaining().as_secs_f64())
    }

    #[getter]
    fn is_held(&self) -> bool {
        self.lease.get().is_some_and(|lease| lease.is_held())
    }

    /// Why it was lost; None if it was not.
    #[getter]
    fn loss(&self) -> Option<String> {
        match self.lease.get() {
            Some(lease) => lease.loss(),
            None => Some(FOREIGN.into()),
        }
    }

    /// Moves the expiry; the new one.
    #[pyo3(signature = (ttl=None))]
    fn renew<'py>(&self, py: Python<'py>, ttl: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        self.renew_in(py, Wait::Loop, ttl)
    }

    /// As `renew`, waiting in the calling thread.
    #[pyo3(signature = (ttl=None))]
    fn renew_blocking<'py>(
        &self,
        py: Python<'py>,
        ttl: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.renew_in(py, Wait::Thread, ttl)
    }

    /// Deletes the row; whether the lock was still ours.
    fn release<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.release_in(py, Wait::Message)
    }

    /// As `release`, waiting in the calling thread.
    fn release_blocking<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.release_in(py, Wait::Thread)
    }

    /// Has `function` called when the lease is lost, from a thread of its own. None forgets the function.
    fn call_when_lost(&self, function: Option<Py<PyAny>>) -> PyResult<()> {
        let is_given = function.is_some();
        let earlier = std::mem::replace(&mut *lock(&self.on_loss), function);
        drop(earlier);
        let Some(lease) = self.lease.get().filter(|_| is_given) else {
            return Ok(());
        };
        let (lost, function) = (lease.lost(), Arc::downgrade(&self.on_loss));
        spawn(async move {
            if lost.await.is_some() && function.strong_count() > 0 {
                // A worker of the runtime must not wait for the GIL.
                std::thread::spawn(move || {
                    Python::try_attach(|py| {
                        let function = function.upgrade().and_then(|function| lock(&function).take());
                        if let Some(function) = function
                            && let Err(error) = function.call0(py)
                        {
                            error.write_unraisable(py, Some(function.bind(py)));
                        }
                    });
                });
            }
        })
    }

    /// Waits until the lease ends: why it was lost, or None when it was released.
    fn lost<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // Without a share in the lease: waiting must not keep it.
        let lost = self.lease.get().map(|lease| lease.lost());
        let foreign = self.loss();
        awaitable(py, async move {
            match lost {
                Some(lost) => Ok::<_, LockError>(lost.await),
                None => Ok(foreign),
            }
        })
    }
}
