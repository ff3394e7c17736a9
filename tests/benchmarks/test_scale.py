"""docs/scale.md says what was measured, and the simulation behind it does what queues do."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scale_page
from benchmarks.scale_simulation import Database, Load, Simulation, expected_renewals, measured_database

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
OPERATIONS = ("acquire", "refused", "renew", "release")


def database(milliseconds: float, workers: int = 1) -> Database:
    return Database(dict.fromkeys(OPERATIONS, milliseconds / 1e3), workers)


def load(postings_a_second: float, **settings: float) -> Load:
    return Load(postings_a_day=postings_a_second * 86_400, peak=1, **settings)


def test_the_page_says_what_was_measured() -> None:
    figures = json.loads(scale_page.FIGURES.read_text())
    page = scale_page.PAGE.read_text("utf-8")

    assert scale_page.with_figures(page, figures) == page
    assert {name for _, name, _ in scale_page.BLOCK.findall(page)} == set(scale_page.BLOCKS)


def test_a_stale_figure_is_noticed() -> None:
    figures = json.loads(scale_page.FIGURES.read_text())
    page = scale_page.PAGE.read_text("utf-8")
    assert scale_page.operations(figures) in page

    figures["stores"]["redis"]["operations"]["acquire"]["sent"] *= 1.1

    assert scale_page.operations(figures) not in page


def test_the_measurement_works(tmp_path: Path) -> None:
    figures = tmp_path / "scale.json"
    command = [sys.executable, str(BENCHMARKS / "scale.py"), "--quick", "--json", str(figures)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=110)

    stores = json.loads(figures.read_text())["stores"]
    for store in ("postgresql", "redis"):
        for name in OPERATIONS:
            cost = stores[store]["operations"][name]
            # One round trip, and one that finds out who holds what was refused, since the log names the
            # holder. PostgreSQL plans anew every few seconds.
            round_trips = 2 if name == "refused" else 1
            assert round_trips <= cost["requests"] < round_trips + 0.1
            assert cost["sent"] > 0
            assert cost["received"] > 0
    assert stores["sqlite"]["operations"]["refused"]["requests"] == 0  # who only looks writes nothing
    assert stores["sqlite"]["operations"]["acquire"]["requests"] == 1
    assert (
        stores["postgresql"]["operations"]["at_once"]["requests"] < 0.2
    )  # a hundred callers share statements
    for of_store in stores.values():
        assert of_store["operations"]["refused"]["written"] == pytest.approx(0, abs=50)
        assert 0 < of_store["bytes_a_lock"] < 2_000
        assert all(rate > 0 for rate in of_store["pairs_a_second"].values())


# --- the simulation ---


def test_a_queue_is_as_long_as_theory_says() -> None:
    # One worker, operations at random, each of 1 ms on average: a wait of s / (1 - u) for M/M/1.
    asked = load(250, contenders=1, hold=2, ttl=600)
    outcome = Simulation(database(1), asked).run(120)

    assert outcome.utilisation == pytest.approx(0.5, rel=0.05)
    assert statistics.fmean(outcome.latencies) == pytest.approx(0.002, rel=0.15)


def test_the_simulation_confirms_the_arithmetic() -> None:
    asked = load(100, contenders=3.5, hold=6, ttl=9)
    server = database(2, workers=4)
    outcome = Simulation(server, asked).run(60)

    assert outcome.utilisation == pytest.approx(server.utilisation(asked), rel=0.05)
    postings = outcome.operations["acquire"]
    for name, times in asked.operations_a_posting().items():
        assert outcome.operations[name] / postings == pytest.approx(times, rel=0.1, abs=0.02), name
    assert outcome.most_held == pytest.approx(100 * 6, rel=0.15)
    assert outcome.lost == 0


def test_a_database_that_is_overrun_falls_behind() -> None:
    asked = load(100, contenders=2, hold=1)
    server = database(5)
    outcome = Simulation(server, asked).run(10)

    assert server.utilisation(asked) == pytest.approx(1.5)
    assert outcome.longest_queue > 500


@pytest.mark.parametrize(("outage", "lost"), [(10, False), (40, True)])
def test_an_outage_costs_leases_when_it_is_longer_than_what_is_left_of_them(
    outage: float, lost: bool
) -> None:
    asked = load(5, contenders=1, hold=60, ttl=30)
    outcome = Simulation(database(1), asked).run(outage + 120, (20, outage))

    assert (outcome.lost > 0) is lost
    assert outcome.latency(1) == pytest.approx(outage, rel=0.1)


def test_renewals_are_counted_at_the_thirds_of_the_time() -> None:
    assert expected_renewals(hold=10, interval=20) == 0
    assert expected_renewals(hold=20, interval=20) == pytest.approx(0.5, abs=0.01)
    assert expected_renewals(hold=100, interval=1) == pytest.approx(99.5, abs=0.1)


def test_a_database_is_simulated_with_what_was_measured() -> None:
    figures = json.loads(scale_page.FIGURES.read_text())

    assert measured_database(figures, "redis").workers == 1
    assert measured_database(figures, "postgresql", 8).workers == 8
    assert measured_database(figures, "postgresql").seconds["renew"] > 0
    assert measured_database(figures, "sqlite").seconds["acquire"] > 0
