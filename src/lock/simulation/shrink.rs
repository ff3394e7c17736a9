//! Makes a failing scenario small: drops whatever it fails without.

use super::run::{Report, run};
use super::scenario::{End, How, Scenario, Step};

/// So many variants are tried.
const MOST_TRIES: usize = 3000;

/// The smallest scenario found that violates the same invariant.
pub(super) fn shrink(scenario: &Scenario, report: &Report) -> Scenario {
    let Some(violation) = &report.violation else {
        return scenario.clone();
    };
    let mut best = scenario.clone();
    let mut tries = 0;
    loop {
        let smaller = variants(&best).into_iter().find(|variant| {
            tries += 1;
            tries < MOST_TRIES
                && run(variant, false)
                    .violation
                    .is_some_and(|other| other.name == violation.name)
        });
        match smaller {
            Some(smaller) => best = smaller,
            None => return best,
        }
    }
}

fn variants(scenario: &Scenario) -> Vec<Scenario> {
    let mut variants = Vec::new();
    let mut add = |change: &dyn Fn(&mut Scenario)| {
        let mut variant = scenario.clone();
        change(&mut variant);
        variants.push(variant);
    };
    for index in 0..scenario.tasks.len() {
        add(&|scenario| drop(scenario.tasks.remove(index)));
    }
    for index in 0..scenario.happenings.len() {
        add(&|scenario| {
            scenario.happenings.remove(index);
        });
    }
    for index in 0..scenario.windows.len() {
        add(&|scenario| {
            scenario.windows.remove(index);
        });
    }
    if let Some(child) = scenario
        .forks
        .len()
        .checked_sub(1)
        .map(|fork| scenario.processes + fork)
    {
        add(&|scenario| {
            scenario.forks.pop();
            scenario.tasks.retain(|task| task.process != child);
            scenario.windows.retain(|window| window.process != child);
        });
    }
    for (task, steps) in scenario.tasks.iter().enumerate() {
        for (index, step) in steps.steps.iter().enumerate() {
            if steps.steps.len() > 1 {
                add(&|scenario| {
                    scenario.tasks[task].steps.remove(index);
                });
            }
            for simpler in simpler(step) {
                add(&|scenario| scenario.tasks[task].steps[index] = simpler.clone());
            }
        }
    }
    if scenario.latency > 0 {
        add(&|scenario| scenario.latency = 0);
    }
    variants
}

/// The step without one of its peculiarities each.
fn simpler(step: &Step) -> Vec<Step> {
    let mut simpler = Vec::new();
    let mut add = |change: &dyn Fn(&mut Step)| {
        let mut changed = step.clone();
        change(&mut changed);
        simpler.push(changed);
    };
    if step.renew.is_some() {
        add(&|step| step.renew = None);
    }
    if step.cancel.is_some() {
        add(&|step| step.cancel = None);
    }
    if step.unpolled > 0 {
        add(&|step| step.unpolled = 0);
    }
    if step.end != End::Release {
        add(&|step| step.end = End::Release);
    }
    if step.how != How::Grant {
        add(&|step| step.how = How::Grant);
    }
    if step.wait > 0 {
        add(&|step| step.wait = 0);
    }
    if step.hold > 0 {
        add(&|step| step.hold = 0);
    }
    simpler
}
