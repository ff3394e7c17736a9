//! What a simulated run puts in the place of the process's surroundings: clock, chance, names, tasks.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::chance::Chance;

thread_local! {
    static RUN: Cell<Option<Run>> = const { Cell::new(None) };
    static CURRENT: RefCell<Option<Arc<Process>>> = const { RefCell::new(None) };
}

/// The surroundings of everything that this thread simulates.
#[derive(Clone, Copy)]
struct Run {
    beginning: Instant,
    /// How long the machine has slept: the boot clock counts it, the timers' clock does not.
    slept: Duration,
    chance: Chance,
    ids: u64,
}

/// Begins a run on this thread; it ends when the value is dropped.
pub(super) struct Begun;

pub(super) fn begin(chance: Chance) -> Begun {
    RUN.set(Some(Run {
        beginning: Instant::now(),
        slept: Duration::ZERO,
        chance,
        ids: 0,
    }));
    Begun
}

impl Drop for Begun {
    fn drop(&mut self) {
        RUN.set(None);
    }
}

fn change<T>(with: impl FnOnce(&mut Run) -> T) -> Option<T> {
    let mut run = RUN.get()?;
    let value = with(&mut run);
    RUN.set(Some(run));
    Some(value)
}

pub(in crate::lock) fn boot_time() -> Option<Duration> {
    let run = RUN.get()?;
    Some(Duration::from_secs(1000) + run.slept + (Instant::now() - run.beginning))
}

pub(super) fn machine_slept(time: Duration) {
    change(|run| run.slept += time);
}

pub(in crate::lock) fn chance() -> Option<f64> {
    change(|run| run.chance.fraction())
}

pub(in crate::lock) fn new_id() -> Option<Arc<str>> {
    let number = change(|run| {
        run.ids += 1;
        run.ids
    })?;
    let owner = process().map_or(String::new(), |process| format!("p{}", process.number));
    Some(format!("{owner}#{number}").into())
}

/// Milliseconds since the run's beginning, by the timers' clock.
pub(super) fn milliseconds() -> u64 {
    RUN.get().map_or(0, |run| {
        u64::try_from((Instant::now() - run.beginning).as_millis()).unwrap()
    })
}

pub(super) fn at(milliseconds: u64) -> Instant {
    RUN.get().unwrap().beginning + Duration::from_millis(milliseconds)
}

/// The process whose task runs now.
pub(in crate::lock) fn process() -> Option<Arc<Process>> {
    CURRENT.with_borrow(Clone::clone)
}

const RUNS: u8 = 0;
const PAUSED: u8 = 1;
const KILLED: u8 = 2;

/// A simulated process: its tasks run unless it is paused or killed.
pub(in crate::lock) struct Process {
    pub(super) number: usize,
    state: AtomicU8,
    held_up: Mutex<Vec<Waker>>,
}

impl Process {
    pub(super) fn new(number: usize) -> Arc<Self> {
        Arc::new(Self {
            number,
            state: AtomicU8::new(RUNS),
            held_up: Mutex::default(),
        })
    }

    pub(super) fn is_killed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == KILLED
    }

    pub(super) fn pause(&self) {
        let _ = self
            .state
            .compare_exchange(RUNS, PAUSED, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn resume(&self) {
        if self
            .state
            .compare_exchange(PAUSED, RUNS, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            for waker in std::mem::take(&mut *self.held_up.lock().unwrap()) {
                waker.wake();
            }
        }
    }

    pub(super) fn kill(&self) {
        self.state.store(KILLED, Ordering::Relaxed);
    }

    /// Does something as this process.
    pub(super) fn does<T>(self: &Arc<Self>, what: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(Arc::clone(self)));
        let value = what();
        drop(CURRENT.replace(before));
        value
    }

    /// A task of this process.
    pub(in crate::lock) fn runs<F: Future>(self: &Arc<Self>, task: F) -> Running<F> {
        Running {
            process: Arc::clone(self),
            task: Box::pin(task),
        }
    }
}

/// A task that runs while its process does.
pub(in crate::lock) struct Running<F> {
    process: Arc<Process>,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for Running<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let process = Arc::clone(&self.process);
        match process.state.load(Ordering::Relaxed) {
            RUNS => process.does(|| self.task.as_mut().poll(context)),
            PAUSED => {
                process.held_up.lock().unwrap().push(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Pending,
        }
    }
}
