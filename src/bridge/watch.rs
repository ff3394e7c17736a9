//! An event loop under watch: the signs that it gives, and the thread that notices when they stop.
//!
//! asyncio's own loops sleep in the `select` of a selector, a Python object: [`LoopWatch::select`]
//! takes that method's place and so sees the loop go to sleep and wake up, which costs neither a
//! timer nor a wake-up. Other loops (uvloop, Windows' proactor) beat by a timer.
//!
//! The thread sleeps without the interpreter. It attaches to it only when a stall was noticed, to
//! have the stack of the loop's thread taken by a Python function, which logs it, too: both happen
//! off the loop's thread.
//!
//! At exit the thread must be gone before the interpreter is: [`LoopWatch::end`] waits for it,
//! detached.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};
use pyo3::{PyTraverseError, intern};

use super::dict::dict;
use super::inbox::running_loop;
use super::process::ProcessBound;
use super::state::state;
use crate::monitor::{Lags, Monitor, Verdict, Witness};
use crate::mutex::lock;

/// The kernel cuts a thread's name at 15 bytes.
const THREAD_NAME: &str = "arbitrageai-lag";

/// What this process's monitors have measured.
pub fn lags() -> Lags {
    state().monitors.lags()
}

/// The signs of one event loop. Only objects of the loop's own keep it: when they go, the thread
/// ends.
#[pyclass(frozen, module = "arbitrageai_native._native")]
pub struct LoopWatch {
    interval: Duration,
    /// The selector's own method. None: the loop beats by a timer.
    select: Option<Py<PyAny>>,
    watched: ProcessBound<Watched>,
}

struct Watched {
    monitor: Arc<Monitor>,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.monitor.stop();
    }
}

