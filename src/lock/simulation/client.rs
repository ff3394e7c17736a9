//! What the tasks of a process do with its locks.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, sleep_until};

use super::adapter::{Asked, Belief, Ended, Held, Locks};
use super::context::{self, Process};
use super::database::after_beginning;
use super::judge::LOSS_CHECK;
use super::scenario::{Cancel, End, How, Step, Task};
use super::world::World;

/// Runs a future until it ends, or is dropped at its `polls`-th await; None then.
async fn left_at<F: Future>(polls: u64, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polled = 0;
    std::future::poll_fn(|context| {
        if polled == polls {
            return Poll::Ready(None);
        }
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polled == polls => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Runs a future until it ends, or for so long; None then.
async fn left_after<F: Future>(milliseconds: u64, future: F) -> Option<F::Output> {
    let end = context::at(context::milliseconds() + milliseconds);
    let mut future = pin!(future);
    tokio::select! {
        biased;
        output = &mut future => Some(output),
        () = sleep_until(end) => None,
    }
}

pub(super) async fn runs(world: Arc<World>, process: Arc<Process>, locks: Locks, task: Task, number: usize) {
    for (index, step) in task.steps.iter().enumerate() {
        if step.wait > 0 {
            sleep(Duration::from_millis(step.wait)).await;
        }
        let holder = format!("p{}t{number}s{index}", process.number);
        takes(&world, &process, &locks, step, holder.into()).await;
    }
}

async fn takes(world: &Arc<World>, process: &Arc<Process>, locks: &Locks, step: &Step, holder: Arc<str>) {
    let now = context::milliseconds();
    let key = Arc::clone(&world.state().keys[step.key]);
    let number = world
        .state()
        .judge
        .joins(process.number, &key, now, step.timeout, step.unpolled);
    world.notes(|| format!("p{} {holder} ({number}) wants {key}: {step:?}", process.number));
    let acquiring = locks.acquire(&Asked {
        key,
        holder,
        how: step.how,
        ttl: Duration::from_millis(step.ttl),
        timeout: Duration::from_millis(step.timeout),
    });
    if step.unpolled > 0 {
        sleep(Duration::from_millis(step.unpolled)).await;
    }
    // Whoever looks for a starving waiter looks at these times, too.
    world.state().looks_at(now + 1500);
    let outcome = match step.cancel {
        None => Some(acquiring.await),
        Some(Cancel::After(time)) => left_after(time, acquiring).await,
        Some(Cancel::AtPoll(polls)) => left_at(polls, acquiring).await,
    };
    let now = context::milliseconds();
    match outcome {
        None => {
            world.notes(|| format!("{number} is cancelled"));
            world.state().judge.left(number, now);
        }
        Some(Err(ended)) => {
            world.notes(|| format!("{number} ends: {ended:?}"));
            world.state().judge.fails(number, &ended, now);
        }
        Some(Ok(held)) => {
            world.notes(|| format!("{number} holds with token {}", after_beginning(held.token)));
            let (is_renewed, is_checked) = match step.how {
                How::Grant => (false, false),
                How::Lease {
                    renewed,
                    max_hold,
                    is_checked,
                    ..
                } => (renewed && max_hold.is_none(), is_checked),
            };
            let looks_every = match (is_checked, is_renewed) {
                (true, _) => Some(LOSS_CHECK),
                (false, true) => Some(step.ttl / 3),
                (false, false) => None,
            };
            let is_lease = matches!(step.how, How::Lease { .. });
            let belief: Belief = held.belief.clone();
            let of_lease = (looks_every, is_renewed, is_lease);
            world
                .state()
                .judge
                .granted(number, belief, held.token, of_lease, now);
            holds(world, process, held, step, number).await;
        }
    }
}

async fn holds(world: &Arc<World>, process: &Arc<Process>, held: Held, step: &Step, number: usize) {
    if let Some(lost) = held.lost() {
        let world = Arc::clone(world);
        tokio::spawn(process.runs(async move {
            let loss = lost.await;
            world.notes(|| format!("{number}: it has ended: {loss:?}"));
            world.state().judge.reported(number);
        }));
    }
    let hold = Duration::from_millis(step.hold);
    match step.renew {
        Some(ttl) => {
            sleep(hold / 2).await;
            world.notes(|| format!("{number} renews to {ttl} ms"));
            world.state().judge.renews(number, ttl);
            held.renew(Duration::from_millis(ttl)).await;
            sleep(hold / 2).await;
        }
        None if step.hold > 0 => sleep(hold).await,
        None => {}
    }
    ends(world, held, step, number).await;
}

async fn ends(world: &Arc<World>, mut held: Held, step: &Step, number: usize) {
    let (end, is_lease) = (step.end, matches!(step.how, How::Lease { .. }));
    let believed = world.state().judge.releases(number);
    world.notes(|| format!("{number} ends its holding: {end:?}, it believes: {believed}"));
    match end {
        End::Drop => {
            drop(held);
            world.state().judge.dropped(number);
        }
        End::Keep => {
            world.state().kept.push(Arc::clone(held.belief.row()));
            held.keep();
            if is_lease {
                world.state().judge.dropped(number);
            }
        }
        End::ReleaseLeft(polls) => {
            let released = left_at(polls, held.release()).await;
            world.notes(|| format!("{number}: its release is left: {released:?}"));
            world.state().judge.dropped(number);
        }
        End::Release => {
            let began = context::milliseconds();
            let outcome: Result<bool, Ended> = held.release().await;
            let loss = held.loss();
            world.notes(|| format!("{number} is released: {outcome:?}, loss {loss:?}"));
            let mut state = world.state();
            let now = context::milliseconds();
            state.judge.released(number, believed, &outcome, loss.as_deref());
            let process = state
                .judge
                .processes
                .iter()
                .map(|one| one.resumed_at)
                .max()
                .unwrap_or(0);
            if now > began.max(process) + 7000 {
                let what = format!("the release of {number} took from {began} to {now} ms");
                state.judge.violated("no timeout late", what);
            }
        }
    }
}
