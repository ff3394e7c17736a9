//! What the tasks of a process do with its locks.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, sleep_until, timeout};

use super::adapter::{Asked, Ended, Held, Locks};
use super::context::{self, Process};
use super::database::after_beginning;
use super::judge::{Asker, Given, LOSS_CHECK};
use super::scenario::{Cancel, End, How, Kind, Step, Task};
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

/// A task: what it needs for each of its steps.
pub(super) struct Client {
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
    pub(super) locks: Locks,
    /// Another process's locks.
    pub(super) elsewhere: (Arc<Process>, Locks),
    pub(super) number: usize,
    /// Its place among the tasks of its process.
    pub(super) place: usize,
}

/// Of one of the locks that a step has taken.
struct Holding {
    number: usize,
    key: Arc<str>,
    holder: Arc<str>,
    held: Held,
}

impl Client {
    pub(super) async fn runs(self, task: Task) {
        let fork = self.world.state().scenario.fork_of(self.process.number).cloned();
        if let Some(fork) = fork {
            sleep(Duration::from_millis(fork.at)).await;
            if self
                .process
                .parent
                .as_ref()
                .is_none_or(|parent| parent.is_killed())
            {
                return;
            }
            self.world
                .notes(|| format!("p{} is forked from p{}", self.process.number, fork.parent));
            self.world.state().met(Kind::Fork);
        }
        for (index, step) in task.steps.iter().enumerate() {
            if step.wait > 0 {
                sleep(Duration::from_millis(step.wait)).await;
            }
            let holder = if self.world.state().scenario.shares_names {
                format!("t{}", self.place)
            } else {
                format!("p{}t{}s{index}", self.process.number, self.number)
            };
            self.takes(step, holder.into()).await;
        }
    }

    async fn takes(&self, step: &Step, holder: Arc<str>) {
        let now = context::milliseconds();
        let keys = {
            let mut state = self.world.state();
            if step.unpolled > 0 {
                state.met(Kind::Unpolled);
            }
            match step.how {
                // In any order: the manager asks for them in its own.
                How::Several => {
                    state.met(Kind::SeveralLocks);
                    let keys = state.keys.iter().cloned();
                    if self.number.is_multiple_of(2) {
                        keys.collect()
                    } else {
                        keys.rev().collect()
                    }
                }
                _ => vec![Arc::clone(&state.keys[step.key])],
            }
        };
        let asker = Asker {
            process: self.process.number,
            keys: keys.clone(),
            holder: Arc::clone(&holder),
        };
        let number = self
            .world
            .state()
            .judge
            .joins(asker, now, step.timeout, step.unpolled);
        let process = self.process.number;
        self.world
            .notes(|| format!("p{process} {holder} ({number}) wants {keys:?}: {step:?}"));
        let acquiring = self.locks.acquire(&Asked {
            keys,
            holder: Arc::clone(&holder),
            how: step.how,
            ttl: Duration::from_millis(step.ttl),
            timeout: Duration::from_millis(step.timeout),
        });
        if step.unpolled > 0 {
            self.world.state().looks_at(now + step.timeout + 1800);
            sleep(Duration::from_millis(step.unpolled)).await;
        }
        // Whoever looks for a starving waiter looks at these times, too.
        self.world.state().looks_at(now + 1500);
        let outcome = match step.cancel {
            None => Some(acquiring.await),
            Some(Cancel::After(time)) => left_after(time, acquiring).await,
            Some(Cancel::AtPoll(polls)) => left_at(polls, acquiring).await,
        };
        let now = context::milliseconds();
        match outcome {
            None => {
                self.world.notes(|| format!("{number} is cancelled"));
                self.world.state().met(Kind::CancelledAcquisition);
                self.world.state().judge.left(number, now);
            }
            Some(Err(ended)) => {
                self.world.notes(|| format!("{number} ends: {ended:?}"));
                self.world.state().judge.fails(number, &ended, now);
            }
            Some(Ok(held)) => {
                let holdings = self.is_given(step, number, &holder, held, now);
                self.holds(holdings, step).await;
            }
        }
    }