#[pymethods]
impl LoopWatch {
    /// Begins to watch the running loop, whose selector's method is `select`, if it has one; then
    /// [`Self::select`] must take its place. `stalled(seconds, lasts)` is called while it is
    /// blocked, and says whether it is (True), does not run (False), or is closed (None);
    /// `ended(seconds)` is called after it.
    ///
    /// # Errors
    /// `RuntimeError` if no loop is running in this thread, or no thread can be started.
    #[new]
    fn new(
        py: Python<'_>,
        select: Option<Py<PyAny>>,
        interval: f64,
        threshold: f64,
        stalled: Py<PyAny>,
        ended: Py<PyAny>,
    ) -> PyResult<Py<Self>> {
        running_loop(py)?; // before a thread is started that would watch nothing
        let interval = seconds("interval", interval)?;
        // A loop that beats by a timer gives its first sign one interval from now.
        let until_the_first_sign = select.as_ref().map_or(interval, |_| Duration::ZERO);
        let monitor = Monitor::new(until_the_first_sign, seconds("threshold", threshold)?);
        let monitor = Arc::new(monitor);
        let (alive, has_ended) = mpsc::channel();
        let watching = monitor.clone();
        let witness = Interpreter { stalled, ended };
        std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || {
                watching.watch(&witness);
                // Its functions belong to the interpreter, and are given back to it, if it is still
                // there.
                let _ = Python::try_attach(|_| drop(witness));
                drop(alive);
            })
            .map_err(|error| PyRuntimeError::new_err(format!("the monitor's thread can't start: {error}")))?;
        state().monitors.add(monitor.clone());
        let watch = Py::new(
            py,
            Self {
                interval,
                select,
                watched: ProcessBound::new(Watched {
                    monitor,
                    ended: Mutex::new(has_ended),
                }),
            },
        )?;
        if watch.get().select.is_none() {
            Self::schedule(watch.bind(py))?;
        }
        Ok(watch)
    }

    /// Waits in the selector's own method. The loop calls it.
    #[pyo3(signature = (timeout = None))]
    fn select<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(select) = &self.select else {
            return Err(PyRuntimeError::new_err("this loop has no selector"));
        };
        // None: a forked child runs on with its parent's loop.
        let monitor = self.watched.get().map(|watched| &watched.monitor);
        if let Some(monitor) = monitor {
            monitor.waits();
        }
        let ready = select.bind(py).call1((timeout,));
        // Also after an error, Ctrl-C among them: the loop's thread runs Python code again.
        if let Some(monitor) = monitor {
            monitor.runs();
        }
        ready
    }

    /// One heartbeat. The loop's timer calls it.
    fn beat(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().watched.get() {
            Some(watched) if watched.monitor.beat(slf.get().interval) => Self::schedule(slf),
            _ => Ok(()), // stopped, or a forked child runs on with its parent's loop
        }
    }

    /// Stops the heartbeat, and tells the thread to end.
    fn stop(&self) {
        if let Some(watched) = self.watched.get() {
            watched.monitor.stop();
        }
    }

    /// Waits until the thread has ended, `seconds` at most. True if it has.
    fn end(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let Some(watched) = self.watched.get() else {
            return Ok(true);
        };
        watched.monitor.stop();
        let limit = self::seconds("seconds", seconds)?;
        // Detached: the thread may be about to attach, and would never end while this one keeps the
        // interpreter.
        Ok(py.detach(|| {
            let ended = lock(&watched.ended);
            ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Disconnected)
        }))
    }

    /// What was measured until now. Times in seconds.
    fn reading<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(watched) = self.watched.get() else {
            return Ok(None);
        };
        let reading = watched.monitor.reading();
        let bounds = reading.histogram.bounds.iter().copied().chain([f64::INFINITY]);
        Ok(Some(dict!(py, {
            "current": reading.current.as_secs_f64(),
            "worst": reading.worst.as_secs_f64(),
            "stalls": reading.stalls,
            "count": reading.histogram.total(),
            "sum": reading.histogram.sum.as_secs_f64(),
            "histogram": bounds.zip(&reading.histogram.counts).into_py_dict(py)?,
        })))
    }

    /// The longest lag in each of the last seconds, in seconds.
    fn recent(&self) -> Vec<f64> {
        let recent = self.watched.get().map(|watched| watched.monitor.recent());
        recent
            .unwrap_or_default()
            .iter()
            .map(Duration::as_secs_f64)
            .collect()
    }

    /// The selector refers to this object, and this object to it. Breaking the selector's side is
    /// enough.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.select.as_ref().map_or(Ok(()), |select| visit.call(select))
    }
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| PyValueError::new_err(format!("{name}={value}: {error}")))
}

impl LoopWatch {
    fn schedule(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let beat = slf.getattr(intern!(py, "beat"))?;
        running_loop(py)?.call_method1(
            intern!(py, "call_later"),
            (slf.get().interval.as_secs_f64(), beat),
        )?;
        Ok(())
    }
}

/// Asks Python what a loop is doing.
struct Interpreter {
    stalled: Py<PyAny>,
    ended: Py<PyAny>,
}

impl Witness for Interpreter {
    fn stalled(&self, monitor: &Monitor) -> Verdict {
        Python::try_attach(|py| {
            // C code may have kept the interpreter until now; then the stall may be over.
            let lasts = monitor.stalled_for();
            let seconds = lasts.unwrap_or_else(|| monitor.reading().current).as_secs_f64();
            let answer = self
                .stalled
                .bind(py)
                .call1((seconds, lasts.is_some()))
                .and_then(|answer| answer.extract::<Option<bool>>());
            match answer {
                Ok(Some(true)) => Verdict::Blocked,
                Ok(Some(false)) => Verdict::Resting,
                Ok(None) => Verdict::Gone,
                Err(error) => {
                    error.write_unraisable(py, None);
                    Verdict::Blocked
                }
            }
        })
        .unwrap_or(Verdict::Gone)
    }

    fn ended(&self, lag: Duration) {
        Python::try_attach(|py| {
            if let Err(error) = self.ended.bind(py).call1((lag.as_secs_f64(),)) {
                error.write_unraisable(py, None);
            }
        });
    }
}
