"""How the tests run: in parallel, those that measure alone after the others, and without leaving a process.

A run has twice as many workers as the machine has cores, since tests mostly wait; a single file runs without
any. All tests of a file run in one worker. With a number in the variable `ARBITRAGEAI_TEST_ORDER` the files,
and the tests of each, run in a random order, which that number gives again.

What a failed test leaves behind, leases that it held and coroutines that it never awaited for instance, is
collected right after it without a word: the failure is reported once, and not again in a later test.

A worker that dies is not started again: the test that ended it would end the next one, too. A test that
measures time or the processor is marked `serial`: it comes last, and no other test runs at the same time, in
any worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import itertools
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SECONDS_TO_END = 5.0

ORDER = "ARBITRAGEAI_TEST_ORDER"

# What takes longest begins first, so that no worker is at work long after the others.
LONGEST = (
    "packaging/test_runner.py",
    "docs/test_blocks_run.py",
    "demo/test_terminal.py",
    "docs/test_types.py",
    "packaging/test_types.py",
    "demo/test_run.py",
    "locks/test_processes.py",
    "drop_in/test_install.py",
    "docs/test_example_arbitrage_app.py",
    "docs/test_site.py",
    "operations/test_doctor.py",
    "packaging/test_packaging.py",
)

# In the environment of all that this run starts; and the file whose lock is the right to run.
_RUN = "ARBITRAGEAI_TEST_RUN"

_FAILED = pytest.StashKey[bool]()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    paths = {Path(argument.partition("::")[0]) for argument in config.args}
    workers = 2 * (os.cpu_count() or 1)
    if all(path.is_file() for path in paths):
        return min(len(paths), workers) if len(paths) > 1 else 0
    return workers


def pytest_configure(config: pytest.Config) -> None:
    # Every worker, and hundreds of processes that tests start, would compile the same modules again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell's background job inherits this, and so would the processes that tests press Ctrl-C in.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if is_worker(config):
        # Workers find a terminal's size here, which is none of what tests start on terminals of their own.
        for name in ("COLUMNS", "LINES"):
            os.environ.pop(name, None)
    else:
        file, path = tempfile.mkstemp(prefix="arbitrageai-tests-")
        os.close(file)
        os.environ[_RUN] = path
        config.add_cleanup(lambda: Path(path).unlink())


def is_worker(config: pytest.Config) -> bool:
    """Whether this process runs a part of the tests."""
    return hasattr(config, "workerinput")


def pytest_report_header() -> str | None:
    return f"random order: {ORDER}={os.environ[ORDER]}" if ORDER in os.environ else None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    if ORDER in os.environ:
        shuffle(items, os.environ[ORDER])
    yield  # meanwhile pytest brings together the tests that share a costly fixture
    items.sort(key=lambda item: (is_serial(item), not str(item.path).endswith(LONGEST)))


def pytest_collection_finish() -> None:
    # The modules and the tests live until the end: no collection of garbage has to look at them again.
    gc.collect()
    gc.freeze()


def shuffle(items: list[pytest.Item], seed: str) -> None:
    """Put the files, and the tests of each, in an order that depends on the seed alone."""
    chance = random.Random(seed)
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    shuffled = list(files.values())
    chance.shuffle(shuffled)
    for tests in shuffled:
        chance.shuffle(tests)
    items[:] = itertools.chain.from_iterable(shuffled)


def is_serial(item: pytest.Item) -> bool:
    """Whether the test runs alone."""
    return item.get_closest_marker("serial") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # Bytes of one file: to wait for the second, one needs the first. So a serial test that waits until the
    # others have ended lets none begin. The system takes the locks back from a worker that dies.
    with Path(os.environ[_RUN]).open("r+b") as file:
        how = fcntl.LOCK_EX if is_serial(item) else fcntl.LOCK_SH
        fcntl.lockf(file, how, 1, 0)
        fcntl.lockf(file, how, 1, 1)
        fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
        result = yield
        if item.stash.get(_FAILED, False):
            collect_what_is_left()
        return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    item.stash[_FAILED] = report.failed or item.stash.get(_FAILED, False)
    return report


def collect_what_is_left() -> None:
    """Collect what only the traceback of a failed test held, and drop the warnings of that."""
    for name in ("last_exc", "last_value", "last_type", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)  # pytest keeps the last failure here, for debuggers
    reported, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = reported


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    gc.unfreeze()  # what plugins load for the summary may ask who refers to an object
    yield
    if is_worker(session.config):
        return
    deadline = time.monotonic() + SECONDS_TO_END
    while (left := processes_left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for process, command in left.items():
        if reporter is not None:
            reporter.write_line(f"left behind, and ended now: process {process}, {command}", red=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def processes_left() -> dict[int, str]:
    """Return the processes that this run has started and that still run, with their commands."""
    wanted = f"{_RUN}={os.environ[_RUN]}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        process = int(folder.name)
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
            is_ours = int(parent) == os.getpid() or wanted in (folder / "environ").read_bytes().split(b"\0")
            if is_ours and process != os.getpid() and state != "Z":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[process] = command.decode(errors="replace").strip()
    return found
