"""The soak, in its short form; and that it would notice what it is there to notice."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soaking.samples import Sample, read
from benchmarks.soaking.verdict import Ending, Line, judge

ROOT = Path(__file__).parents[2]
CALM = Ending(0, 0, {"SQLite": 0, "PostgreSQL": 0})


def test_seconds_of_everything_at_once_leave_nothing_behind(tmp_path):
    samples = tmp_path / "samples.csv"

    ended = subprocess.run(
        [
            sys.executable,
            "benchmarks/soak.py",
            *["--minutes", "0.3", "--in-flight", "60", "--no-chart", "--csv"],
            samples,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not ended.stderr
    assert "missed" not in ended.stdout
    taken = read(samples)
    assert len(taken) > 10
    assert max(sample.native_calls for sample in taken) > 10
    assert max(sample.sqlite_rows + sample.postgresql_rows for sample in taken) > 0


def half_an_hour(grows: str = "", by: float = 0.0) -> list[Sample]:
    """Samples of a process that stays as it is, but for one figure."""
    chance = random.Random(7)
    calm = Sample(0, 90_000, 60_000, 100, 8, 50, 60, 5, 5, 0, 0)
    samples = []
    for second in range(1800):
        sample = replace(
            calm,
            seconds=second,
            resident_kb=90_000 + chance.randrange(-50, 50),
            circuit_open=second % 2,
        )
        if grows:
            sample = replace(sample, **{grows: int(getattr(sample, grows) + by * second)})
        samples.append(sample)
    return samples


class Everything(dict[tuple[str, str], int]):
    """Whatever has to happen has happened."""

    def get(self, key, default=None):
        return 1


EVERYTHING = Everything()


def missed(samples, ending=CALM, outcomes=EVERYTHING, faults=()) -> list[str]:
    checks = judge(samples, ending, outcomes, dict(faults))
    return [check.what for check in checks if check.met is False]


def test_a_process_that_stays_as_it_is_passes():
    assert missed(half_an_hour()) == []


@pytest.mark.parametrize(
    ("column", "each_second", "named"),
    [
        ("resident_kb", 2 * 1024 / 3600, "slope of resident memory"),
        ("descriptors", 0.02, "descriptors"),
        ("threads", 0.002, "threads"),
    ],
)
def test_growth_is_missed_and_named(column, each_second, named):
    (what,) = missed(half_an_hour(column, each_second))

    assert what.startswith(named)


def test_warming_up_in_the_first_sixth_is_no_growth():
    samples = half_an_hour()
    cold = [replace(sample, resident_kb=30_000, descriptors=10, threads=2) for sample in samples[:290]]

    assert missed(cold + samples[290:]) == []


def test_memory_is_not_judged_in_a_short_run():
    assert missed(half_an_hour("resident_kb", 10)[:1700]) == []


def test_what_is_left_at_the_end_is_missed():
    assert missed(half_an_hour(), Ending(1, 2, {"SQLite": 3})) == [
        "requests under way at the end",
        "native calls under way at the end",
        "rows left in SQLite",
    ]


def test_an_unexpected_failure_and_a_fault_that_never_came_are_missed():
    assert missed(half_an_hour(), faults={"lock, plain: KeyError": 1}) == ["what should not happen"]
    assert "what has to happen and did not" in missed(half_an_hour(), outcomes={})


def test_the_standard_error_covers_the_slope_that_is_there():
    chance = random.Random(3)
    hours = [second / 3600 for second in range(1500)]
    wave = 0.0
    megabytes = []
    for hour in hours:  # noise with a memory of its own, as an allocator's is
        wave = 0.9 * wave + chance.gauss(0, 0.05)
        megabytes.append(80 + 0.7 * hour + wave)

    line = Line.through(hours, megabytes)

    assert abs(line.slope - 0.7) < 3 * line.slope_error
    assert line.slope_error < 0.5
