//! What a simulated run puts in the place of the process's surroundings: clock, chance, names, tasks.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::chance::Chance;
use super::plants::{Plant, is_planted};

thread_local! {
    static RUN: Cell<Option<Run>> = const { Cell::new(None) };
    static CURRENT: RefCell<Option<Arc<Process>>> = const { RefCell::new(None) };
}

/// So often tasks are polled at one moment before they count as going round in circles.
const MOST_POLLS: u32 = 5000;

/// The surroundings of everything that this thread simulates.
#[derive(Clone, Copy)]
struct Run {
    beginning: Instant,
    /// How long the machine has slept: the boot clock counts it, the timers' clock does not.
    slept: Duration,
    chance: Chance,
    ids: u64,
    /// The moment at which tasks were polled last, and how often.
    polled: (Instant, u32),
    /// What a task did that no task may do.
    misdeed: Option<&'static str>,
}

/// Begins a run on this thread; it ends when the value is dropped.
pub(super) struct Begun;

pub(super) fn begin(chance: Chance) -> Begun {
    let now = Instant::now();
    RUN.set(Some(Run {
        beginning: now,
        slept: Duration::ZERO,
        chance,
        ids: 0,
        polled: (now, 0),
        misdeed: None,
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
    let Some(process) = process() else {
        return Some(format!("#{number}").into());
    };
    if is_planted(Plant::ForkedIds) {
        return Some(process.forked_id().into());
    }
    Some(format!("p{}#{number}", process.number).into())
}

/// What a task did that no task may do.
pub(super) fn misdeed() -> Option<&'static str> {
    RUN.get()?.misdeed
}

fn is_done(misdeed: &'static str) {
    change(|run| run.misdeed.get_or_insert(misdeed).len());
}

/// Whether tasks have been polled so often at this moment that time would never go on.
fn goes_round_in_circles() -> bool {
    let now = Instant::now();
    let polls = change(|run| {
        let polls = if run.polled.0 == now { run.polled.1 + 1 } else { 1 };
        run.polled = (now, polls);
        polls
    });
    polls.is_some_and(|polls| polls > MOST_POLLS)
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
    /// The process that it was forked from.
    pub(super) parent: Option<Arc<Self>>,
    state: AtomicU8,
    held_up: Mutex<Vec<Waker>>,
    ids: AtomicU64,
}

impl Process {
    pub(super) fn new(number: usize, parent: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            number,
            parent,
            state: AtomicU8::new(RUNS),
            held_up: Mutex::default(),
            ids: AtomicU64::new(0),
        })
    }

    /// An id as a generator would make it that a fork copies.
    fn forked_id(&self) -> String {
        let copied = self
            .parent
            .as_ref()
            .filter(|_| self.ids.load(Ordering::Relaxed) == 0);
        if let Some(parent) = copied {
            self.ids
                .store(parent.ids.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let origin = self.parent.as_ref().map_or(self.number, |parent| parent.number);
        format!("p{origin}#{}", self.ids.fetch_add(1, Ordering::Relaxed))
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

/// Notes that a task panicked while it was polled.
struct Watched;

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            is_done("it panics");
        }
    }
}

impl<F: Future> Future for Running<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let process = Arc::clone(&self.process);
        match process.state.load(Ordering::Relaxed) {
            RUNS if goes_round_in_circles() => {
                is_done("it goes round in circles");
                Poll::Pending
            }
            RUNS => {
                let _watched = Watched;
                process.does(|| self.task.as_mut().poll(context))
            }
            PAUSED => {
                process.held_up.lock().unwrap().push(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Pending,
        }
    }
}