    fn is_given(
        &self,
        step: &Step,
        number: usize,
        holder: &Arc<str>,
        held: Vec<Held>,
        now: u64,
    ) -> Vec<Holding> {
        for held in &held {
            let token = after_beginning(held.token);
            self.world
                .notes(|| format!("{number} holds {} with token {token}", held.key()));
        }
        let (is_renewed, is_checked) = match step.how {
            How::Grant => (false, false),
            How::Lease {
                renewed,
                max_hold,
                is_checked,
                ..
            } => (renewed && max_hold.is_none(), is_checked),
            How::Several => (true, true),
        };
        let looks_every = match (is_checked, is_renewed) {
            (true, _) => Some(LOSS_CHECK),
            (false, true) => Some(step.ttl / 3),
            (false, false) => None,
        };
        let given: Vec<Given> = held
            .iter()
            .map(|held| Given {
                key: Arc::clone(held.key()),
                belief: held.belief.clone(),
                token: held.token,
                looks_every,
                is_renewed,
                is_lease: step.how != How::Grant,
            })
            .collect();
        let numbers = self.world.state().judge.granted(number, given, now);
        numbers
            .into_iter()
            .zip(held)
            .map(|(number, held)| Holding {
                number,
                key: Arc::clone(held.key()),
                holder: Arc::clone(holder),
                held,
            })
            .collect()
    }

    async fn holds(&self, mut holdings: Vec<Holding>, step: &Step) {
        for Holding { number, held, .. } in &mut holdings {
            if matches!(step.end, End::ByName | End::ByNameElsewhere) {
                held.keep();
            }
            let number = *number;
            if let Some(lost) = held.lost() {
                let world = Arc::clone(&self.world);
                tokio::spawn(self.process.runs(async move {
                    let loss = lost.await;
                    world.notes(|| format!("{number}: it has ended: {loss:?}"));
                    world.state().judge.reported(number);
                }));
            }
        }
        let hold = Duration::from_millis(step.hold);
        match (step.renew, holdings.first()) {
            (Some(ttl), Some(Holding { number, held, .. })) => {
                sleep(hold / 2).await;
                self.world.notes(|| format!("{number} renews to {ttl} ms"));
                self.world.state().judge.renews(*number, ttl);
                held.renew(Duration::from_millis(ttl)).await;
                sleep(hold / 2).await;
            }
            _ if step.hold > 0 => sleep(hold).await,
            _ => {}
        }
        for holding in holdings {
            self.ends(holding, step).await;
        }
    }

    async fn ends(&self, holding: Holding, step: &Step) {
        let Holding {
            number,
            key,
            holder,
            mut held,
        } = holding;
        let (world, is_lease) = (&self.world, step.how != How::Grant);
        let believed = world.state().judge.releases(number);
        let end = step.end;
        world.notes(|| format!("{number} ends its holding: {end:?}, it believes: {believed:?}"));
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
                world.state().met(Kind::ReleaseThatIsLeft);
                world.state().judge.dropped(number);
            }
            // Of the same name there may be others, in other processes.
            End::ByNameElsewhere if !world.state().scenario.shares_names && self.is_another_there() => {
                world.state().met(Kind::ReleaseByNameElsewhere);
                world.state().judge.dropped(number);
                let (process, locks) = &self.elsewhere;
                let releasing = process.does(|| locks.release_by_name(&key, &holder));
                let outcome = tokio::spawn(process.runs(releasing));
                let outcome = timeout(Duration::from_secs(30), outcome).await;
                world.notes(|| format!("{number} is released elsewhere: {outcome:?}"));
                if !matches!(outcome, Ok(Ok(Ok(_)))) {
                    world.state().kept.push(Arc::clone(held.belief.row()));
                }
            }
            End::ByName | End::ByNameElsewhere => {
                world.state().met(Kind::ReleaseByName);
                let releasing = self.locks.release_by_name(&key, &holder);
                self.releases(number, believed, &held, releasing).await;
            }
            End::Release => {
                let releasing = held.release();
                self.releases(number, believed, &held, releasing).await;
            }
        }
    }

    fn is_another_there(&self) -> bool {
        self.elsewhere.0.number != self.process.number && !self.elsewhere.0.is_killed()
    }

    async fn releases(
        &self,
        number: usize,
        believed: Option<Duration>,
        held: &Held,
        releasing: impl Future<Output = Result<bool, Ended>>,
    ) {
        let began = context::milliseconds();
        let outcome = releasing.await;
        let loss = held.loss();
        self.world
            .notes(|| format!("{number} is released: {outcome:?}, loss {loss:?}"));
        let mut state = self.world.state();
        let now = context::milliseconds();
        state.judge.released(number, believed, &outcome, loss.as_deref());
        let resumed = state.judge.processes.iter().map(|one| one.resumed_at).max();
        if now > began.max(resumed.unwrap_or(0)) + 7000 {
            let what = format!("the release of {number} took from {began} to {now} ms");
            state.judge.violated("no release late", what);
        }
    }
}
