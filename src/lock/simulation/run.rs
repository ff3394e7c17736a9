//! One run of a scenario.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::adapter::Locks;
use super::chance::Chance;
use super::client::Client;
use super::context;
use super::judge::Violation;
use super::scenario::{Kind, Scenario, Task};
use super::world::{Connection, World};

/// A scenario's tasks end within so many milliseconds, or somebody waits for ever.
const LONGEST: u64 = 600_000;
/// After so many more, nothing is left of what was given up: twice the time in which a late statement may come.
const QUIET: u64 = 40_000;
/// How many statements a process may send for each step of its tasks, and for each second.
const STATEMENTS_PER_STEP: u64 = 40;
const STATEMENTS_PER_SECOND: u64 = 12;

#[derive(Debug)]
pub(super) struct Report {
    pub(super) violation: Option<Violation>,
    pub(super) history: String,
    /// What happened how often.
    pub(super) met: BTreeMap<Kind, u64>,
    pub(super) statements: u64,
}

pub(super) fn run(scenario: &Scenario, with_history: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let begun = context::begin(Chance::for_each(scenario.seed, &[2]));
        let report = simulated(scenario, with_history).await;
        // What is left may look at the clock while it is dropped.
        drop(begun);
        report
    })
}

async fn simulated(scenario: &Scenario, with_history: bool) -> Report {
    let world = World::new(scenario.clone(), with_history);
    let going_on = tokio::spawn(Arc::clone(&world).goes_on());
    let processes: Vec<_> = (0..scenario.all_processes())
        .map(|number| {
            let process = world.process(number);
            let locks = process.does(|| {
                Locks::new(|listener| {
                    world.listens(number, listener);
                    Box::new(Connection {
                        world: Arc::clone(&world),
                        process: world.process(number),
                    })
                })
            });
            (process, locks)
        })
        .collect();
    let tasks = begun(&world, &processes, scenario);
    for (process, mut task) in tasks {
        while !process.is_killed() && world.state().judge.violation.is_none() {
            match timeout(Duration::from_millis(250), &mut task).await {
                Ok(_) => break,
                Err(_) if context::milliseconds() > LONGEST => {
                    let what = "a task has not ended after ten minutes".to_owned();
                    world.state().judge.violated("every wait ends", what);
                }
                Err(_) => {
                    let now = context::milliseconds();
                    world.state().checks(now);
                }
            }
        }
    }
    if world.state().judge.violation.is_none() {
        nothing_is_left(&world, &processes).await;
    }
    going_on.abort();
    world.forgets_listeners();
    let mut state = world.state();
    Report {
        violation: state.judge.violation.take(),
        history: state.history.take().unwrap_or_default(),
        met: std::mem::take(&mut state.met),
        statements: state
            .judge
            .processes
            .iter()
            .map(|process| process.statements)
            .sum(),
    }
}

/// The tasks of a scenario, each with its process.
fn begun(
    world: &Arc<World>,
    processes: &[(Arc<context::Process>, Locks)],
    scenario: &Scenario,
) -> Vec<(Arc<context::Process>, JoinHandle<()>)> {
    let begin = |(number, task): (usize, &Task)| {
        let (process, locks) = &processes[task.process];
        let before = &scenario.tasks[..number];
        let client = Client {
            world: Arc::clone(world),
            process: Arc::clone(process),
            locks: locks.clone(),
            elsewhere: processes[(task.process + 1) % scenario.processes].clone(),
            number,
            place: before
                .iter()
                .filter(|other| other.process == task.process)
                .count(),
        };
        let running = tokio::spawn(process.runs(client.runs(task.clone())));
        (Arc::clone(process), running)
    };
    scenario.tasks.iter().enumerate().map(begin).collect()
}

/// Once all is quiet: no row without an owner, nothing that the engines have not finished, no more statements than there should be.
async fn nothing_is_left(world: &Arc<World>, processes: &[(Arc<context::Process>, Locks)]) {
    world.state().calms_down();
    let ended = context::milliseconds();
    sleep(Duration::from_millis(QUIET)).await;
    let mut state = world.state();
    let now = context::milliseconds();
    state.checks(now);
    for (process, locks) in processes {
        if process.is_killed() {
            continue;
        }
        if let Some(unfinished) = locks.unfinished() {
            let what = format!("p{}: {unfinished}", process.number);
            state.judge.violated("nothing is left once all is quiet", what);
        }
    }
    let strays: Vec<String> = state
        .database
        .rows
        .iter()
        .filter(|(_, row)| row.expires_at > state.database.clock(now))
        .filter(|(_, row)| !processes[row.process].0.is_killed() && !state.kept.contains(&row.id))
        .map(|(key, row)| format!("{key}: {row:?}"))
        .collect();
    if !strays.is_empty() && !state.may_have_strays {
        state
            .judge
            .violated("no row without an owner once all is quiet", strays.join(", "));
    }
    for (process, _) in processes {
        let steps: usize = state
            .scenario
            .tasks
            .iter()
            .filter(|task| task.process == process.number)
            .map(|task| task.steps.len())
            .sum();
        let most = STATEMENTS_PER_STEP * (steps as u64 + 1) + STATEMENTS_PER_SECOND * ended / 1000;
        let sent = state.judge.processes[process.number].statements;
        if sent > most {
            let what = format!("p{} sent {sent} of at most {most}", process.number);
            state.judge.violated("statements are bounded", what);
        }
    }
}
