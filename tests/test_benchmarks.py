"""The benchmarks' harness, in its short form: it has to go on working."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.axes.axis import Column, Subject
from benchmarks.results import Measured, Results, Series
from benchmarks.targets import judge

ROOT = Path(__file__).parent.parent


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_quick_run_prints_tables_and_writes_figures(tmp_path):
    figures = tmp_path / "figures.json"

    ended = run("run", "bridge", "--quick", "--loops", "asyncio", "--json", figures)

    assert ended.returncode == 0, ended.stderr
    assert "stock bridge" in ended.stdout
    written = json.loads(figures.read_text())
    (axis,) = written["axes"]
    assert {series["subject"]["name"] for series in axis["series"]} >= {"this bridge", "stock bridge"}
    assert all(series["rounds"][0]["cpu_us"] > 0 for series in axis["series"])
    assert written["about"]["commit"]
    assert "| asyncio | this bridge |" in run("report", figures, "--markdown").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nothing"], "there is no axis 'nothing'"),
        (["run", "alone", "--peers", "nobody"], "there is no peer 'nobody'"),
        (["run", "bridge", "--loops", "trio"], "there is no event loop 'trio'"),
        (["report", "missing.json"], "there is no missing.json"),
    ],
)
def test_a_run_that_cannot_start_says_why_in_one_line(arguments, said):
    ended = run(*arguments)

    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def series(name: str, loop: str, *costs: float) -> Series:
    return Series(Subject(name, loop), [{"cpu_us": cost} for cost in costs])


def test_ratios_compare_figures_of_the_same_round():
    # A slow second round is slow for both: the ratio doesn't see it.
    ours, theirs = series("ours", "asyncio", 1, 10), series("theirs", "asyncio", 3, 30)

    assert theirs.ratios(ours, "cpu_us") == [3, 3]


def test_a_missed_target_is_reported_with_its_figure():
    measured = Measured(
        "bridge",
        "",
        [Column("cpu_us", "CPU µs")],
        "cpu_us",
        "this bridge",
        [series("this bridge", "asyncio", 2), series("stock bridge", "asyncio", 10)],
    )

    (verdict,) = judge(Results({}, [measured]))

    assert not verdict.met
    assert (verdict.measured, verdict.bound) == ("1/5.0", "≤ 1/6.0")
