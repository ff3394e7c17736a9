//! The runs of the test command, and those of the long form.

use std::collections::BTreeMap;

use super::exhaustive::{ALL, explore};
use super::plants::{self, Plant};
use super::run::run;
use super::scenario::{Kind, Scenario};
use super::shrink::shrink;

/// How many seeds the test command tries, and within how many a planted fault is found.
const SEEDS: u64 = 2000;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// Fails with the history of the smallest scenario that still fails.
fn fails(seed: u64) -> String {
    let scenario = Scenario::of(seed);
    let report = run(&scenario, false);
    let smallest = shrink(&scenario, &report);
    let report = run(&smallest, true);
    let violation = report.violation.map_or_else(String::new, |violation| {
        format!("{}: {}", violation.name, violation.what)
    });
    format!(
        "seed {seed}: {violation}\n{smallest:#?}\n{}{violation}",
        report.history
    )
}

/// In how many histories each kind of thing happened, and how often.
#[derive(Default)]
struct Figures {
    met: BTreeMap<Kind, (u64, u64)>,
    statements: u64,
    failures: Vec<u64>,
}

fn tries(seeds: impl Iterator<Item = u64>) -> Figures {
    let mut figures = Figures::default();
    for seed in seeds {
        let report = run(&Scenario::of(seed), false);
        figures.statements += report.statements;
        for (kind, times) in report.met {
            let met = figures.met.entry(kind).or_default();
            met.0 += 1;
            met.1 += times;
        }
        if report.violation.is_some() {
            figures.failures.push(seed);
        }
    }
    figures
}

#[test]
fn no_seed_violates_anything() {
    let figures = tries(0..SEEDS);
    for kind in Kind::all() {
        let met = figures.met.get(&kind).copied().unwrap_or_default();
        assert!(met.0 > SEEDS / 200, "{kind:?} happened in {} histories", met.0);
    }
    if let Some(seed) = figures.failures.first() {
        panic!("{} seeds fail\n{}", figures.failures.len(), fails(*seed));
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..50 {
        let scenario = Scenario::of(seed);
        assert_eq!(run(&scenario, true).history, run(&scenario, true).history);
    }
}

/// The first seed that finds the planted fault.
fn found(plant: Plant) -> Option<(u64, &'static str)> {
    (0..SEEDS).find_map(|seed| {
        let scenario = Scenario::of(seed);
        plants::plant(Some(plant));
        let violation = run(&scenario, false).violation;
        plants::plant(None);
        // Whatever it fails for without the plant is not found.
        let violation = violation.filter(|_| run(&scenario, false).violation.is_none())?;
        Some((seed, violation.name))
    })
}

#[test]
fn every_planted_fault_is_found() {
    let missed: Vec<_> = Plant::ALL
        .iter()
        .filter(|plant| {
            let found = found(**plant);
            println!("{plant:?}: {found:?}");
            found.is_none()
        })
        .collect();
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}

#[test]
#[ignore = "replays the seed that SIMULATION_SEED names"]
fn one_seed() {
    let seed = from_environment("SIMULATION_SEED", 0);
    let report = run(&Scenario::of(seed), true);
    println!("{}", report.history);
    if report.violation.is_some() {
        panic!("{}", fails(seed));
    }
}

#[test]
#[ignore = "the long form"]
fn many_seeds() {
    let (first, seeds) = (
        from_environment("SIMULATION_FIRST", 0),
        from_environment("SIMULATION_SEEDS", 20_000),
    );
    let threads = std::thread::available_parallelism().map_or(1, |number| number.get() as u64);
    let began = std::time::Instant::now();
    let parts: Vec<Figures> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let seeds = (first + thread..first + seeds).step_by(usize::try_from(threads).unwrap());
                scope.spawn(move || tries(seeds))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    let statements: u64 = parts.iter().map(|part| part.statements).sum();
    println!("{seeds} seeds in {seconds:.1} s, {statements} statements");
    for kind in Kind::all() {
        let of_kind = parts.iter().filter_map(|part| part.met.get(&kind));
        let (histories, times) = of_kind.fold((0, 0), |sum, met| (sum.0 + met.0, sum.1 + met.1));
        println!("{kind:?}: {histories} histories, {times} times");
    }
    let mut failures: Vec<u64> = parts.into_iter().flat_map(|part| part.failures).collect();
    failures.sort_unstable();
    println!("{} failures", failures.len());
    let mut by_name: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for seed in failures.iter().take(5000) {
        if let Some(violation) = run(&Scenario::of(*seed), false).violation {
            by_name.entry(violation.name).or_default().push(*seed);
        }
    }
    for (name, seeds) in &by_name {
        println!(
            "{name}: {} seeds, {:?}",
            seeds.len(),
            &seeds[..seeds.len().min(8)]
        );
    }
    let first_of_each: Vec<String> = by_name.values().map(|seeds| fails(seeds[0])).collect();
    assert!(first_of_each.is_empty(), "{}", first_of_each.join("\n\n"));
}

/// Explores every order of events, with one fault of each kind.
fn explores(beginning: u64) {
    let mut states = 0;
    for once in ALL {
        let found = explore(once, beginning);
        println!("{once:?}: {} states", found.states);
        if let Some((name, way)) = found.violation {
            panic!("{once:?}: {name}\n{}", way.join("\n"));
        }
        states += found.states;
    }
    println!("{states} states");
}

#[test]
fn no_order_of_events_violates_anything() {
    explores(0);
}

#[test]
#[ignore = "the long form, in which waiters come later, too"]
fn no_order_of_events_violates_anything_in_full() {
    explores(500);
}
